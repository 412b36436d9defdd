import json
import types

from hangwatch import investigate as module
from hangwatch.investigate import investigate, judge
from hangwatch.records import Incident, from_json, to_json
from tests.cases import NOW, S, Scene, blocked_case


def incident(scene, subject="", **fields):
    case = scene.case(subject)
    return investigate(case.stall, case.snapshot, earlier=case.earlier, **{"service": "shop", "host": "a", "opened_at": 1.8e9, **fields})


def leak(waiters=200):
    scene = Scene()
    pool = scene.primitive("pool", "asyncpg pool", capacity=1, in_use=1, ready=False)
    for _ in range(waiters):
        scene.request("GET", "/latest", ["app.py:latest:33", "asyncpg/pool.py:Pool._acquire", "asyncio/queues.py:get"], pool)
    return scene


def test_one_leak_that_parks_two_hundred_is_one_finding_with_their_number():
    found = incident(leak())
    assert found.findings[0].cause == "pool-exhausted"
    assert found.findings[0].frees == 200
    assert "200 requests" in found.findings[0].title


def test_the_root_comes_before_the_symptom():
    scene = Scene()
    pool, client = scene.primitive("pool", capacity=1, in_use=1), scene.primitive("client", "10.0.0.9:1")
    scene.request("GET", "/export", ["app.py:rows:22"], client, [pool])
    stuck = scene.request("GET", "/latest", ["app.py:latest:33"], pool)
    assert [finding.cause for finding in incident(scene, stuck).findings] == ["slow-client", "pool-exhausted"]


def test_of_two_hangs_at_once_each_is_told_with_its_own_cause():
    scene = Scene()
    peer, pool = scene.primitive("peer", "auth:443"), scene.primitive("pool", capacity=1, in_use=1, ready=False)
    asks = scene.request("GET", "/a", ["app.py:refresh:1"], peer)
    wants = [scene.request("GET", "/b", ["app.py:latest:1"], pool) for _ in range(3)]
    assert [finding.cause for finding in incident(scene, asks).findings] == ["silent-peer", "pool-exhausted"]
    assert [finding.cause for finding in incident(scene, wants[1]).findings] == ["pool-exhausted", "silent-peer"]


def test_a_chain_of_holders_ends_at_the_peer():
    scene = Scene()
    peer, outer, inner = scene.primitive("peer", "auth:443"), scene.lock("outer"), scene.lock("inner")
    scene.request("GET", "/a", ["app.py:refresh:1"], peer, [inner])
    scene.request("GET", "/b", ["app.py:b:1"], inner, [outer])
    stuck = scene.request("GET", "/c", ["app.py:c:1"], outer)
    found = incident(scene, stuck).findings
    assert found[0].cause == "silent-peer"
    assert {finding.cause for finding in found[1:]} == {"holder-stuck"}


def test_the_fingerprint_is_the_same_in_another_process_and_on_another_host():
    first, second = leak(), Scene()
    for _ in range(7):
        second.lock()
    pool = second.primitive("pool", "asyncpg pool", capacity=1, in_use=1, ready=False)
    second.request("GET", "/latest", ["app.py:latest:99", "asyncpg/pool.py:Pool._acquire", "asyncio/queues.py:get:5"], pool)
    assert incident(first).fingerprint == incident(second, host="b", opened_at=1.9e9).fingerprint


def test_another_place_is_another_fingerprint():
    other = Scene()
    pool = other.primitive("pool", capacity=1, in_use=1, ready=False)
    other.request("GET", "/other", ["app.py:other:1"], pool)
    assert incident(leak(1)).fingerprint != incident(other).fingerprint


def test_ids_sort_by_time_and_differ():
    scene = leak(1)
    ids = [incident(scene, opened_at=1.8e9 + n).id for n in range(3)]
    assert ids == sorted(ids)
    assert incident(scene).id != incident(scene).id


def test_an_incident_can_be_written_and_read_back():
    found = incident(leak(3))
    assert from_json(Incident, json.loads(json.dumps(to_json(found)))) == found


def test_what_nobody_knows_is_told_as_unknown_with_all_that_was_seen():
    scene = Scene()
    scene.request("GET", "/odd", ["app.py:odd:7"], scene.primitive("file", "/var/lock"))
    (finding,) = incident(scene).findings
    assert (finding.cause, finding.confidence) == ("unknown", "suspected")
    assert finding.culprit[0].function == "odd"


def test_the_same_at_the_same_place_is_told_once():
    scene = Scene()
    for _ in range(5):
        scene.request("GET", "/a", ["app.py:a:7"], scene.primitive("future", setters=()))
    (finding,) = incident(scene).findings
    assert finding.title.endswith("(5 times, at the same place)")
    assert finding.frees == 5


def test_patience_is_no_finding_above_suspected():
    scene = Scene()
    scene.request(
        "GET", "/poll", ["app.py:poll:7", "asyncio/queues.py:get"], scene.primitive("queue-get", setters=()), deadline_ns=NOW + 48 * S
    )
    scene.request("GET", "/stream", ["app.py:stream:9"], scene.primitive("event", setters=()), phase="responding")
    assert {finding.confidence for finding in incident(scene).findings} == {"suspected"}


def test_a_rule_that_fails_costs_nobody_elses_finding(monkeypatch):
    def fail(case):
        raise RuntimeError("oops")

    broken = types.ModuleType("hangwatch.rules.broken")
    broken.check = fail
    monkeypatch.setattr(module, "RULES", (broken, *module.RULES))
    found = incident(leak(1))
    assert found.findings[0].cause == "pool-exhausted"
    assert "The rule broken failed: RuntimeError: oops" in found.snapshot.gaps


def test_a_loop_that_stands_still_is_told_before_the_peer_that_its_lock_waits_for():
    scene = Scene()
    lock, peer = scene.primitive("thread-lock", "threading.RLock", ready=False), scene.primitive("peer", "10.0.0.9:25")
    scene.thread("mailer", ["app.py:mail:17", "socket.py:SocketIO.readinto"], peer, [lock])
    scene.request("GET", "/cart", ["app.py:cart:23"], state="running")
    scene.loop_thread(["asyncio/base_events.py:_run_once", "app.py:cart:23", "threading.py:acquire"], lock)
    findings, _ = judge(blocked_case(scene))
    assert findings[0].cause == "blocked-loop-lock"
    assert "silent-peer" in {finding.cause for finding in findings[1:]}
