"""What the watcher has told: kept in the spool, exported, counted when it comes again, ended when it is over.

A worker may have an agent that writes the same spool. One stall is one incident: what the agent has told already goes by the agent's
name, and what is told here first is marked in the worker's folder, so that the agent adds its own view to it (`Casebook.joined`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from hangwatch import lifesign, storefiles
from hangwatch.config import Config
from hangwatch.errors import HangwatchError
from hangwatch.export import Exporters
from hangwatch.records import Incident
from hangwatch.store import Store
from hangwatch.watcher import facts
from hangwatch.watcher.loops import LoopStall
from hangwatch.watcher.states import ConnectionStall
from hangwatch.worker import SAME_SEEN_S, SEEN, alone, same_stall

#: Incidents remembered for their end and for coming again.
MAX_OPEN = 200
#: The newest incidents of the spool, among which an agent's own word about the same stall is looked for.
MAX_LOOKED_AT = 20

#: One loop, or the connections of one process.
Found = LoopStall | list[ConnectionStall]


@dataclasses.dataclass(slots=True)
class _Open:
    """``ours``: nobody else keeps its record."""

    incident: Incident
    stall: Found
    told_at: float
    ours: bool
    closed: bool = False


class Kept:
    """``told`` and ``note`` as `Watcher` has them; ``lost()`` counts what is missing, by what it is. ``close_what_is_over`` may be called from
    another thread than ``keep``."""

    def __init__(
        self,
        config: Config,
        store: Store,
        exporters: Exporters,
        told: Callable[[Incident], None],
        note: Callable[[str], None],
        lost: Callable[[], Mapping[str, int]],
    ) -> None:
        self.config = config
        self.store = store
        self.exporters = exporters
        self._told = told
        self._note = note
        self._lost = lost
        self._open: dict[str, _Open] = {}

    def keep(self, incident: Incident, stall: Found) -> None:
        lost = self._lost()
        if lost:
            snapshot = incident.snapshot
            incident = dataclasses.replace(incident, snapshot=dataclasses.replace(snapshot, dropped={**snapshot.dropped, **lost}))
        key = f"{incident.snapshot.pid} {incident.fingerprint}"
        known = self._open.get(key)
        if known is not None and (not known.closed or time.monotonic() - known.told_at < self.config.again_after):
            known.incident = dataclasses.replace(known.incident, count=known.incident.count + 1, closed_at=None)
            known.stall, known.closed = stall, False
            self._rewrite(known)
            return
        with alone(self._folder_of(incident.snapshot.pid)):
            own = self._of_its_agent(incident)
            if own is None:
                self._add(incident)
            else:
                self._add_to(own, incident)
        if own is not None:
            incident = dataclasses.replace(incident, id=own.id)
        self._open[key] = _Open(incident, stall, time.monotonic(), ours=own is None)
        while len(self._open) > MAX_OPEN:
            del self._open[next(iter(self._open))]
        self._told(incident)
        if own is None:
            self.exporters.offer(incident)

    def close_what_is_over(self, is_over: Callable[[Found], bool]) -> None:
        for entry in list(self._open.values()):
            if not entry.closed and is_over(entry.stall):
                entry.closed = True
                entry.incident = dataclasses.replace(entry.incident, closed_at=time.time())
                self._rewrite(entry)
                if entry.ours:
                    self.exporters.recovered(entry.incident)

    def _add(self, incident: Incident) -> None:
        try:
            self.store.add(incident)
            folder = self._folder_of(incident.snapshot.pid)
            if folder is not None:
                _mark(folder, incident.id)
        except HangwatchError as error:
            self._note(f"{error} {error.help_text}")
        except OSError:  # its agent tidies up at this moment
            pass

    def _add_to(self, own: Incident, incident: Incident) -> None:
        """What the kernel told, beside the agent's record: the agent may rewrite that at any moment, and may not see into the kernel."""
        with contextlib.suppress(HangwatchError):
            self.store.attach(own.id, tuple(said for said in incident.evidence if said.tool == facts.TOOL))

    def _rewrite(self, entry: _Open) -> None:
        """Not where the worker's agent has made the record its own."""
        with contextlib.suppress(HangwatchError):
            if entry.ours:
                head = self._head(entry.incident.id)
                entry.ours = head is None or head.snapshot.source == entry.incident.snapshot.source
            if entry.ours:
                self.store.update(entry.incident)

    def _of_its_agent(self, incident: Incident) -> Incident | None:
        """The same stall, told by the agent in the process."""
        if self._folder_of(incident.snapshot.pid) is None:
            return None
        with contextlib.suppress(HangwatchError):
            for name in reversed(self.store.ids()[-MAX_LOOKED_AT:]):
                known = self._head(name)
                if known is not None and known.snapshot.source == "agent" and same_stall(known, incident, SAME_SEEN_S):
                    return known
        return None

    def _folder_of(self, pid: int) -> Path | None:
        """Of a worker whose agent writes this spool."""
        folder = self.store.workers / lifesign.name_of(pid)
        return folder if folder.is_dir() and not folder.is_symlink() else None

    def _head(self, incident_id: str) -> Incident | None:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            return storefiles.read_head(self.store.folder(incident_id))
        return None


def _mark(folder: Path, incident_id: str) -> None:
    """The folder is the service's own, we may be root: no link that lies there is followed. Raises OSError."""
    draft = folder / f".{SEEN}.{os.getpid()}.{time.monotonic_ns():x}"
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC, 0o644)
    try:
        os.write(handle, incident_id.encode())
    finally:
        os.close(handle)
    os.replace(draft, folder / SEEN)
