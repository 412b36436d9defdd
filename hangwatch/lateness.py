"""What kept Python from running, told by figures: the watchdog's thread came late, garbage was collected, or the process was stopped.

Arithmetic on what the watchdog, the ledger and faulthandler's timer noticed; nothing here waits, locks or runs the application's code.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from hangwatch.heartbeat import stack_at
from hangwatch.ledger import Ledger
from hangwatch.records import Evidence


class Used(NamedTuple):
    """Up to a moment, or between two: CPU of the whole process, and how often the calling thread went to sleep.

    A wait for the GIL counts one sleep every switch interval (``take_gil`` in CPython's ceval_gil).
    """

    cpu_ns: int
    sleeps: int

    @classmethod
    def by_now(cls) -> Used:
        return cls(time.process_time_ns(), resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw)

    def since(self, before: Used) -> Used:
        return Used(self.cpu_ns - before.cpu_ns, self.sleeps - before.sleeps)


def collector_of(ledger: Ledger, since_ns: int) -> dict[str, Any]:
    """Where the garbage collection was begun that took so long and ended after ``since_ns``; nothing where that is not known. What ended
    before says nothing of one that still runs."""
    place = ledger.collector
    if place is None or not ledger.pauses or ledger.pauses[-1][0] < since_ns:
        return {}
    return {"collector": {"native_id": place[0], "frames": stack_at(place)}}


def with_collector(evidence: Iterable[Evidence], ledger: Ledger, since_ns: int) -> tuple[Evidence, ...]:
    """Collections follow each other, and the first that was noticed may have been nobody's: one of everything that has ended since then tells
    where they come from. What the watchdog knew itself stays."""
    return tuple(
        replace(said, data={**collector_of(ledger, since_ns), **said.data}) if said.tool == "watchdog" and said.data.get("gc_ms") else said
        for said in evidence
    )


def of_silence(
    ledger: Ledger, since_ns: int, now_ns: int, used: Used, stacks: list[dict[str, Any]], rests: bool, age_s: float | None
) -> Evidence:
    """What can be told of a time in which the watchdog itself could not run. ``stacks``: of the loops' threads, at its end; ``rests``: all of
    them wait for events there; ``age_s``: since faulthandler's timer wrote last.

    ``stopped``: a process that was stopped (SIGSTOP, a suspended machine) used no CPU, its loop is at rest, and its timer did not write in
    time either. Nor did the watchdog wait for the GIL: it would have slept for it again and again, each time for one switch interval; a
    quarter of these is asked for, as a busy machine lets it sleep longer.
    """
    late_ns = now_ns - since_ns
    in_time = age_s is not None and age_s > min(0.25 * late_ns / 1e9, 1.0)
    waited = used.sleeps * sys.getswitchinterval() * 4e9 > late_ns
    late_ms = round(late_ns / 1e6)
    data: dict[str, Any] = {
        "late_ms": late_ms,
        "cpu_ms": round(used.cpu_ns / 1e6),
        "gc_ms": round(ledger.collected_ns(since_ns) / 1e6),
        "stacks_age_ms": None if age_s is None else round(age_s * 1e3),
        "stopped": rests and not in_time and not waited and used.cpu_ns < 0.1 * late_ns,
        # It was over before its stack could be taken: what the loops' threads do now says nothing of it.
        "over": rests,
        "threads": stacks,
    }
    if data["gc_ms"]:
        data.update(collector_of(ledger, since_ns))
    return Evidence("watchdog", text=f"The watchdog's own thread could not run for {late_ms} ms.", data=data)


def of_delays(ledger: Ledger, late: Iterable[tuple[int, int]], since_ns: int, now_ns: int) -> list[Evidence]:
    """What kept Python from running while a loop was silent: the watchdog came late for most of it, or garbage was collected.

    ``late``: (when, by how much) it came late, both ns.
    """
    late_ns = max((late_ns for at_ns, late_ns in late if at_ns >= since_ns), default=0)
    gc_ns = ledger.collected_ns(since_ns)
    mostly = 2 * late_ns >= now_ns - since_ns
    if not mostly and not gc_ns:
        return []
    data: dict[str, Any] = {"late_ms": round(late_ns / 1e6) if mostly else 0, "gc_ms": round(gc_ns / 1e6)}
    if data["gc_ms"]:
        data.update(collector_of(ledger, since_ns))
    return [
        Evidence("watchdog", text=f"Garbage collections took {data['gc_ms']} ms; this thread was {data['late_ms']} ms late.", data=data)
    ]
