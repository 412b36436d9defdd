"""Event loops that do not come back, told while it lasts.

The programs in the kernel note since when each loop is away from its epoll; a timer here reads their map, some hundred bytes a loop. A
loop under full load does not sleep in its epoll either, so before one is called blocked the program that sees it pass by is attached for
a moment (see collectors/looptime.bpf.c). A claim is made when that moment, or one sleep elsewhere, has lasted long enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hangwatch.kernel import procfs
from hangwatch.kernel.bpf import BpfError
from hangwatch.kernel.collectors import LoopTime
from hangwatch.kernel.rows import LoopEnded, LoopRow
from hangwatch.watcher.sampling import Sampled, Sampler, in_epoll, is_epoll

#: Of the limit: from here on a loop is looked at more closely, so that the look is over when the limit passes.
SUSPICION = 0.25
#: Pauses between two readings: while nobody is suspected, while somebody is, right after the closer look began.
CALM_S, ALERT_S, CLOSE_S = 0.1, 0.025, 0.01
#: Where only /proc can be read, each reading costs more and the last word is another's.
SAMPLE_S = 0.1


@dataclass(frozen=True, slots=True)
class LoopStall:
    """One loop, away from its epoll since ``since_ns`` (monotonic), for longer than the limit at ``at_ns``.

    ``call`` is the system call it sleeps in ("" when it runs), ``asleep_ns`` since how long. ``cpu_ns``, ``delay_ns``, ``slept_ns``,
    ``gil_ns``: what this turn spent on a CPU, waiting for one, asleep, and asleep for the GIL; None where it is not known.
    ``certain``: False when only a look into the process can tell it from a loop under load.
    """

    pid: int
    tid: int
    since_ns: int
    at_ns: int
    call: str = ""
    arguments: tuple[int, ...] = ()
    asleep_ns: int = 0
    cpu_ns: int | None = None
    delay_ns: int | None = None
    slept_ns: int | None = None
    gil_ns: int | None = None
    longest_call: str = ""
    longest_ns: int = 0
    #: Functions of the kernel, innermost first, in which it sleeps now; needs CAP_SYS_ADMIN.
    kernel_stack: tuple[str, ...] = ()
    certain: bool = True
    observer: str = "eBPF"

    @property
    def key(self) -> tuple[int, int, int]:
        return self.pid, self.tid, self.since_ns


@dataclass(frozen=True, slots=True)
class _Spent:
    """On a CPU, waiting for one, asleep, asleep for the GIL."""

    cpu_ns: int | None = 0
    delay_ns: int | None = 0
    slept_ns: int = 0
    gil_ns: int = 0


@dataclass(slots=True)
class _Suspect:
    """``since`` is the turn it is about; ``closely_since`` when the closer look at it began.

    ``before``: of a loop that went round without sleep until then, what it had spent by then (see `_spent`). It is none of this turn's.
    """

    since: int
    closely_since: int
    saturated: bool
    before: _Spent


@dataclass(slots=True)
class LoopWatch:
    """``collector`` None: /proc only. Not for several threads."""

    limit_ns: int
    collector: LoopTime | None = None
    clock: Callable[[], int] = time.monotonic_ns
    sampler: Sampler = field(default_factory=Sampler)
    pids: set[int] = field(default_factory=set)
    errors: int = 0
    _suspects: dict[tuple[int, int], _Suspect] = field(default_factory=dict)
    _told: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, pid: int, loop_tids: tuple[int, ...] | None, gil: tuple[int, int] = (0, 0)) -> None:
        """Watches a process. ``loop_tids``: its threads with loops, where a look into it has told; None: any of its threads may."""
        self.pids.add(pid)
        if self.collector is not None:
            self.collector.watch(pid, gil)
        for tid in procfs.thread_ids(pid):
            fd, now = in_epoll(pid, tid), self.clock()
            if fd is not None and self.collector is not None:
                self.collector.knows(tid, fd, now)
            if fd is not None or tid in (loop_tids or ()):
                # Until the programs have seen it, and for ever where there are none.
                self.sampler.add(pid, tid, -1 if fd is None else fd)

    def drop(self, pid: int) -> None:
        self.pids.discard(pid)
        self.sampler.drop(pid)
        if self.collector is not None:
            self.collector.unwatch(pid, frozenset(self.pids))
        for table in (self._suspects, self._told):
            for key in [key for key in table if key[0] == pid]:
                del table[key]

    def tick(self) -> list[LoopStall]:
        """The loops that are past the limit now and were not told before."""
        found = list(self._of_programs()) if self.collector is not None else []
        found += self._of_samples()
        fresh = [stall for stall in found if self._told.get((stall.pid, stall.tid)) != stall.since_ns]
        self._told = {(stall.pid, stall.tid): stall.since_ns for stall in found}
        return fresh

    @property
    def pause_s(self) -> float:
        """How long to wait before the next `tick`."""
        if self.collector is None:
            return SAMPLE_S
        if not self._suspects:
            return CALM_S
        newest = max(suspect.closely_since for suspect in self._suspects.values())
        return CLOSE_S if self.clock() - newest < 50_000_000 else ALERT_S

    def ended(self) -> list[LoopEnded]:
        """Turns over the limit that are over."""
        return self.collector.ended() if self.collector is not None else []

    def away(self) -> frozenset[int]:
        """Processes of which a loop was told and has not come back."""
        return frozenset(pid for pid, _ in self._told)

    def is_away(self, pid: int, tid: int, since_ns: int) -> bool:
        """A loop that was told has not come back."""
        return self._told.get((pid, tid)) == since_ns

    def _of_programs(self) -> Iterator[LoopStall]:
        assert self.collector is not None
        now = self.clock()
        seen = set()
        for row in self.collector.rows():
            if row.pid not in self.pids:
                continue
            key = (row.pid, row.tid)
            if row.busy_since or row.idle_since:
                self.sampler.drop(*key)
            if self._is_suspect(row, now):
                seen.add(key)
                stall = self._judge(key, row, now)
                if stall is not None:
                    yield stall
        self._calm_down(seen)

    def _is_suspect(self, row: LoopRow, now: int) -> bool:
        if not row.busy_since or now - max(row.busy_since, row.polled_at) < self.limit_ns * SUSPICION:
            return False
        if row.now is not None and row.now.name.startswith("epoll") and not is_epoll(row.pid, row.epoll_fd):
            # The loop was closed and the thread runs another.
            assert self.collector is not None
            self.collector.forget(row.tid)
            return False
        return True

    def _judge(self, key: tuple[int, int], row: LoopRow, now: int) -> LoopStall | None:
        suspect = self._suspects.get(key)
        begun = max(row.busy_since, row.polled_at)
        if suspect is None or suspect.since != begun:
            self._look_closer(True)
            saturated = row.polled_at > row.busy_since
            suspect = self._suspects[key] = _Suspect(begun, self.clock(), saturated, _spent(row) if saturated else _Spent())
        asleep_since = row.now.ns if row.now is not None else now
        # What is known without a gap: since the closer look began, or since it fell asleep outside of its epoll.
        watched_since = min(suspect.closely_since, asleep_since)
        # After a turn without sleep it may have gone round until the look began; else it left its epoll then and there.
        since = max(watched_since, begun) if suspect.saturated else begun
        if now - since < self.limit_ns or now - watched_since < self.limit_ns // 2:
            return None
        return self._stall(row, since, now, suspect.before)

    def _stall(self, row: LoopRow, since: int, now: int, before: _Spent) -> LoopStall:
        spent = _spent(row)
        asleep_ns = now - row.now.ns if row.now is not None else 0
        return LoopStall(
            pid=row.pid,
            tid=row.tid,
            since_ns=since,
            at_ns=now,
            call=row.now.name if row.now is not None else "",
            arguments=row.now.arguments if row.now is not None else (),
            asleep_ns=asleep_ns,
            cpu_ns=None if spent.cpu_ns is None else max(0, spent.cpu_ns - (before.cpu_ns or 0)),
            delay_ns=None if spent.delay_ns is None else max(0, spent.delay_ns - (before.delay_ns or 0)),
            slept_ns=spent.slept_ns - before.slept_ns + asleep_ns,
            gil_ns=spent.gil_ns - before.gil_ns,
            longest_call=row.longest.name if row.longest is not None else "",
            longest_ns=row.longest.ns if row.longest is not None else 0,
            kernel_stack=procfs.thread_kernel_stack(row.pid, row.tid) if row.now is not None else (),
        )

    def _calm_down(self, seen: set[tuple[int, int]]) -> None:
        for key in set(self._suspects) - seen:
            del self._suspects[key]
        if not self._suspects:
            self._look_closer(False)

    def _look_closer(self, wanted: bool) -> None:
        assert self.collector is not None
        if wanted == self.collector.closer:
            return
        try:
            self.collector.look_closer(wanted)
        except BpfError:
            self.errors += 1

    def _of_samples(self) -> Iterator[LoopStall]:
        now = self.clock()
        for thread in self.sampler.sample(now):
            if thread.busy_since and now - thread.busy_since >= self.limit_ns:
                yield _sampled(thread, now, self.limit_ns)


def _spent(row: LoopRow) -> _Spent:
    """Since the loop last slept in its epoll, without the sleep it is in. None for what the kernel does not count."""
    stat = procfs.thread_stat(row.pid, row.tid)
    return _Spent(
        stat.cpu_ns - row.exec_ns if stat and row.exec_ns else None,
        stat.delay_ns - row.delay_ns if stat and stat.delay_ns is not None else None,
        row.slept_ns,
        row.gil_ns,
    )


def _sampled(thread: Sampled, now: int, limit_ns: int) -> LoopStall:
    asleep_ns = now - thread.asleep_since if thread.asleep_since else 0
    return LoopStall(
        pid=thread.pid,
        tid=thread.tid,
        since_ns=thread.busy_since,
        at_ns=now,
        call=thread.call,
        arguments=thread.arguments,
        asleep_ns=asleep_ns,
        kernel_stack=procfs.thread_kernel_stack(thread.pid, thread.tid) if asleep_ns else (),
        certain=asleep_ns >= limit_ns // 2,
        observer="/proc",
    )
