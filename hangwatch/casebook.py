"""The incidents of this process that are open, or were a moment ago: counted, kept on disk, exported, looked at again, closed.

Used by the reporter's thread alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hangwatch import storefiles
from hangwatch.config import Config
from hangwatch.ledger import Follow, Ledger
from hangwatch.records import Incident, Stall, to_json
from hangwatch.worker import SAME_S, SAME_SEEN_S, SEEN, TOLD, same_stall

if TYPE_CHECKING:
    from hangwatch.export import Exporters
    from hangwatch.store import Store

#: Incidents remembered for their end and for coming again.
MAX_OPEN: Final = 30
#: Records of a snapshot that are kept in memory with its incident; of a larger one (10,000 tasks are 60 MB) only what its end is told by.
MAX_HELD: Final = 500
#: Bytes of a record that is read back within the service: some milliseconds.
MAX_READ_BACK: Final = 500_000
#: Requests followed until an incident's end.
MAX_FOLLOWS: Final = 1000
#: An incident without a sure cause is looked at again when it is this many limits old: what was in motion at the first look has
#: come to rest (a client's buffers have filled, the last worker has joined the queue), or has ended.
AGAIN_AT_LIMITS: Final = (2.0, 4.0, 8.0)
_SURE: Final = {"": 0, "suspected": 1, "likely": 2, "proved": 3}


@dataclasses.dataclass(slots=True)
class Open:
    """One incident and what its end is told by: its requests, or the recovery of ``stall``'s subject."""

    incident: Incident
    opened_ns: int
    stored: bool
    follows: list[Follow] = dataclasses.field(default_factory=list)
    closed: bool = False
    looks: int = 0
    #: The incident here is as the store has it, save for count and end.
    whole: bool = True

    @property
    def again_ns(self) -> int | None:
        """When to look once more; None when that is of no more use."""
        if self.closed or self.looks >= len(AGAIN_AT_LIMITS) or sureness(self.incident) >= _SURE["proved"]:
            return None
        limit_ns = max(self.incident.stall.limit_ns, 500_000_000)
        return self.opened_ns + int(limit_ns * (AGAIN_AT_LIMITS[self.looks] - 1))


def sureness(incident: Incident) -> int:
    """0 for nothing said; a cause that is known is worth more than ``unknown``, however it is put."""
    first = incident.findings[0] if incident.findings else None
    return 0 if first is None or first.cause == "unknown" else _SURE.get(first.confidence, 0)


class Casebook:
    """``store`` and ``exporters`` are given once they are there; without a store incidents are exported all the same."""

    def __init__(self, config: Config, ledger: Ledger, fault: Callable[[str], None]) -> None:
        self.config = config
        self.ledger = ledger
        self.store: Store | None = None
        self.exporters: Exporters | None = None
        self._fault = fault
        self._entries: dict[str, Open] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def open(self) -> list[Open]:
        return [entry for entry in self._entries.values() if not entry.closed]

    def told(self) -> list[dict[str, Any]]:
        """The open incidents in short, as JSON values. From any thread."""
        entries = [entry for entry in list(self._entries.values()) if not entry.closed]
        return [
            {
                "id": entry.incident.id,
                "stall": to_json(entry.incident.stall),
                "causes": [finding.cause for finding in entry.incident.findings],
                "title": entry.incident.findings[0].title if entry.incident.findings else "",
                "count": entry.incident.count,
                "opened_at": entry.incident.opened_at,
            }
            for entry in entries
        ]

    def counted(self, incident: Incident, count: int) -> Open | None:
        """The same thing again, while it is open or was a moment ago: one incident with a higher count."""
        known = self._entries.get(incident.fingerprint)
        if known is None or (known.closed and time.monotonic_ns() - known.opened_ns > self.config.again_after * 1e9):
            return None
        known.incident = dataclasses.replace(known.incident, count=known.incident.count + count, closed_at=None)
        known.closed = False
        self._update(known)
        return known

    def add(self, incident: Incident) -> Open:
        """On disk first."""
        entry = Open(incident, time.monotonic_ns(), self._keep(incident))
        self._entries[incident.fingerprint] = entry
        if len(self._entries) > MAX_OPEN:
            oldest = min(self._entries, key=lambda key: (not self._entries[key].closed, self._entries[key].opened_ns))
            del self._entries[oldest]
        return entry

    def joined(self, incident: Incident, folder: Path | None) -> Incident:
        """Where somebody outside has told this very stall in our place: under the name it has there, with what was seen there."""
        return self._joined(incident, folder, TOLD, SAME_S) or self._joined(incident, folder, SEEN, SAME_SEEN_S) or incident

    def _joined(self, incident: Incident, folder: Path | None, mark: str, within_s: float) -> Incident | None:
        with contextlib.suppress(Exception):
            if folder is not None and self.store is not None and (folder / mark).exists():
                told = self._told_outside(self.store, (folder / mark).read_text())
                if same_stall(told, incident, within_s):
                    if mark == SEEN:  # the next stall is another one
                        (folder / mark).unlink()
                    return _both(incident, told)
        return None

    def _told_outside(self, store: Store, incident_id: str) -> Incident:
        """Of a large record only the head: to read ten thousand tasks back would keep the interpreter from the service."""
        name = store.resolve(incident_id)
        if (store.folder(name) / storefiles.RECORD).stat().st_size > MAX_READ_BACK:
            return storefiles.read_head(store.folder(name))
        return store.load(name)

    def follow(self, entry: Open, follows: list[Follow]) -> None:
        entry.follows += follows[: MAX_FOLLOWS - len(entry.follows)]

    def complete(self, entry: Open, incident: Incident, surer_stays: bool = False) -> None:
        """More is known of an open incident: further evidence, a surer cause. ``surer_stays``: what was told by somebody outside, who saw it
        while it lasted, unless this is as sure."""
        if surer_stays and sureness(incident) < sureness(entry.incident):
            incident = dataclasses.replace(incident, findings=entry.incident.findings, fingerprint=entry.incident.fingerprint)
        if incident.fingerprint != entry.incident.fingerprint:
            self._entries.pop(entry.incident.fingerprint, None)
            self._entries.setdefault(incident.fingerprint, entry)
        entry.incident, entry.whole = incident, True
        self._update(entry)

    def due(self, now_ns: int) -> Open | None:
        """An open incident that should be looked at again."""
        return next((entry for entry in self.open() if entry.again_ns is not None and now_ns >= entry.again_ns), None)

    def offer(self, entry: Open) -> None:
        if self.exporters is not None:
            self.exporters.offer(entry.incident)
        self.lighten(entry)

    def lighten(self, entry: Open) -> None:
        """What is on disk and has been told needs no copy in memory. Without a store it is the only one."""
        light = lightened(entry.incident) if entry.stored else entry.incident
        entry.whole = entry.whole and light is entry.incident
        entry.incident = light

    def close_what_is_over(self, subject_id: str) -> None:
        """``subject_id`` has recovered; requests tell of their end themselves."""
        for entry in self.open():
            if entry.follows:
                entry.follows = [follow for follow in entry.follows if follow.ended_ns is None]
                if not entry.follows:
                    self.close(entry)
            elif subject_id and entry.incident.stall.subject_id == subject_id:
                self.close(entry)

    def close(self, entry: Open, how: str = "recovered") -> None:
        entry.closed = True
        entry.incident = dataclasses.replace(entry.incident, closed_at=time.time())
        self._update(entry)
        if self.exporters is not None:
            self.exporters.recovered(entry.incident, how)

    def end(self, folder: Path | None) -> None:
        """The process ends in good order: what is open is over, what was told in its place (see `orphans`) too."""
        if folder is not None and self.store is not None:
            with contextlib.suppress(Exception):
                known = self.store.load((folder / TOLD).read_text())
                if known.closed_at is None:
                    self.store.update(dataclasses.replace(known, closed_at=time.time()))
        for entry in self.open():
            self.close(entry, "shutdown")
        if self.exporters is not None:
            self.exporters.close(2.0)

    def _keep(self, incident: Incident) -> bool:
        if self.store is None:
            return False
        try:
            if self.store.has(incident.id):
                self.store.update(incident)
            else:
                self.store.add(incident)
        except Exception as error:
            self.ledger.drop("incidents not kept")
            self._fault(f"store: {error}")
            return False
        return True

    def _update(self, entry: Open) -> None:
        if self.store is not None and entry.stored:
            try:
                if entry.whole:
                    self.store.update(entry.incident)
                else:
                    self.store.mark(entry.incident)
            except Exception:
                self.ledger.drop("incidents not kept")


def _both(own: Incident, told: Incident) -> Incident:
    """One incident of two views. The surer says why; what a tool saw while it lasted is worth more than what it sees after."""
    seen = {said.tool for said in told.evidence if said.text}
    evidence = (*told.evidence, *(said for said in own.evidence if said.tool not in seen))
    surer = told if sureness(told) > sureness(own) else own
    began = min(own.opened_at, told.opened_at)
    return dataclasses.replace(
        own, id=told.id, evidence=evidence, findings=surer.findings, fingerprint=surer.fingerprint, opened_at=began, closed_at=None
    )


def lightened(incident: Incident) -> Incident:
    """Itself where its snapshot is small; else with those records only that its end is told by: its loops, its request, that one's task."""
    seen = incident.snapshot
    parts = (seen.tasks, seen.threads, seen.primitives, seen.waits, seen.connections, seen.requests, seen.history)
    if sum(map(len, parts)) <= MAX_HELD:
        return incident
    running = {loop.running_task_id for loop in seen.loops if loop.id == incident.stall.subject_id}
    subjects = {incident.stall.subject_id, *running}
    tasks = tuple(task for task in seen.tasks if task.id in subjects)
    subjects |= {task.request_id for task in tasks}
    requests = tuple(request for request in seen.requests if request.id in subjects or request.task_id in subjects)
    wanted = {request.task_id for request in requests} | subjects
    tasks = tuple(task for task in seen.tasks if task.id in wanted)
    light = dataclasses.replace(seen, tasks=tasks, threads=(), primitives=(), waits=(), connections=(), requests=requests, history=())
    return dataclasses.replace(incident, snapshot=light, evidence=())


def stall_now(entry: Open) -> Stall:
    """The stall of an open incident, by its oldest request that still waits."""
    oldest = next((follow for follow in entry.follows if follow.ended_ns is None), None)
    if oldest is None:
        return entry.incident.stall
    return Stall("request", oldest.subject_id, oldest.since_ns, oldest.limit_ns or 0)
