"""The node agent behind ``hangwatch watch``: it sees hangs from outside, with nothing in the processes, and says why.

    Watcher(config, Choice(everything=True)).run(told)

A timer reads what the kernel's programs noted of loops, some times a second, and looks through the connections once a second. What it
finds is examined by a thread of its own, one at a time: attach's two looks, the rules, the spool, the exporters.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable

from hangwatch import attach, evidence, investigate
from hangwatch.config import Config
from hangwatch.errors import HangwatchError
from hangwatch.export import Exporters
from hangwatch.kernel import cgroups
from hangwatch.kernel.collectors import CannotCollect, ConnTime, LoopTime
from hangwatch.records import Incident
from hangwatch.store import Store
from hangwatch.watcher import capture
from hangwatch.watcher.budget import CpuBudget, RateLimit
from hangwatch.watcher.connections import ConnectionWatch
from hangwatch.watcher.kept import Found, Kept
from hangwatch.watcher.loops import LoopStall, LoopWatch
from hangwatch.watcher.states import ConnectionStall, key_of
from hangwatch.watcher.workers import RESCAN_S, Choice, Roster, Worker

__all__ = ["Choice", "Watcher"]

#: Findings that wait to be examined; more are counted.
MAX_WAITING = 64
#: The address range behind _PyRuntime in which the interpreter keeps its GIL: at most so much (0.6 MB in 3.13).
GIL_RANGE_BYTES = 1 << 20


class Watcher:
    """``told(incident)`` is called once for each new incident, from one thread. ``note(text)`` for what a person should know of us."""

    def __init__(
        self,
        config: Config,
        choice: Choice,
        *,
        told: Callable[[Incident], None],
        note: Callable[[str], None] = lambda text: None,
        rate_per_minute: int = 30,
        cpu_share: float = 0.01,
        use_bpf: bool = True,
        native: bool = False,
        full: bool = False,
        heads: bool = False,
    ) -> None:
        """``full``: the program that sees every call on a connection stays attached. ``heads``: it copies the first bytes of requests."""
        self.config = config
        self.note = note
        self.native = native
        self.roster = Roster(choice)
        self.store = Store(config.spool, config.spool_max_mb, config.spool_max_days)
        self.exporters = Exporters(config, self.store)
        self.rate = RateLimit(rate_per_minute)
        self.budget = CpuBudget(cpu_share)
        self.dropped: dict[str, int] = {}
        self._limit_ns = int(config.loop_after * 1e9)
        self._use_bpf = use_bpf
        self.loops: LoopWatch | None = None
        self._stop = threading.Event()
        self.connections: ConnectionWatch | None = None
        self._full = full
        self._heads = heads
        self._found: queue.Queue[tuple[Worker, Found] | None] = queue.Queue(MAX_WAITING)
        self.kept = Kept(config, self.store, self.exporters, told, note, self._missing)
        self._throttled: dict[int, cgroups.Throttling | None] = {}
        self._too_early: deque[list[ConnectionStall]] = deque(maxlen=MAX_WAITING)

    # The timer

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Watches until `stop` or ``until()``. Raises CannotLook when there is nothing that could be watched."""
        self.loops = LoopWatch(self._limit_ns, self._collector())
        self.connections = ConnectionWatch(self._shortest_ns(), self._connection_collector(), self._full)
        evidence.prepare()
        investigate.prepare()
        examiner = threading.Thread(target=self._examine_all, name="hangwatch-examiner", daemon=True)
        examiner.start()
        next_scan = 0.0
        try:
            while not self._stop.is_set() and not until():
                now = time.monotonic()
                if now >= next_scan:
                    self._rescan()
                    next_scan = now + RESCAN_S
                begun = time.thread_time()
                self._tick()
                self.budget.spent(time.thread_time() - begun)
                self._stop.wait(self.budget.pause_s(self.loops.pause_s))
        finally:
            self._put_end(examiner)
            self._note_what_is_missing()
            self.close()

    def stop(self) -> None:
        self._stop.set()

    def _collector(self) -> LoopTime | None:
        if not self._use_bpf:
            return None
        try:
            return LoopTime(self._limit_ns)
        except CannotCollect as error:
            self.note(f"no eBPF here ({error}); loops are sampled from /proc. `hangwatch doctor` says what would allow it.")
            return None

    def _shortest_ns(self) -> int:
        """The shortest of the limits: what is past it is asked which route it is."""
        limits = [self.config.stall_after, *(limit for _, limit in self.config.routes if limit is not None)]
        return int(min(limits) * 1e9)

    def _connection_collector(self) -> ConnTime | None:
        if self.loops is None or self.loops.collector is None:
            return None
        try:
            return ConnTime(self._shortest_ns(), self.loops.collector.offsets, copy_heads=self._heads)
        except CannotCollect as error:
            self.note(f"connections are told by their sockets only: {error}")
            return None

    def _rescan(self) -> None:
        came, gone = self.roster.rescan()
        assert self.loops is not None and self.connections is not None
        for worker in gone:
            self.loops.drop(worker.pid)
            self.connections.drop(worker.pid)
            self._throttled.pop(worker.pid, None)
        for worker in came:
            self._begin(worker)
        if came:
            _give_back_memory()
        self.connections.refresh()

    def _begin(self, worker: Worker) -> None:
        assert self.loops is not None and self.connections is not None
        tids, gil = None, (0, 0)
        if not worker.blind:
            try:
                reader = attach.open_reader(worker.pid)
                gil = (reader.roots.runtime, reader.roots.runtime + GIL_RANGE_BYTES)
                tids = reader.loop_native_ids()
            except HangwatchError as error:
                worker.blind = str(error)
        try:
            self.loops.add(worker.pid, tids, gil)
            self.connections.add(worker.pid)
        except CannotCollect as error:
            self._count(str(error))
        self._throttled[worker.pid] = cgroups.cpu_throttling(worker.pid)

    def _tick(self) -> None:
        assert self.loops is not None and self.connections is not None
        for stall in self.loops.tick():
            worker = self.roster.workers.get(stall.pid)
            if worker is not None and stall.tid not in worker.not_loops:
                self._offer(worker, stall)
                self.connections.open_window()
        self.loops.ended()
        by_pid: dict[int, list[ConnectionStall]] = {}
        while self._too_early:
            self.connections.put_off(self._too_early.popleft())
        # While its loop is blocked, that none of its requests is answered is no news.
        for connection in self.connections.tick(self.loops.away()):
            by_pid.setdefault(connection.pid, []).append(connection)
        for pid, stalls in by_pid.items():
            worker = self.roster.workers.get(pid)
            if worker is not None:
                self._offer(worker, stalls)
        self.kept.close_what_is_over(self._is_over)

    def _is_over(self, found: Found) -> bool:
        assert self.loops is not None and self.connections is not None
        if isinstance(found, LoopStall):
            return not self.loops.is_away(found.pid, found.tid, found.since_ns)
        return not any(key_of(stall) in self.connections.trouble for stall in found)

    def _offer(self, worker: Worker, found: Found) -> None:
        if not self.rate.take(time.monotonic()):
            self._count("over the rate limit")
            return
        try:
            self._found.put_nowait((worker, found))
        except queue.Full:
            self._count("waited too long to be examined")

    # The examiner

    def _examine_all(self) -> None:
        while True:
            item = self._found.get()
            if item is None:
                return
            worker, found = item
            try:
                for incident in self._examine(worker, found):
                    self.kept.keep(incident, found)
            except capture.NoStall:
                self._count("looked into, nothing wrong")
                if not isinstance(found, LoopStall):
                    self._too_early.append(found)
            except HangwatchError as error:
                self.note(str(error))
            except Exception as error:  # one process' oddity must not end the watch over the others
                self._count(f"{type(error).__name__}: {error}"[:200])
            finally:
                _give_back_memory()

    def _examine(self, worker: Worker, stall: Found) -> list[Incident]:
        if not isinstance(stall, LoopStall):
            upstreams = self.connections.upstreams(worker.pid) if self.connections is not None else []
            incidents, early = capture.of_connections(worker, stall, upstreams, self.config)
            if early:
                self._too_early.append(early)
            return incidents
        before, now = self._throttled.get(worker.pid), cgroups.cpu_throttling(worker.pid)
        self._throttled[worker.pid] = now
        return [capture.of_loop(worker, stall, self._limit_ns, now.since(before) if now and before else None, self.native)]

    def _missing(self) -> dict[str, int]:
        lost = self._lost()
        return {**self.dropped, **({"kernel events": lost} if lost else {})}

    def _lost(self) -> int:
        """Events and entries for which the kernel's programs had no room."""
        both = (self.loops, self.connections)
        return sum(part.collector.lost() for part in both if part is not None and part.collector is not None)

    def _note_what_is_missing(self) -> None:
        assert self.loops is not None and self.connections is not None
        if lost := self._lost():
            self.dropped["kernel events"] = lost
        for what, count in self.connections.errors.items():
            self.dropped[what] = count
        if self.loops.errors:
            self.dropped["closer looks that the kernel refused"] = self.loops.errors

    def _count(self, what: str) -> None:
        if what in self.dropped or len(self.dropped) < 50:
            self.dropped[what] = self.dropped.get(what, 0) + 1

    def _put_end(self, examiner: threading.Thread) -> None:
        with contextlib.suppress(queue.Full):
            self._found.put(None, timeout=2.0)
        examiner.join(timeout=5.0)

    def close(self) -> None:
        """Takes the programs out of the kernel, sends what waits."""
        if self.loops is not None and self.loops.collector is not None:
            self.loops.collector.close()
        if self.connections is not None:
            self.connections.close()
        self.exporters.close(2.0)


def _give_back_memory() -> None:
    """A look reads megabytes of another's memory. glibc keeps what was freed for itself unless asked; other libraries do not have the call."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
