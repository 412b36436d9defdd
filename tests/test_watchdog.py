"""What stalls is noticed, told once and told to be over: real services; pure arithmetic with the time as an argument."""

from __future__ import annotations

import signal
import sys
import time

import pytest

from hangwatch import orphans
from hangwatch.config import Config
from hangwatch.heartbeat import Pulse
from hangwatch.ledger import Follow, Ledger, LoopMark
from hangwatch.records import FOREVER
from hangwatch.store import Store
from hangwatch.watchdog import Alarm, Watchdog, tick_of
from tests.services import running, uvicorn

S = 1_000_000_000


def seconds(at_s: float) -> int:
    return int(at_s * S)


@pytest.mark.parametrize(
    ("settings", "tick_s"), [({}, 0.125), ({"stall_after": 0.2}, 0.05), ({"loop_after": 10}, 0.25), ({"routes": "/a=0.01"}, 0.02)]
)
def test_a_beat_is_a_quarter_of_the_shortest_limit(settings, tick_s):
    assert tick_of(Config.make({}, **settings)) == tick_s


def test_a_tick_of_the_server_is_a_sign_of_life():
    mark = LoopMark(object(), 1, 1, 0)
    pulse = Pulse(mark, 0)
    mark.beats += 1
    assert pulse.look(None, seconds(1))
    assert (pulse.seen_ns, pulse.settled) == (seconds(1), True)


def test_a_turn_that_does_not_end_is_a_stall_though_its_callbacks_move_on(tmp_path):
    with running(tmp_path, uvicorn("--loop", "asyncio")) as service:
        assert service.get("/crowd") is not None
        found = service.until(lambda found: any(one["stall"]["kind"] == "loop" and one["closed_at"] for one in found))
    (incident,) = [one for one in found if one["stall"]["kind"] == "loop"]
    assert incident["closed_at"] - incident["opened_at"] > 2


class Cycle:
    """As uvicorn's, as far as the watchdog looks."""

    message_event = None

    def __init__(self, path: str = "/", response_complete: bool = False) -> None:
        self.scope = {"path": path}
        self.response_complete = response_complete


@pytest.fixture
def told():
    return []


@pytest.fixture
def watchdog(told):
    config = Config.make({}, stall_after=10, routes="/long=60,/events=none", loop_after=0.5)
    return Watchdog(config, Ledger(), None, told.append, told.append)


def test_requests_stall_at_the_limit_of_their_route(watchdog, told):
    cycles = {path: Cycle(path) for path in ("/", "/long", "/events")}
    for cycle in cycles.values():
        watchdog.ledger.begun[cycle] = 0
    for at_s in (9.9, 10.1, 59, 60.1, 5000):
        watchdog._last_ns = 0
        watchdog.tick(seconds(at_s))
    assert [(alarm.stall.since_ns, alarm.stall.limit_ns, alarm.follows[0].subject) for alarm in told] == [
        (0, seconds(10), cycles["/"]),
        (0, seconds(60), cycles["/long"]),
    ]


def test_many_that_stall_at_once_are_one_alarm(watchdog, told):
    for number in range(5000):
        watchdog.ledger.begun[Cycle()] = number
    watchdog.tick(seconds(11))
    (alarm,) = told
    assert len(alarm.follows) == 5000
    assert alarm.stall.since_ns == 0


def test_what_was_answered_is_no_stall_unless_another_request_waits_behind_it(watchdog, told):
    cycle = Cycle(response_complete=True)
    watchdog.ledger.begun[cycle] = 0
    watchdog.tick(seconds(11))
    assert told == []

    class Protocol:
        loop = None
        pipeline = ("a request",)

        def on_response(self):
            pass

    cycle.on_response = Protocol().on_response
    watchdog._last_ns = 0
    watchdog.tick(seconds(20))
    assert [alarm.stall.kind for alarm in told] == ["request"]


def test_start_up_is_told_at_its_limit_and_its_end(watchdog, told):
    mark = watchdog.ledger.loops[1] = LoopMark(object(), 0, 0, 0)
    mark.phase, mark.phase_task_id = ("startup", 0), "task:1"
    for at_s in (59, 60.1, 61):
        watchdog._last_ns = 0
        watchdog.tick(seconds(at_s))
    assert [(alarm.stall.kind, alarm.stall.subject_id) for alarm in told] == [("startup", "task:1")]
    mark.phase = None
    watchdog.tick(seconds(62))
    assert told[1:] == ["task:1"]


def test_a_loop_that_has_not_got_through_its_first_turn_is_starting(watchdog):
    pulse = Pulse(LoopMark(object(), 0, 0, 0), 0)
    assert watchdog._loop_limit_ns(pulse, 1) == seconds(60)
    pulse.settled = True
    assert watchdog._loop_limit_ns(pulse, 1) == 1
    never = Watchdog(Config.make({}, startup_after=None), Ledger(), None, print, print)
    assert never._loop_limit_ns(Pulse(pulse.mark, 0), 1) == FOREVER


def test_a_fault_in_a_tick_is_counted_and_the_next_tick_comes(told):
    watchdog = Watchdog(Config.make({}, stall_after=0.08), Ledger(), None, told.append, told.append, each_tick=lambda now_ns: 1 // 0)
    watchdog.start()
    time.sleep(0.3)
    watchdog.stop()
    assert not watchdog._thread.is_alive()
    assert watchdog.faults["ZeroDivisionError: integer division or modulo by zero"] >= 2


def test_an_alarm_owns_its_lists():
    assert Alarm.__dataclass_fields__["follows"].default_factory is list
    assert Follow(None, "request:1", 0, None).ended_ns is None


LOOPS = ["asyncio", *(["uvloop"] if sys.version_info < (3, 15) else [])]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_a_parked_request_is_one_incident_and_is_over_when_it_ends(tmp_path, loop, http):
    with running(tmp_path, uvicorn("--loop", loop, "--http", http)) as service:
        parked = [service.open("/park") for _ in range(20)]
        (incident,) = service.until(lambda found: bool(found) and found[0]["count"] == 20)
        assert incident["stall"]["kind"] == "request"
        assert incident["closed_at"] is None
        stalled = [request for request in incident["snapshot"]["requests"] if request["route"] == "/park"]
        assert len(stalled) == 20
        assert all(request["task_id"] and request["connection_id"] and request["method"] == "GET" for request in stalled)
        assert service.get("/release") is not None
        (over,) = service.until(lambda found: bool(found) and found[0]["closed_at"] is not None)
        assert over["id"] == incident["id"]
        for connection in parked:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_blocked_loop_is_told_while_it_lasts_and_over_when_it_is(tmp_path, loop):
    with running(tmp_path, uvicorn("--loop", loop)) as service:
        assert service.get("/block") is not None
        (incident,) = service.until(lambda found: len(found) == 1 and found[0]["closed_at"] is not None)
    assert incident["stall"]["kind"] == "loop"
    assert incident["findings"][0]["cause"] == "blocked-loop-io"
    assert any(frame["function"].endswith("app") for frame in incident["findings"][0]["culprit"])
    lasted_s = incident["closed_at"] - incident["opened_at"]
    assert 1.2 < lasted_s < 3


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("held_s", "witnesses"), [("1.2", ["watchdog"]), ("8", ["watchdog", "faulthandler"])])
def test_native_code_that_keeps_the_gil_is_told_afterwards_with_the_stacks_of_that_time(tmp_path, loop, held_s, witnesses):
    with running(tmp_path, uvicorn("--loop", loop), HELD_S=held_s) as service:
        assert service.get("/gil") is not None
        (incident,) = service.until(lambda found: len(found) == 1 and found[0]["closed_at"] is not None)
    assert incident["stall"]["kind"] == "loop"
    assert incident["findings"][0]["cause"] == "gil-held"
    said = {evidence["tool"]: evidence for evidence in incident["evidence"]}
    assert said["watchdog"]["data"]["late_ms"] > 500
    if said["watchdog"]["data"]["over"]:
        # On a busy machine the loop may be back in its selector before the watchdog gets a CPU: then its stack tells nothing, and nobody is accused.
        witnesses = witnesses[1:]
    if not witnesses:
        assert incident["findings"][0]["culprit"] == []
        return
    # Or another of our threads got the GIL before the watchdog, and the loop went on by a call meanwhile.
    assert incident["findings"][0]["culprit"][0]["function"].endswith(("app", "answer"))
    for tool in witnesses:
        assert any(frame["function"] == "app" for thread in said[tool]["data"]["threads"] for frame in thread["frames"])


def test_stuck_start_up_and_shutdown(tmp_path):
    with running(tmp_path, uvicorn(), listens=False, STUCK_IN="lifespan.startup", HANGWATCH_STARTUP_AFTER="1") as service:
        (incident,) = service.until(lambda found: len(found) == 1)
        assert (incident["stall"]["kind"], incident["findings"][0]["cause"]) == ("startup", "stuck-startup")
    (tmp_path / "second").mkdir()
    with running(tmp_path / "second", uvicorn(), STUCK_IN="lifespan.shutdown", HANGWATCH_SHUTDOWN_AFTER="1") as service:
        service.process.send_signal(signal.SIGTERM)
        (incident,) = service.until(lambda found: len(found) == 1)
        assert (incident["stall"]["kind"], incident["findings"][0]["cause"]) == ("shutdown", "stuck-shutdown")


def test_a_slow_start_a_background_task_and_an_idle_service_are_silent(tmp_path):
    with running(tmp_path, uvicorn(), SLOW_START="1.5") as service:
        assert service.get("/background") == "ok"
        time.sleep(3)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) in (0, -signal.SIGTERM)
        # uvicorn ends itself by the signal: what it leaves behind is no incident either.
        orphans.finish(Store(service.spool))
        assert service.incidents() == []
        assert list((service.spool / "workers").iterdir()) == []


def test_a_process_that_was_stopped_did_not_hang(tmp_path):
    with running(tmp_path, uvicorn()) as service:
        service.get("/")
        time.sleep(1)
        service.process.send_signal(signal.SIGSTOP)
        time.sleep(2)
        service.process.send_signal(signal.SIGCONT)
        assert service.get("/") is not None
        time.sleep(1)
        assert service.incidents() == []


def test_a_killed_worker_leaves_what_an_incident_is_finished_from(tmp_path):
    with running(tmp_path, uvicorn(), HELD_S="60") as service:
        while not list(service.spool.glob("workers/*/worker.json")):
            time.sleep(0.05)
        hung = service.open("/gil")
        while not any(path.stat().st_size for path in service.spool.glob("workers/*/faulthandler.txt")):
            time.sleep(0.05)
        service.process.kill()
        service.process.wait()
        hung.close()
        (folder,) = (service.spool / "workers").iterdir()
        assert "app" in (folder / "faulthandler.txt").read_text()
        assert (folder / "worker.json").exists()
