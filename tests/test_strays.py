"""Tasks of programs whose server is not known. Time is an argument; the end of it is a real program."""

from __future__ import annotations

import asyncio
import sys

import pytest

from hangwatch.config import Config
from hangwatch.ledger import Ledger
from hangwatch.strays import KNOWN, Strays

S = 1_000_000_000


@pytest.fixture
def strays():
    return Strays(Config.make({}, stall_after=10), Ledger())


def judged(strays: Strays, at_s: float, *waits: tuple[str, str]) -> tuple[list[str], list[str]]:
    new, gone = strays.judge(int(at_s * S), list(waits))
    return [stall.subject_id for stall in new], gone


def test_a_task_is_told_once_when_it_waited_for_the_same_as_long_as_a_request_may_take(strays):
    first, second = ("task:1", "lock:1"), ("task:2", "lock:1")
    assert judged(strays, 100, first) == ([], [])
    assert judged(strays, 109, first, second) == ([], [])
    assert judged(strays, 110, first, second) == (["task:1"], [])
    assert judged(strays, 130, first, second) == ([], [])  # the second waits for the same: it is in that incident


def test_one_that_went_on_has_recovered_and_begins_anew(strays):
    judged(strays, 100, ("task:1", "lock:1"))
    judged(strays, 110, ("task:1", "lock:1"))
    assert judged(strays, 111) == ([], ["task:1"])
    assert judged(strays, 112, ("task:1", "lock:1")) == ([], [])


def test_one_that_takes_turns_is_none(strays):
    for at_s in range(100, 200, 5):
        assert judged(strays, at_s, ("task:1", f"lock:{at_s}")) == ([], [])


def test_looked_for_only_where_no_server_is_known(strays, monkeypatch):
    for name in KNOWN:
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert not strays.wanted()  # no loop yet
    strays.ledger.loop_started(object())
    assert strays.wanted()
    monkeypatch.setitem(sys.modules, KNOWN[0], sys)
    assert not strays.wanted()


def test_real_tasks_a_lock_counts_and_a_queue_does_not():
    async def main() -> list[tuple[str, str]]:
        lock, queue, ledger = asyncio.Lock(), asyncio.Queue(), Ledger()
        await lock.acquire()

        async def locked():
            async with lock:
                pass

        async def limited():
            async with asyncio.timeout(60) if sys.version_info >= (3, 11) else lock, lock:
                pass

        tasks = [asyncio.create_task(coroutine, name=coroutine.__name__) for coroutine in (limited(), queue.get(), locked())]
        await asyncio.sleep(0.01)
        ledger.loop_started(asyncio.get_running_loop())
        looker = Strays(Config.make({}, stall_after=0.05), ledger)
        try:
            await asyncio.to_thread(looker.look, 1)
            await asyncio.sleep(0.1)
            new, _ = await asyncio.to_thread(looker.look, 10 * S)
        finally:
            for task in tasks:
                task.cancel()
        return [(next(t.get_name() for t in tasks if f"task:{id(t):x}" == stall.subject_id), stall.kind) for stall in new]

    assert asyncio.run(main()) == [("locked", "task")]
