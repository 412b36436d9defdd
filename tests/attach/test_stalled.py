"""What two looks from outside call a stall, and what they do not. Records by hand: every case is one difference."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hangwatch.attach.stalled import stall_between
from hangwatch.records import FOREVER, SCHEMA, Frame, Loop, Primitive, Request, Snapshot, Task, Thread, Wait

APP = Frame("/app/main.py", 5, "pay")
RUN = Frame("/usr/lib/python3.12/asyncio/base_events.py", 1986, "BaseEventLoop._run_once")
SELECT = Frame("/usr/lib/python3.12/selectors.py", 468, "EpollSelector.select")


def look(at_ns, *, task=None, loop=None, thread=(RUN, SELECT), lock=None, phase="app"):
    return Snapshot(
        SCHEMA, 0.0, at_ns, 7, "attach",
        loops=(loop or Loop("loop:1", "asyncio", "thread:7", asleep=True),),
        tasks=(task or Task("task:1", "Task-9", "loop:1", "parked", (APP,), "lock:1"),),
        threads=(Thread("thread:7", "MainThread", 7, thread, is_loop=True),),
        primitives=(lock or Primitive("lock:1", "lock", "asyncio.Lock", "asyncio", ready=False),),
        waits=(Wait("task:1", "lock:1", "acquire"),),
        requests=(Request("request:1", None, "task:1", "GET", "/pay", None, phase),),
    )  # fmt: skip


def told(**changes):
    stall = stall_between(look(1), look(301, **changes))
    return stall and (stall.kind, stall.subject_id, stall.since_ns, stall.limit_ns)


def test_a_request_that_did_not_move():
    assert told() == ("request", "request:1", 1, 300)


@pytest.mark.parametrize("changed", [{"frames": (replace(APP, line=6),)}, {"waits_on": None}])
def test_a_request_that_moved_is_none(changed):
    task = replace(look(1).tasks[0], **changed)
    assert told(task=task) is None


SHUTDOWN = (Frame("/x/uvicorn/server.py", 279, "Server.shutdown"), Frame("/x/uvicorn/server.py", 301, "Server._wait_tasks_to_complete"))


@pytest.mark.parametrize("now", ["server-close:1", None], ids=["asks again", "between two rounds"])
def test_a_server_that_asks_whether_its_connections_are_closed(now):
    def stopping(at_ns, waits_on):
        seen = look(at_ns)
        return replace(seen, tasks=(*seen.tasks, Task("task:2", "Task-1", "loop:1", "parked", SHUTDOWN, waits_on)))

    stall = stall_between(stopping(1, "server-close:1"), stopping(301, now))
    assert stall is not None and (stall.kind, stall.subject_id) == ("shutdown", "task:2")


def test_a_request_in_another_phase_moved():
    stall = stall_between(look(1), look(301, phase="responding"))
    assert stall is not None and stall.kind == "task"  # its task still stands where it stood


@pytest.mark.parametrize(
    "lock",
    [
        Primitive("lock:1", "timer", "asyncio.sleep", "asyncio", ready=False),
        Primitive("lock:1", "queue-get", "an idle consumer", "asyncio", ready=False, patience_ns=FOREVER),
        Primitive("lock:1", "disconnect", "the client to leave", "uvicorn", ready=False),
    ],
)
def test_who_may_wait_for_ever_is_left_alone(lock):
    before = replace(look(1), primitives=(lock,))
    assert stall_between(before, replace(look(301), primitives=(lock,))) is None


def test_patience_ends_when_what_is_waited_for_is_there():
    lock = Primitive("lock:1", "queue-get", "a consumer", "asyncio", ready=True, patience_ns=FOREVER)
    assert stall_between(replace(look(1), primitives=(lock,)), replace(look(301), primitives=(lock,))) is not None


def test_a_wait_under_a_deadline_that_has_not_passed():
    early, late = (replace(look(301), waits=(Wait("task:1", "lock:1", "acquire", deadline_ns=when),)) for when in (300, 302))
    assert stall_between(look(1), early) is not None
    assert stall_between(look(1), late) is None


def blocked(at_ns, *inner, running="task:1", asleep=False):
    loop = Loop("loop:1", "asyncio", "thread:7", running_task_id=running, asleep=asleep)
    task = Task("task:1", "Task-9", "loop:1", "running", (APP,))
    return look(at_ns, loop=loop, task=task, thread=(RUN, *inner))


HANDLE = Frame("/usr/lib/python3.12/asyncio/events.py", 84, "Handle._run")


def test_a_loop_that_stays_in_one_callback():
    stall = stall_between(blocked(1, HANDLE, APP), blocked(301, HANDLE, replace(APP, line=99)))
    assert stall is not None and (stall.kind, stall.subject_id) == ("loop", "loop:1")


@pytest.mark.parametrize(
    "later",
    [
        blocked(301, HANDLE, APP, asleep=True),
        blocked(301, HANDLE, Frame("/app/other.py", 1, "other")),
        blocked(301, HANDLE, APP, running="task:2"),
        blocked(301, SELECT),
    ],
    ids=["asleep", "another callback", "another task", "on its way out of the selector"],
)
def test_a_loop_that_went_on(later):
    assert getattr(stall_between(blocked(1, HANDLE, APP), later), "kind", None) != "loop"


def test_a_loop_known_to_have_turned_is_not_blocked():
    looks = blocked(1, HANDLE, APP), blocked(301, HANDLE, APP)
    assert getattr(stall_between(*looks, turned=frozenset({"loop:1"})), "kind", None) != "loop"


def test_a_loop_that_waits_for_the_gil_all_the_time():
    looks = blocked(1, SELECT, running=None), blocked(301, SELECT, running=None)
    assert getattr(stall_between(*looks), "kind", None) != "loop"
    assert stall_between(*looks, gil_kept=True).kind == "loop"


def test_a_start_that_stands_still_comes_first():
    starting = Task("task:1", "Task-1", "loop:1", "parked", (Frame("/x/uvicorn/server.py", 80, "Server.startup"),), "lock:1")
    stall = stall_between(look(1, task=starting), look(301, task=starting))
    assert stall is not None and (stall.kind, stall.subject_id) == ("startup", "task:1")


def pooled(**fields):
    settings = {"ready": False, "capacity": 2, "in_use": 2, "state": {"out with the living": 0}, **fields}
    pool = Primitive("lock:1", "pool", "QueuePool(2)", "sqlalchemy", **settings)
    wait = Wait("task:1", "lock:1", "get", deadline_ns=10**12)
    before, now = (replace(look(at), primitives=(pool,), waits=(wait,)) for at in (1, 301))
    return stall_between(before, now)


def test_a_time_limit_does_not_excuse_a_pool_that_nobody_alive_has():
    assert pooled() is not None


def test_twin_a_pool_that_is_in_use_will_come_back_within_the_limit():
    assert pooled(state={"out with the living": 2}) is None


@pytest.mark.parametrize(("attempts", "stuck"), [(1, False), (9, True)])
def test_a_sleep_between_attempts_is_healthy_until_many_have_failed(attempts, stuck):
    timer = Primitive("lock:1", "timer", "the next attempt", "tenacity", {"attempts": attempts}, ready=False)
    before, now = (replace(look(at), primitives=(timer,)) for at in (1, 301))
    assert (stall_between(before, now) is not None) is stuck
    elsewhere = replace(before, tasks=(replace(before.tasks[0], frames=(APP, RUN)),))  # it tried once more between the looks
    assert (stall_between(elsewhere, now) is not None) is stuck
