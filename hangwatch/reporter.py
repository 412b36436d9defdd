"""From an alarm to an incident on disk: samples, evidence, causes, store, exporters. A thread of its own, so that beats go on.

What it needs is imported by that thread when the agent starts: at the stall an import could wait for ever, as the application may hold
the import lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hangwatch import lateness, samples, worker
from hangwatch.casebook import Casebook, Open, stall_now, sureness
from hangwatch.config import Config
from hangwatch.ledger import Follow, Ledger
from hangwatch.records import Evidence, Snapshot, Stall, to_json
from hangwatch.silence import SilenceNote
from hangwatch.stacktimer import StackTimer
from hangwatch.strays import Strays
from hangwatch.sweep import Sweep
from hangwatch.tools import Tools
from hangwatch.watchdog import Alarm

if TYPE_CHECKING:
    from hangwatch.export import Exporters
    from hangwatch.store import Store

THREAD_NAME: Final = "hangwatch-reporter"
#: Alarms that wait for this thread; more are counted.
MAX_ALARMS: Final = 32
#: Between the two samples: long enough that what is merely on its way has moved on, short enough for the 300 ms to the disk.
BETWEEN_S: Final = 0.08
#: A loop that answers the probe within this long was not blocked.
ANSWER_S: Final = 0.1
#: Pauses between rounds that found nothing new.
BACK_OFF_S: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)


class Reporter:
    """``report`` and ``recovered`` are called by the watchdog; everything else happens on the reporter's own thread."""

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        timer: StackTimer | None,
        open_store: Callable[[], Store],
        finish_orphans: Callable[[Store], None],
        open_exporters: Callable[[Store | None], Exporters],
    ) -> None:
        self.config = config
        self.ledger = ledger
        self.timer = timer
        self.service = worker.service_name(config)
        self.started_at = time.time()
        self.faults: dict[str, int] = {}
        self.folder: Path | None = None
        self.book = Casebook(config, ledger, self._fault)
        self.pending: list[Follow] = []
        self.note: SilenceNote | None = None
        self._open_store = open_store
        self._finish_orphans = finish_orphans
        self._open_exporters = open_exporters
        self._queue: queue.SimpleQueue[Alarm | str | None] = queue.SimpleQueue()
        self._sweep = Sweep(config, ledger)
        self._strays = Strays(config, ledger)
        self._last_requests: list[dict[str, Any]] = []
        self._dull_rounds = 0
        self._next_round_ns = 0
        self._tools = Tools(config, ledger, timer)
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    # from other threads

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self._thread.start()

    def report(self, alarm: Alarm) -> None:
        if alarm.over and self.note is not None:
            self.note.put(_at(alarm.stall.since_ns), alarm.evidence[0].data)
        if self._queue.qsize() >= MAX_ALARMS:
            self.ledger.drop("alarms")
            return
        self._queue.put(alarm)

    def recovered(self, subject_id: str) -> None:
        if len(self.book):
            self._queue.put(subject_id)

    def stop(self, timeout_s: float = 2.0) -> None:
        """Ends the thread; what it is doing it finishes if that takes less than ``timeout_s``."""
        self._queue.put(None)
        self._ended.wait(timeout_s if self._thread is not None and self._thread.is_alive() else 0)

    # on its own thread

    def _run(self) -> None:
        self._guarded(self._prepare)
        beat_s = 0.0
        while True:
            try:
                item = self._queue.get(timeout=self._patience_s())
            except queue.Empty:
                item = ""
            if item is None:
                break
            if isinstance(item, Alarm):
                self._guarded(partial(self._handle, item))
            self._guarded(partial(self.book.close_what_is_over, item if isinstance(item, str) else ""))
            if self._sweep.wanted() and time.monotonic_ns() >= self._sweep.due_ns:
                self._guarded(lambda: self.pending.extend(self._sweep.look(time.monotonic_ns())))
            if self._strays.wanted() and time.monotonic_ns() >= self._strays.due_ns:
                self._guarded(self._look_for_strays)
            if self.pending:
                self._guarded(self._round)
            self._guarded(self._again)
            if time.monotonic() - beat_s >= worker.EVERY_S:
                beat_s = time.monotonic()
                self._guarded(self._beat)
        self._guarded(self._end)
        self._ended.set()

    def _patience_s(self) -> float:
        if self.pending:
            return max(0.01, (self._next_round_ns - time.monotonic_ns()) / 1e9)
        rest_s = worker.EVERY_S
        for looker in (self._sweep, self._strays):
            if looker.wanted():
                rest_s = max(0.01, min(rest_s, (looker.due_ns - time.monotonic_ns()) / 1e9))
        return min(0.25, rest_s) if self.book.open() else rest_s

    def _look_for_strays(self) -> None:
        new, gone = self._strays.look(time.monotonic_ns())
        for stall in new:
            self._handle(Alarm(stall))
        for subject_id in gone:
            self.book.close_what_is_over(subject_id)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:
            self._fault(f"{type(error).__name__}: {error}")
            if os.environ.get("HANGWATCH_DEBUG"):
                import traceback

                traceback.print_exc()

    def _fault(self, what: str) -> None:
        if what in self.faults or len(self.faults) < 20:
            self.faults[what] = self.faults.get(what, 0) + 1

    def _prepare(self) -> None:
        """The spool first: from then on a killed worker leaves something behind. Then what a stall needs, before there is one."""
        self._open_spool()
        import hangwatch.export
        import hangwatch.investigate
        import hangwatch.reading.live
        import hangwatch.snapshot

        self._tools.prepare()
        if self.book.store is not None:
            self._guarded(partial(self._finish_orphans, self.book.store))
        self.book.exporters = self._open_exporters(self.book.store)
        self.book.exporters.resume()
        self._guarded(lambda: hangwatch.investigate.prepare())

    def _open_spool(self) -> None:
        try:
            self.book.store = self._open_store()
            self.folder = self.book.store.files_dir(os.getpid())
            worker.write(self.folder, worker.facts(self.config, self.ledger, self.started_at, []))
            with contextlib.suppress(OSError):
                self.note = SilenceNote(self.folder)
        except Exception as error:
            _say(f"nothing can be kept in {self.config.spool} ({error}); stalls are still watched for and exported")
            self.ledger.drop("spool")
            self.book.store = self.folder = None

    def _beat(self) -> None:
        if self.folder is not None:
            worker.write(self.folder, worker.facts(self.config, self.ledger, self.started_at, self._last_requests))

    def _handle(self, alarm: Alarm) -> None:
        if alarm.follows:
            self.pending += alarm.follows
            return
        collection = self._tools.start({item.tool for item in alarm.evidence})
        first = self._sample([])
        if not alarm.over:
            time.sleep(BETWEEN_S)
        second = self._sample([]) if not alarm.over else first
        if alarm.uncertain and self._answers(alarm):
            self.ledger.drop("false suspicions")
            if alarm.pulse is not None:
                alarm.pulse.blocked = False
            return
        stacks = samples.stacks(alarm.pulse.mark, second) if alarm.pulse is not None and not alarm.over else ()
        evidence = (*lateness.with_collector(alarm.evidence, self.ledger, alarm.stall.since_ns), *collection.gather(), *stacks)
        known = self._tell(alarm.stall, second, None if alarm.over else first, evidence, 1)
        if alarm.over or (alarm.pulse is not None and not alarm.pulse.blocked):  # it came back before there was anything to close
            self.book.close(known)
            if alarm.over and self.note is not None and known.stored:
                self.note.clear()

    def _answers(self, alarm: Alarm) -> bool:
        """The probe: only now, as waking a loop heals what we look for. True when the loop came round at once."""
        if alarm.pulse is None:
            return False
        answered = threading.Event()
        try:
            alarm.pulse.mark.loop.call_soon_threadsafe(answered.set)
        except RuntimeError:  # closed meanwhile
            return True
        return answered.wait(ANSWER_S)

    # requests

    def _round(self) -> None:
        """One pair of samples for all requests that stalled since the last round."""
        if time.monotonic_ns() < self._next_round_ns:
            return
        stuck = [follow for follow in self.pending if follow.ended_ns is None]
        self.pending = []
        if not stuck:
            return
        second, first, evidence = self._two_looks(stuck)
        groups = samples.by_place([follow for follow in stuck if follow.ended_ns is None], second)
        before = len(self.book)
        for members in groups:
            oldest = members[0]
            stall = Stall("request", oldest.subject_id, oldest.since_ns, oldest.limit_ns or 0)
            self.book.follow(self._tell(stall, second, first, evidence, len(members)), members)
        self._dull_rounds = 0 if len(self.book) > before else min(self._dull_rounds + 1, len(BACK_OFF_S) - 1)
        self._next_round_ns = time.monotonic_ns() + int(BACK_OFF_S[self._dull_rounds] * 1e9)

    def _two_looks(self, stuck: list[Follow]) -> tuple[Snapshot, Snapshot, tuple[Evidence, ...]]:
        """The later sample, the earlier, and what the tools said meanwhile."""
        collection = self._tools.start(set())
        first = self._sample(stuck)
        time.sleep(BETWEEN_S)
        return self._sample(stuck), first, collection.gather()

    # an incident

    def _sample(self, stuck: list[Follow]) -> Snapshot:
        return samples.sample(self.ledger, stuck)

    def look(self) -> Snapshot:
        """One sample, from any thread."""
        return self._sample([])

    def _tell(self, stall: Stall, snapshot: Snapshot, earlier: Snapshot | None, evidence: tuple[Evidence, ...], count: int) -> Open:
        from hangwatch.investigate import investigate

        self._last_requests = to_json(snapshot.requests[:50])
        incident = investigate(
            stall, snapshot, evidence=evidence, earlier=earlier, service=self.service, host=worker.host(), opened_at=_at(stall.since_ns)
        )
        with worker.alone(self.folder):
            own_id, incident = incident.id, self.book.joined(incident, self.folder)
            again = self.book.counted(incident, count)
            if again is not None:
                return again
            entry = self.book.add(dataclasses.replace(incident, count=count))
        if self.config.pyspy:
            self.book.complete(entry, self._tools.with_native_stacks(entry.incident, earlier), surer_stays=incident.id != own_id)
        self.book.offer(entry)
        return entry

    def _again(self) -> None:
        """An open incident without a sure cause, once more: what was in motion may have come to rest."""
        from hangwatch.investigate import investigate

        entry = self.book.due(time.monotonic_ns())
        if entry is None:
            return
        entry.looks += 1
        second, first, evidence = self._two_looks(entry.follows)
        if entry.follows and all(follow.ended_ns is not None for follow in entry.follows):
            return
        known = entry.incident
        now = investigate(
            stall_now(entry), second, evidence=evidence, earlier=first, service=known.service, host=known.host, opened_at=known.opened_at
        )
        if sureness(now) > sureness(known):
            self.book.complete(entry, dataclasses.replace(now, id=known.id, count=known.count))
            self.book.lighten(entry)

    def _end(self) -> None:
        self.book.end(self.folder)
        if self.folder is not None:
            worker.remove(self.folder)
        if self.note is not None:
            self.note.close()
        if self.book.store is not None:
            self.book.store.leave(os.getpid())


def _at(since_ns: int) -> float:
    """Monotonic ns as seconds since the epoch."""
    return time.time() - (time.monotonic_ns() - since_ns) / 1e9


def _say(text: str) -> None:
    """One line on stderr, past logging: a stuck thread may hold a handler's lock."""
    try:
        os.write(2, f"hangwatch: {text}\n".encode())
    except OSError:
        pass
