import pytest

from hangwatch.rules import deadlock
from tests.cases import NOW, Scene, frame


def crossed():
    scene = Scene()
    alice, bob = scene.lock("alice's lock"), scene.lock("bob's lock")
    scene.request("POST", "/transfer/ab", ["app.py:transfer:27", "asyncio/locks.py:acquire"], bob, [(alice, "app.py:transfer:26")])
    scene.request("POST", "/transfer/ba", ["app.py:transfer:27", "asyncio/locks.py:acquire"], alice, [(bob, "app.py:transfer:26")])
    return scene


def test_two_locks_in_opposite_order():
    scene = crossed()
    scene.request("GET", "/balance", ["app.py:balance:40"], next(iter(scene.primitives)))
    (finding,) = deadlock.check(scene.case())
    assert finding.confidence == "proved"
    assert finding.title == (
        "Deadlock: POST /transfer/ab waits for bob's lock, which POST /transfer/ba must end, which waits for alice's lock, which POST /transfer/ab must end"
    )
    assert finding.culprit[0].function == "transfer"
    assert finding.frees == 3


def test_twin_one_order():
    scene = Scene()
    alice, bob = scene.lock("alice"), scene.lock("bob")
    scene.request("POST", "/ab", ["app.py:transfer"], bob, [alice])
    scene.request("POST", "/ab", ["app.py:transfer"], scene.primitive("timer"), [bob])
    assert list(deadlock.check(scene.case())) == []


def test_threads_and_tasks_and_tokens():
    scene = Scene()
    tokens = scene.primitive("limiter", "worker threads", capacity=2, in_use=2)
    for number in range(2):
        job, call = scene.primitive("job"), scene.primitive("job")
        scene.request("GET", "/quote", ["app.py:call_quote"], job)
        audit = scene.task("audit", ["app.py:audit:22"], tokens)
        scene.change(call, holders=(audit,))
        thread = scene.thread(f"worker {number}", ["app.py:quote:28"], call, [tokens])
        scene.change(job, holders=(thread,))
    (finding,) = deadlock.check(scene.case())
    assert finding.confidence == "proved"
    assert {frame.function for frame in finding.culprit} >= {"quote", "audit"}
    assert "pool of its own" in finding.advice


@pytest.mark.parametrize(("before", "found"), [("logging/__init__.py:Handler.release", 0), ("logging/__init__.py:Handler.acquire", 1)])
def test_a_thread_that_moves_is_in_no_deadlock(before, found):
    scene = Scene()
    lock = scene.primitive("thread-lock", "threading.Lock")
    thread = scene.thread("worker", ["app.py:work:3", before], lock, [lock])
    earlier = scene.snapshot(at_ns=NOW - 300_000_000)
    scene.change(thread, frames=tuple(map(frame, ["app.py:work:3", "logging/__init__.py:Handler.acquire"])))
    assert len(list(deadlock.check(scene.case(thread, earlier=earlier)))) == found


def test_a_holder_that_was_not_seen_makes_it_likely_only():
    scene = Scene()
    pool = scene.primitive("pool", capacity=3, in_use=3)
    for _ in range(2):
        scene.request("GET", "/a", ["app.py:nested"], pool, [pool])
    (finding,) = deadlock.check(scene.case())
    assert finding.confidence == "likely"
    assert any("Not every holder" in line for line in finding.because)


def test_tasks_that_await_each_other():
    scene = Scene()
    waits = [scene.primitive("task", f"task {n}") for n in range(3)]
    tasks = [scene.task(f"crumb-{n}", ["app.py:breadcrumb:16"], waits[n]) for n in range(3)]
    for n in range(3):
        scene.change(waits[n], holders=(tasks[(n + 1) % 3],))
    (finding,) = deadlock.check(scene.case(tasks[0], kind="task"))
    assert finding.title.count("which") == 5
    assert finding.culprit[0].function == "breadcrumb"


def test_the_next_request_of_the_connection_is_the_only_one_who_could_help():
    scene, parked = pipelined()
    (finding,) = deadlock.check(scene.case())
    assert finding.confidence == "likely"
    assert "POST /renders/1/done" in finding.title
    assert finding.culprit[0].function == "follow_render"
    assert parked in finding.subjects


def pipelined(setters=()):
    from hangwatch.records import Connection, Request

    scene = Scene()
    event = scene.primitive("event", "asyncio.Event", state={"set": False}, ready=False, setters=setters)
    scene.connections["connection:c"] = Connection("connection:c", "http/1.1", "10.0.0.9:50000", queued=1)
    scene.request(
        "POST",
        "/renders",
        ["starlette/background.py:__call__", "app.py:follow_render:30"],
        event,
        connection_id="connection:c",
        phase="background",
    )
    scene.requests["request:q"] = Request("request:q", "connection:c", None, "POST", "/renders/1/done", None, "queued")
    return scene, "request:q"


def test_twin_somebody_alive_could_set_it():
    scene, _ = pipelined(setters=("task:77",))
    assert list(deadlock.check(scene.case())) == []


def with_child(**state):
    scene = Scene()
    child = scene.primitive("process", "process 77", state={"pid": 77, **state})
    scene.request("POST", "/dump", ["app.py:dump:14", "asyncio/subprocess.py:wait"], child)
    return list(deadlock.check(scene.case()))


def test_a_child_whose_output_nobody_reads_cannot_end():
    (finding,) = with_child(**{"stdout unread": 131_072})
    assert finding.title == "POST /dump waits for process 77 to end, and it cannot: nobody reads its stdout, which is full"
    assert finding.culprit[0].function == "dump"
    assert "communicate()" in finding.advice


def test_twin_a_child_that_is_read_or_says_nothing():
    assert with_child() == []


def test_a_lock_taken_twice_by_one_task():
    scene = Scene()
    lock = scene.lock("asyncio.Lock journal")
    scene.request("POST", "/journal", ["app.py:append:17", "app.py:flush:22", "asyncio/locks.py:acquire"], lock, [lock])
    (finding,) = deadlock.check(scene.case())
    assert finding.title == "POST /journal waits for asyncio.Lock journal, which only itself could end"
    assert "a second time" in finding.advice
    assert finding.confidence == "proved"
