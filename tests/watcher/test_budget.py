"""Rates and budgets. Time is an argument."""

from __future__ import annotations

from hangwatch.watcher.budget import CpuBudget, RateLimit


def test_so_many_a_minute_and_the_others_are_counted():
    limit = RateLimit(2)
    assert [limit.take(now) for now in (0.0, 1.0, 2.0, 59.0, 60.0, 60.5, 61.0)] == [True, True, False, False, True, False, True]
    assert limit.refused == 3


def test_zero_is_no_limit():
    limit = RateLimit(0)
    assert all(limit.take(0.0) for _ in range(1000))


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def spend(budget, clock, seconds, cpu_s_each, pause_s=0.1):
    """Readings for that long; the last pause."""
    end = clock.now + seconds
    while clock.now < end:
        budget.spent(cpu_s_each)
        pause = budget.pause_s(pause_s)
        clock.now += pause
    return pause


def test_dear_readings_become_rare_until_the_share_is_kept():
    clock = Clock()
    budget = CpuBudget(0.01, clock)
    pause = spend(budget, clock, 120, 0.005)
    assert 0.3 <= pause <= budget.LONGEST_S
    assert budget.used() < 0.015


def test_cheap_ones_come_as_often_as_asked():
    clock = Clock()
    budget = CpuBudget(0.01, clock)
    assert spend(budget, clock, 60, 0.0002) == 0.1
    assert 0.001 < budget.used() < 0.003


def test_it_comes_back():
    clock = Clock()
    budget = CpuBudget(0.01, clock)
    assert spend(budget, clock, 60, 0.02) > 0.1
    assert spend(budget, clock, 60, 0.0001) == 0.1


def test_a_dear_begin_does_not_count_against_what_follows():
    clock = Clock()
    budget = CpuBudget(0.01, clock)
    budget.spent(0.02)
    assert budget.used() == 0.0
    assert spend(budget, clock, 30, 0.0002) == 0.1
