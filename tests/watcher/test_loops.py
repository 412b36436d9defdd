"""When a loop is called blocked: rows made by hand, read by a clock made by hand."""

from __future__ import annotations

import dataclasses
import os

import pytest

from hangwatch.kernel.rows import LoopRow, Sleep
from hangwatch.watcher import facts
from hangwatch.watcher.loops import CALM_S, SAMPLE_S, LoopStall, LoopWatch
from hangwatch.watcher.sampling import Sampled, Sampler

MS = 1_000_000
LIMIT_NS = 500 * MS
PID, TID = 2**22 + 5, 2**22 + 6
IDLE = LoopRow(
    PID, TID, 3, idle_since=1, busy_since=0, polled_at=0, exec_ns=0, delay_ns=0, now=None, slept_ns=0, gil_ns=0, longest=None, sleeps=0
)


class Kernel:
    """What `LoopTime` shows, set by the test. No kernel can be made to show these moments at will."""

    def __init__(self):
        self.row = IDLE
        self.closer = False
        self.looks = 0

    def rows(self):
        return [self.row]

    def look_closer(self, wanted):
        self.closer = wanted
        self.looks += wanted

    def watch(self, pid, gil):
        pass

    def unwatch(self, pid, others):
        pass


@pytest.fixture
def kernel():
    return Kernel()


class Time:
    def __init__(self):
        self.now = 10_000 * MS

    def __call__(self):
        return self.now


@pytest.fixture
def watch(kernel):
    clock = Time()
    found = LoopWatch(LIMIT_NS, kernel, clock=clock)
    found.add(PID, ())
    return found


def run(watch, until_ms, step_ms=20):
    """Ticks for that long; (ms since the begin, stall) of what was told."""
    begun, told = watch.clock.now, []
    while watch.clock.now - begun < until_ms * MS:
        told += [((watch.clock.now - begun) // MS, stall) for stall in watch.tick()]
        watch.clock.now += step_ms * MS
    return told


def busy(watch, **changes):
    return dataclasses.replace(IDLE, busy_since=watch.clock.now, **changes)


def test_an_idle_loop_is_never_told(watch, kernel):
    assert run(watch, 60_000, 1000) == []
    assert kernel.looks == 0 and watch.pause_s == CALM_S


def test_a_loop_that_computes_is_told_once_soon_after_the_limit(watch, kernel):
    kernel.row = busy(watch)
    ((after, stall),) = run(watch, 3000)
    assert 500 <= after <= 540
    assert (stall.pid, stall.tid, stall.since_ns, stall.certain, stall.call) == (PID, TID, kernel.row.busy_since, True, "")
    assert kernel.closer and watch.is_away(PID, TID, stall.since_ns)


def test_it_may_be_told_again_when_it_blocks_again(watch, kernel):
    for _ in range(3):
        kernel.row = busy(watch)
        assert len(run(watch, 1000)) == 1
        kernel.row = IDLE
        assert run(watch, 200) == []
        assert not kernel.closer


def test_a_saturated_loop_that_passes_by_is_not_told(watch, kernel):
    """It left its epoll a minute ago and has not slept since, and goes round every 10 ms."""
    kernel.row = busy(watch)
    for _ in range(600):
        if kernel.closer:
            kernel.row = dataclasses.replace(kernel.row, polled_at=watch.clock.now)
        assert watch.tick() == []
        watch.clock.now += 100 * MS
    # The closer look is short and not for ever.
    assert 100 < kernel.looks < 600


def test_a_saturated_loop_that_then_blocks_is_told(watch, kernel):
    kernel.row = busy(watch)
    for _ in range(20):
        if kernel.closer:
            kernel.row = dataclasses.replace(kernel.row, polled_at=watch.clock.now)
        assert watch.tick() == []
        watch.clock.now += 20 * MS
    last_seen = kernel.row.polled_at or kernel.row.busy_since
    begun = watch.clock.now
    ((after, stall),) = run(watch, 3000)
    assert stall.since_ns >= last_seen
    # Since when is only known from the closer look on: never too early, and at most a quarter of the limit late.
    assert begun + after * MS - stall.since_ns >= LIMIT_NS
    assert after <= 700


def test_what_a_saturated_loop_spent_before_is_none_of_this_turn(watch, kernel):
    """In a minute without sleep in its epoll it waited for the GIL for seconds; then it computes for half a second."""
    kernel.row = busy(watch, slept_ns=9_000 * MS, gil_ns=8_000 * MS)
    for _ in range(20):
        if kernel.closer:
            kernel.row = dataclasses.replace(kernel.row, polled_at=watch.clock.now)
        assert watch.tick() == []
        watch.clock.now += 20 * MS
    assert run(watch, 200) == []
    kernel.row = dataclasses.replace(kernel.row, slept_ns=9_030 * MS, gil_ns=8_020 * MS)
    ((_, stall),) = run(watch, 3000)
    assert (stall.gil_ns, stall.slept_ns) == (20 * MS, 30 * MS)
    assert facts.verdict(dataclasses.replace(stall, cpu_ns=470 * MS)) == "computing"


def test_a_sleep_elsewhere_is_its_own_proof(watch, kernel):
    kernel.row = busy(watch, now=Sleep(230, (0, 0, 7), watch.clock.now))
    ((after, stall),) = run(watch, 2000, 10)
    assert 500 <= after <= 520
    assert stall.call and stall.arguments == (0, 0, 7) and stall.asleep_ns >= LIMIT_NS and stall.slept_ns == stall.asleep_ns


def test_another_process_is_nobodys_business(watch, kernel):
    kernel.row = dataclasses.replace(busy(watch), pid=PID + 1)
    assert run(watch, 2000) == []


def test_who_was_dropped_is_forgotten(watch, kernel):
    kernel.row = busy(watch)
    run(watch, 400)
    watch.drop(PID)
    assert run(watch, 2000) == []
    assert not kernel.closer


# /proc alone


def test_samples_of_a_real_thread_that_sleeps():
    sampler = Sampler()
    sampler.add(os.getpid(), os.getpid())
    (first,) = sampler.sample(1)
    assert first.busy_since == 1
    sampler.drop(os.getpid())
    assert sampler.sample(2) == []
    sampler.add(PID, TID)
    assert sampler.sample(3) == []


def test_without_programs_a_thread_that_runs_is_only_suspected():
    clock = Time()
    watch = LoopWatch(LIMIT_NS, None, clock=clock)
    assert watch.pause_s == SAMPLE_S
    thread = Sampled(PID, TID, busy_since=clock.now - 600 * MS)
    watch.sampler.sample = lambda now: [thread]
    (stall,) = watch.tick()
    assert not stall.certain and stall.observer == "/proc"
    assert watch.tick() == []
    thread.busy_since = 0
    assert watch.tick() == []
    thread.busy_since = clock.now - 700 * MS
    thread.asleep_since, thread.call = clock.now - 690 * MS, "poll"
    (stall,) = watch.tick()
    assert stall.certain and stall.call == "poll"


# What the facts say


STALL = LoopStall(PID, TID, 0, 1000 * MS, cpu_ns=10 * MS, delay_ns=0, slept_ns=980 * MS, gil_ns=0)


@pytest.mark.parametrize(
    "changes, verdict",
    [
        ({}, "asleep"),
        ({"gil_ns": 900 * MS}, "gil"),
        ({"slept_ns": 0, "delay_ns": 800 * MS}, "starved"),
        ({"slept_ns": 0, "cpu_ns": 900 * MS}, "computing"),
        ({"slept_ns": 300 * MS, "cpu_ns": 300 * MS, "delay_ns": 300 * MS}, "mixed"),
        ({"slept_ns": None, "cpu_ns": None, "delay_ns": None, "gil_ns": None, "asleep_ns": 900 * MS}, "asleep"),
        ({"slept_ns": None, "cpu_ns": None, "delay_ns": None, "gil_ns": None}, "computing"),
    ],
)
def test_where_the_time_went(changes, verdict):
    stall = dataclasses.replace(STALL, **changes)
    assert facts.verdict(stall) == verdict
    said = facts.loop_evidence(stall)
    assert said.data["verdict"] == verdict and said.error is None and "1000 ms ago" in said.text
