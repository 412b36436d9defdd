"""The node agent behind ``hangwatch watch``: it sees hangs from outside, with nothing in the processes, and says why.

    Watcher(config, Choice(everything=True)).run(told)

Three things happen, each in a thread of its own, so that none makes another late: a timer reads what the kernel's programs noted;
connections are looked through now and then; what was found is examined (attach's two looks), stored and exported, one at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from hangwatch import attach
from hangwatch.config import Config
from hangwatch.errors import HangwatchError
from hangwatch.export import Exporters
from hangwatch.kernel import cgroups
from hangwatch.kernel.collectors import CannotCollect, LoopTime
from hangwatch.records import Incident
from hangwatch.store import Store
from hangwatch.watcher import capture
from hangwatch.watcher.budget import CpuBudget, RateLimit
from hangwatch.watcher.loops import LoopStall, LoopWatch
from hangwatch.watcher.workers import RESCAN_S, Choice, Roster, Worker

__all__ = ["Choice", "Watcher"]

#: Findings that wait to be examined; more are counted.
MAX_WAITING = 64
#: Incidents remembered for their end and for coming again.
MAX_OPEN = 200
#: The address range behind _PyRuntime in which the interpreter keeps its GIL: at most so much (0.6 MB in 3.13).
GIL_RANGE_BYTES = 1 << 20


@dataclasses.dataclass(slots=True)
class _Open:
    incident: Incident
    stall: LoopStall | None
    told_at: float
    closed: bool = False


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
    ) -> None:
        self.config = config
        self.told = told
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
        self._found: queue.Queue[tuple[Worker, Any] | None] = queue.Queue(MAX_WAITING)
        self._open: dict[str, _Open] = {}
        self._throttled: dict[int, cgroups.Throttling | None] = {}

    # The timer

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Watches until `stop` or ``until()``. Raises CannotLook when there is nothing that could be watched."""
        self.loops = LoopWatch(self._limit_ns, self._collector())
        examiner = threading.Thread(target=self._examine_all, name="hangwatch-examiner", daemon=True)
        examiner.start()
        next_scan = 0.0
        try:
            while not self._stop.is_set() and not until():
                now = time.monotonic()
                if now >= next_scan:
                    self._rescan()
                    next_scan = now + RESCAN_S
                self._tick()
                self._stop.wait(self.budget.pause_s(self.loops.pause_s))
        finally:
            self._put_end(examiner)
            self.close()

    def stop(self) -> None:
        self._stop.set()

    def _collector(self) -> LoopTime | None:
        if not self._use_bpf:
            return None
        try:
            return LoopTime(self._limit_ns, kernel_stacks=True)
        except CannotCollect as error:
            self.note(f"no eBPF here ({error}); loops are sampled from /proc. `hangwatch doctor` says what would allow it.")
            return None

    def _rescan(self) -> None:
        came, gone = self.roster.rescan()
        assert self.loops is not None
        for worker in gone:
            self.loops.drop(worker.pid)
            self._throttled.pop(worker.pid, None)
        for worker in came:
            self._begin(worker)

    def _begin(self, worker: Worker) -> None:
        assert self.loops is not None
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
        except CannotCollect as error:
            self._count(str(error))
        self._throttled[worker.pid] = cgroups.cpu_throttling(worker.pid)

    def _tick(self) -> None:
        assert self.loops is not None
        for stall in self.loops.tick():
            worker = self.roster.workers.get(stall.pid)
            if worker is not None and stall.tid not in worker.not_loops:
                self._offer(worker, stall)
        self.loops.ended()
        self._close(lambda entry: entry.stall is not None and not self._is_away(entry.stall))

    def _is_away(self, stall: LoopStall) -> bool:
        assert self.loops is not None
        return self.loops.is_away(stall.pid, stall.tid, stall.since_ns)

    def _offer(self, worker: Worker, stall: LoopStall) -> None:
        if not self.rate.take(time.monotonic()):
            self._count("over the rate limit")
            return
        try:
            self._found.put_nowait((worker, stall))
        except queue.Full:
            self._count("waited too long to be examined")

    # The examiner

    def _examine_all(self) -> None:
        while True:
            item = self._found.get()
            if item is None:
                return
            worker, stall = item
            try:
                self._keep(self._examine(worker, stall), stall)
            except capture.NoStall:
                self._count("looked into, nothing wrong")
            except HangwatchError as error:
                self.note(str(error))
            except Exception as error:  # one process' oddity must not end the watch over the others
                self._count(f"{type(error).__name__}: {error}"[:200])

    def _examine(self, worker: Worker, stall: LoopStall) -> Incident:
        before, now = self._throttled.get(worker.pid), cgroups.cpu_throttling(worker.pid)
        self._throttled[worker.pid] = now
        return capture.of_loop(worker, stall, self._limit_ns, now.since(before) if now and before else None, self.native)

    def _keep(self, incident: Incident, stall: LoopStall) -> None:
        if self.dropped or self._lost():
            snapshot = incident.snapshot
            lost = {**snapshot.dropped, **self.dropped, **({"kernel events": self._lost()} if self._lost() else {})}
            incident = dataclasses.replace(incident, snapshot=dataclasses.replace(snapshot, dropped=lost))
        key = f"{incident.snapshot.pid} {incident.fingerprint}"
        known = self._open.get(key)
        if known is not None and time.monotonic() - known.told_at < self.config.again_after:
            known.incident = dataclasses.replace(known.incident, count=known.incident.count + 1, closed_at=None)
            known.stall, known.closed = stall, False
            with contextlib.suppress(HangwatchError):
                self.store.update(known.incident)
            return
        try:
            self.store.add(incident)
        except HangwatchError as error:
            self.note(f"{error} {error.help_text}")
        self._open[key] = _Open(incident, stall, time.monotonic())
        while len(self._open) > MAX_OPEN:
            del self._open[next(iter(self._open))]
        self.told(incident)
        self.exporters.offer(incident)

    def _lost(self) -> int:
        return self.loops.collector.lost() if self.loops is not None and self.loops.collector is not None else 0

    def _close(self, is_over: Callable[[_Open], bool]) -> None:
        for entry in list(self._open.values()):
            if not entry.closed and is_over(entry):
                entry.closed = True
                entry.incident = dataclasses.replace(entry.incident, closed_at=time.time())
                with contextlib.suppress(HangwatchError):
                    self.store.update(entry.incident)
                self.exporters.recovered(entry.incident)

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
        self.exporters.close(2.0)
