"""What is past its limit: pure arithmetic on ages and limits. Time is an argument; nothing is looked up.

The ledger keeps requests in the order in which they began, so the oldest is at the head and a tick of the watchdog, while all is well,
looks at one request: `overdue_requests` stops at the first that is younger than the smallest limit there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from hangwatch.config import Config
from hangwatch.records import FOREVER, Stall

#: Seconds -> nanoseconds.
_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Begun:
    """A request as the arithmetic needs it: when it began, and its own limit (``FOREVER``: none) where its route has one."""

    id: str
    since_ns: int
    limit_ns: int


@dataclass(frozen=True, slots=True)
class Beat:
    """A loop's last sign of life. ``asleep``: it sits in its selector with nothing due, which is no block however long it lasts."""

    loop_id: str
    beat_ns: int
    asleep: bool = False


@dataclass(frozen=True, slots=True)
class Phase:
    """A process that starts up or shuts down: ``since_ns`` when that began, None when it does not."""

    subject_id: str
    startup_ns: int | None = None
    shutdown_ns: int | None = None


def limit_ns(config: Config, path: str) -> int:
    """What a request to this path may take, ``FOREVER`` where its route has no limit."""
    seconds = config.limit_for(path)
    return FOREVER if seconds is None else int(seconds * _S)


def least_limit_ns(config: Config) -> int:
    """The smallest limit that any request can have: the age below which none needs a look."""
    limits = [config.stall_after, *(limit for _, limit in config.routes if limit is not None)]
    return int(min(limits) * _S)


def overdue_requests(
    now_ns: int, oldest_first: Iterable[Begun], least_ns: int, told: Callable[[str], bool] = lambda _: False
) -> Iterator[Stall]:
    """A stall for each request past its limit that was not ``told`` before. Ends at the first that is younger than ``least_ns``."""
    for request in oldest_first:
        age_ns = now_ns - request.since_ns
        if age_ns < least_ns:
            return
        if request.limit_ns < FOREVER and age_ns >= request.limit_ns and not told(request.id):
            yield Stall("request", request.id, request.since_ns, request.limit_ns)


def blocked_loops(now_ns: int, beats: Iterable[Beat], after_ns: int) -> Iterator[Stall]:
    """A stall for each loop whose last sign of life is too old. One that sleeps in its selector is idle, not blocked."""
    for beat in beats:
        if not beat.asleep and now_ns - beat.beat_ns >= after_ns:
            yield Stall("loop", beat.loop_id, beat.beat_ns, after_ns)


def slow_phase(now_ns: int, phase: Phase, config: Config) -> Iterator[Stall]:
    """Start-up, or the way from the stop signal to the end, past its limit."""
    for kind, since_ns, seconds in (
        ("startup", phase.startup_ns, config.startup_after),
        ("shutdown", phase.shutdown_ns, config.shutdown_after),
    ):
        if since_ns is not None and seconds is not None and now_ns - since_ns >= int(seconds * _S):
            yield Stall(kind, phase.subject_id, since_ns, int(seconds * _S))


def overdue(
    now_ns: int,
    config: Config,
    *,
    requests: Iterable[Begun] = (),
    beats: Iterable[Beat] = (),
    phase: Phase | None = None,
    told: Callable[[str], bool] = lambda _: False,
) -> Iterator[Stall]:
    """Everything that is past its limit now, loops first: a blocked loop explains the requests behind it."""
    yield from blocked_loops(now_ns, beats, int(config.loop_after * _S))
    if phase is not None:
        yield from slow_phase(now_ns, phase, config)
    yield from overdue_requests(now_ns, requests, least_limit_ns(config), told)
