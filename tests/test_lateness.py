"""What is told of a time in which Python could not run: records by hand, the time as an argument."""

from __future__ import annotations

import time

import pytest

from hangwatch.lateness import Used, of_delays, of_silence, with_collector
from hangwatch.ledger import Ledger
from hangwatch.records import Evidence

S = 1_000_000_000


@pytest.fixture
def ledger():
    return Ledger()


def test_who_collects_is_known_once_a_collection_of_everything_has_ended(ledger):
    first = Evidence("watchdog", data={"gc_ms": 1374, "late_ms": 1267})
    others = (Evidence("process", data={}), Evidence("watchdog", data={"gc_ms": 0}))
    begun_ns = time.monotonic_ns()
    assert with_collector((first, *others), ledger, begun_ns) == (first, *others)
    watch = ledger.gc_watcher()
    watch("start", {"generation": 2})
    time.sleep(0.021)
    watch("stop", {"generation": 2})
    told, *rest = with_collector((first, *others), ledger, begun_ns)
    assert told.data["collector"]["frames"][-1]["function"].startswith("test_who_collects") and told.data["gc_ms"] == 1374
    assert tuple(rest) == others
    known = Evidence("watchdog", data={"gc_ms": 9, "collector": {"frames": []}})
    assert with_collector((known,), ledger, begun_ns) == (known,)
    # One that ended before the silence began says nothing of it.
    assert with_collector((first,), ledger, time.monotonic_ns()) == (first,)


@pytest.mark.parametrize(
    ("used", "rests", "age_s", "stopped"),
    [
        (Used(0, 1), True, None, True),
        # 1.2 s without CPU, and the loop at rest: SIGSTOP and native code that sleeps with the GIL look the same but for this.
        (Used(0, 240), True, None, False),
        (Used(S, 1), True, None, False),
        (Used(0, 1), False, None, False),
        # The C timer wrote in time: its thread ran, so the process was not stopped.
        (Used(0, 1), True, 0.7, False),
        (Used(0, 1), True, 0.01, True),
    ],
)
def test_who_was_stopped(ledger, used, rests, age_s, stopped):
    said = of_silence(ledger, 0, int(1.2 * S), used, [], rests, age_s)
    assert said.data["stopped"] is stopped
    assert (said.data["late_ms"], said.data["over"]) == (1200, rests)


@pytest.mark.parametrize(("late_ns", "told"), [(0, []), (S // 3, []), (S // 2, [500])])
def test_the_watchdog_came_late_for_most_of_it(ledger, late_ns, told):
    assert [said.data["late_ms"] for said in of_delays(ledger, [(2 * S, late_ns)], S, 2 * S)] == told
    assert of_delays(ledger, [(S - 1, S)], S, 2 * S) == []
