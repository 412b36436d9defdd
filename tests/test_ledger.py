"""The hot path's memory. Time is an argument; the acts are real ones of real locks."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import pytest

from hangwatch.config import Config
from hangwatch.integrations import asyncio_hooks
from hangwatch.ledger import Ledger
from hangwatch.patching import Patcher

S = 1_000_000_000


class Cycle:
    def __init__(self, name: str, limit_s: float | None = 10) -> None:
        self.name = name
        self.limit_ns = None if limit_s is None else int(limit_s * S)


def due(ledger: Ledger, now_s: float, least_s: float = 1) -> list[str]:
    found = ledger.due(int(now_s * S), int(least_s * S), lambda cycle: cycle.limit_ns, lambda cycle: f"request:{id(cycle):x}")
    return [follow.subject.name for follow in found]


def begin(ledger: Ledger, cycle: Cycle, at_s: float) -> Cycle:
    ledger.begun[cycle] = int(at_s * S)
    return cycle


def end(ledger: Ledger, cycle: Cycle) -> None:
    """As the hook does."""
    if ledger.begun.pop(cycle, None) is None:
        ledger.ended(cycle)


def test_each_request_is_due_once_at_its_own_limit_oldest_first():
    ledger = Ledger()
    for name, at_s, limit_s in (("slow", 0, 10), ("never", 1, None), ("quick", 2, 3), ("young", 9, 3)):
        begin(ledger, Cycle(name, limit_s), at_s)
    assert due(ledger, 4.9) == []
    assert due(ledger, 5) == ["quick"]
    assert due(ledger, 9.9) == []
    assert due(ledger, 20) == ["slow", "young"]
    assert due(ledger, 1000) == []


def test_a_request_younger_than_any_limit_is_not_looked_at():
    ledger = Ledger()
    begin(ledger, Cycle("young", 0), 100)
    assert due(ledger, 100.5) == []
    assert len(ledger.begun) == 1 and not ledger.followed


def test_what_ends_is_forgotten_wherever_it_is():
    ledger = Ledger()
    young, old = begin(ledger, Cycle("young"), 100), begin(ledger, Cycle("old"), 101)
    end(ledger, young)
    due(ledger, 105)
    follow = ledger.followed[old]
    end(ledger, old)
    assert follow.ended_ns is not None
    assert due(ledger, 200) == []
    assert not ledger.begun and not ledger.followed


def test_a_request_can_be_asked_for_again():
    ledger = Ledger()
    cycle = begin(ledger, Cycle("answered"), 0)
    assert due(ledger, 10) == ["answered"]
    ledger.again_at(ledger.followed[cycle], 12 * S)
    assert due(ledger, 11) == []
    assert due(ledger, 12) == ["answered"]


def test_no_more_than_max_requests_are_followed_and_the_rest_is_counted():
    ledger = Ledger(max_requests=3)
    cycles = [begin(ledger, Cycle(str(n)), n / 10) for n in range(5)]
    assert due(ledger, 50) == ["0", "1", "2"]
    assert ledger.dropped == {"requests": 2}
    for cycle in cycles:
        end(ledger, cycle)
    assert not ledger.begun and not ledger.followed


def test_requests_in_flight_oldest_first_and_no_more_than_asked_for():
    ledger = Ledger()
    begin(ledger, Cycle("first"), 0)
    due(ledger, 20)
    begin(ledger, Cycle("second"), 20)
    assert [(subject.name, since_ns) for subject, since_ns, _ in ledger.in_flight(10)] == [("first", 0), ("second", 20 * S)]
    assert [subject.name for subject, *_ in ledger.in_flight(1)] == ["first"]


@pytest.fixture
def hooked():
    patcher, ledger = Patcher(), Ledger(ring=8)
    asyncio_hooks.install(patcher, ledger, Config())
    yield ledger
    assert patcher.restore_all() == []
    assert patcher.notes == []


async def take_and_forget(lock: asyncio.Lock) -> None:
    await lock.acquire()


def test_the_ring_tells_who_took_a_lock_by_hand_and_who_cleared_an_event(hooked):
    lock, event = asyncio.Lock(), asyncio.Event()

    async def main() -> None:
        event.set()
        event.clear()
        event.clear()  # was clear already: nothing happened
        async with asyncio.Lock():  # shows on the stack: not recorded
            pass
        await take_and_forget(lock)

    asyncio.run(main())
    acts = hooked.acts()
    assert [(act.op, act.primitive_id.partition(":")[0], act.frame.function.rpartition(".")[2]) for act in acts] == [
        ("clear", "event", "main"),
        ("acquire", "lock", "take_and_forget"),
    ]
    assert acts[1].primitive_id == f"lock:{id(lock):x}"
    assert acts[1].frame.file == __file__
    assert acts[1].frame.line == take_and_forget.__code__.co_firstlineno + 1
    assert acts[1].thread_id == f"thread:{threading.get_native_id()}"


def test_the_ring_is_bounded_and_keeps_nothing_alive(hooked):
    events = [asyncio.Event() for _ in range(20)]
    for event in events:
        event.set()
        event.clear()
    assert len(hooked.acts()) == 8
    del event
    events.clear()
    gc.collect()
    assert hooked.acts() == ()


def test_a_condition_waits_and_notifies_as_without_the_agent(hooked):
    kept = []

    async def main() -> list[str]:
        condition, seen = asyncio.Condition(), []
        kept.append(condition)  # the ring tells nothing of what is gone

        async def wait() -> None:
            async with condition:
                await condition.wait()
                seen.append("woken")

        waiting = [asyncio.ensure_future(wait()) for _ in range(3)]
        await asyncio.sleep(0)
        async with condition:
            condition.notify_all()
        await asyncio.gather(*waiting)
        return seen

    assert asyncio.run(main()) == ["woken"] * 3
    assert [act.frame.function.rpartition(".")[2] for act in hooked.acts() if act.op == "notify"] == ["main"]


def test_since_when_a_wait_lasts_is_in_its_own_frame(hooked):
    async def main() -> None:
        event = asyncio.Event()
        before = time.monotonic_ns()
        waiting = asyncio.ensure_future(event.wait())
        await asyncio.sleep(0)
        frame = waiting.get_coro().cr_frame
        assert frame.f_code.co_name == "wait"
        assert frame.f_code.co_filename.endswith("hangwatch/integrations/asyncio_hooks.py")
        assert before <= frame.f_locals["since_ns"] <= time.monotonic_ns()
        assert frame.f_locals["self"] is event
        event.set()
        assert await waiting is True
        assert await event.wait() is True

    asyncio.run(main())


def test_loops_are_known_from_start_to_end_in_each_thread(hooked):
    seen = {}

    async def look(name: str) -> None:
        seen[name] = {mark.ident for mark in hooked.loops.values()}

    asyncio.run(look("main"))
    thread = threading.Thread(target=lambda: asyncio.run(look("other")))
    thread.start()
    thread.join()
    assert seen == {"main": {threading.get_ident()}, "other": {thread.ident}}
    assert hooked.loops == {}


def test_long_collections_are_noted():
    ledger = Ledger()
    watch = ledger.gc_watcher()
    watch("start", {"generation": 2})
    time.sleep(0.03)
    watch("stop", {"generation": 2})
    watch("start", {"generation": 0})
    watch("stop", {"generation": 0})
    assert ledger.collected_ns(0) >= 0.03 * S
    assert ledger.collected_ns(time.monotonic_ns()) == 0
