"""The spool: one folder per incident, written whole or not at all, shared by many workers without a lock.

    <spool>/incidents/<id>/incident.json      the Incident, as `records.to_json` gives it
    <spool>/incidents/<id>/<tool>.txt         what a tool said, for whoever works with cat and tar
    <spool>/workers/<pid>-<start>/            worker.json and faulthandler.txt of a live (or killed) worker
    <spool>/drafts/                           what is being written; a leftover of a killed writer is pruned after an hour
    <spool>/outbox/                           what the exporters have not yet got rid of

A folder is filled under ``drafts`` and renamed: whoever lists the spool sees all of an incident or nothing, also after ``kill -9``
in the middle. An id begins with its time, so that names sort by age.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hangwatch.errors import NoSuchIncident, SpoolError
from hangwatch.records import Incident, from_json, to_json

INCIDENT_FILE = "incident.json"
#: An unfinished draft older than this is a killed writer's: writing takes well under a second.
DRAFT_MAX_AGE_S = 3600.0
#: A worker's folder without a beat for this long, and without a process, is of no more use.
WORKER_MAX_AGE_S = 7 * 86400.0


class Store:
    """One spool. Safe to use from several processes and threads at once; holds nothing in memory."""

    def __init__(self, root: Path | str, max_mb: float = 200.0, max_days: float = 14.0) -> None:
        """Makes the folders (0700: incidents hold paths and routes). Raises SpoolError when that cannot be done."""
        self.root = Path(root)
        self.max_mb = max_mb
        self.max_days = max_days
        try:
            for folder in (self.root, self.incidents, self.workers, self.drafts):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SpoolError(f"the spool {self.root} cannot be made: {error.strerror or error}") from error
        if not os.access(self.incidents, os.W_OK):
            raise SpoolError(f"the spool {self.root} cannot be written by this user")

    @classmethod
    def existing(cls, root: Path | str) -> Store:
        """The spool for reading only: nothing is made. Raises SpoolError when there is none or it cannot be read."""
        store = cls.__new__(cls)
        store.root, store.max_mb, store.max_days = Path(root), 200.0, 14.0
        if store.root.exists() and not os.access(store.root, os.R_OK | os.X_OK):
            raise SpoolError(f"the spool {root} cannot be read by this user", "Run this as the user of the service, or as root.")
        return store

    @property
    def incidents(self) -> Path:
        return self.root / "incidents"

    @property
    def workers(self) -> Path:
        return self.root / "workers"

    @property
    def drafts(self) -> Path:
        return self.root / "drafts"

    @property
    def outbox(self) -> Path:
        return self.root / "outbox"

    def add(self, incident: Incident) -> Path:
        """Puts the incident on disk and returns its folder; prunes what is too old or too much. Raises OSError (disk full)."""
        draft = self.drafts / f"{incident.id}-{secrets.token_hex(4)}"
        final = self.incidents / _safe(incident.id)
        try:
            draft.mkdir(mode=0o700)
            for evidence in incident.evidence:
                if evidence.text:
                    (draft / f"{_safe(evidence.tool)}.txt").write_text(evidence.text, errors="replace")
            _write(draft / INCIDENT_FILE, incident)
            os.replace(draft, final)
            _sync_folder(self.incidents)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        with contextlib.suppress(OSError):
            self.prune(keep=incident.id)
        return final

    def update(self, incident: Incident) -> None:
        """Replaces a stored incident (count, end, evidence that came later). Does nothing when it was pruned. Raises OSError."""
        folder = self.incidents / _safe(incident.id)
        if not folder.is_dir():
            return
        draft = folder / f".{INCIDENT_FILE}.{secrets.token_hex(4)}"
        try:
            for evidence in incident.evidence:
                text = folder / f"{_safe(evidence.tool)}.txt"
                if evidence.text and not text.exists():
                    text.write_text(evidence.text, errors="replace")
            _write(draft, incident)
            os.replace(draft, folder / INCIDENT_FILE)
        except OSError:
            draft.unlink(missing_ok=True)
            raise

    def ids(self) -> Sequence[str]:
        """Ids of all incidents, oldest first."""
        try:
            return sorted(entry.name for entry in os.scandir(self.incidents) if entry.is_dir() and not entry.name.startswith("."))
        except OSError:
            return []

    def list(self) -> Sequence[Incident]:
        """All incidents that can be read, oldest first; a broken folder is left out (`broken` names it)."""
        return [incident for _, incident in self._read_all() if incident is not None]

    def broken(self) -> Sequence[str]:
        """Ids whose folder cannot be read."""
        return [name for name, incident in self._read_all() if incident is None]

    def load(self, name: str) -> Incident:
        """The incident of this id, of the one that begins so, or the newest for ``last``. Raises NoSuchIncident, SpoolError."""
        ids = self.ids()
        if name == "last" and ids:
            found = [*ids[-1:]]
        else:
            found = [known for known in ids if known == name] or [known for known in ids if known.startswith(name)]
        if len(found) != 1:
            what = (
                f"{len(found)} incidents begin with {name!r}: {', '.join(found[:5])}" if found else f"no incident {name!r} in {self.root}"
            )
            raise NoSuchIncident(what)
        incident = self._read(found[0])
        if incident is None:
            raise SpoolError(f"incident {found[0]} cannot be read", f"Its folder is {self.incidents / found[0]}.")
        return incident

    def folder(self, incident_id: str) -> Path:
        """Where an incident lies."""
        return self.incidents / _safe(incident_id)

    def remove(self, incident_id: str) -> None:
        """Takes an incident out. The rename first: nobody ever lists half of one."""
        gone = self.drafts / f"gone-{secrets.token_hex(8)}"
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.folder(incident_id), gone)
        shutil.rmtree(gone, ignore_errors=True)

    def files_dir(self, pid: int) -> Path:
        """The folder for a live worker's own files. The same for the same process, never one of an earlier process of that pid."""
        folder = self.workers / f"{pid}-{_start_of(pid)}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def prune(self, now: float | None = None, keep: str = "") -> int:
        """Removes what is too old, then the oldest until the size fits; never ``keep``. Returns how many incidents went."""
        now = time.time() if now is None else now
        sizes = {name: _size(self.incidents / name) for name in self.ids()}
        total, removed = sum(size for size, _ in sizes.values()), 0
        for name, (size, written_at) in sizes.items():
            too_old = written_at < now - self.max_days * 86400
            if name != keep and (too_old or total > self.max_mb * 1e6):
                self.remove(name)
                total -= size
                removed += 1
        self._sweep(now)
        return removed

    def _sweep(self, now: float) -> None:
        """Leftovers of killed writers and of workers long gone."""
        for folder, age_s in ((self.drafts, DRAFT_MAX_AGE_S), (self.workers, WORKER_MAX_AGE_S)):
            with contextlib.suppress(OSError):
                for entry in list(os.scandir(folder)):
                    if entry.stat().st_mtime < now - age_s and not (folder == self.workers and _alive(entry.name)):
                        shutil.rmtree(entry.path, ignore_errors=True)

    def worker_folders(self) -> Sequence[tuple[Path, dict[str, Any], bool]]:
        """Each worker's folder, what its worker.json says, and whether that very process still lives."""
        found = []
        with contextlib.suppress(OSError):
            for entry in sorted(os.scandir(self.workers), key=lambda e: e.name):
                try:
                    facts = json.loads((Path(entry.path) / "worker.json").read_text())
                except (OSError, ValueError):
                    facts = {}
                found.append((Path(entry.path), facts if isinstance(facts, dict) else {}, _alive(entry.name)))
        return found

    def _read_all(self) -> Iterator[tuple[str, Incident | None]]:
        for name in self.ids():
            yield name, self._read(name)

    def _read(self, name: str) -> Incident | None:
        try:
            return from_json(Incident, json.loads((self.incidents / name / INCIDENT_FILE).read_text()))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError):
            return None


def _write(path: Path, incident: Incident) -> None:
    """The bytes are on disk when this returns: a power cut after it loses nothing."""
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        json.dump(to_json(incident), file, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _safe(name: str) -> str:
    """A file name of an id or a tool's name: nothing in it leads out of its folder."""
    cleaned = "".join(c if c.isalnum() or c in "-_.+" else "-" for c in name).lstrip(".")
    return cleaned[:100] or "unnamed"


def _size(folder: Path) -> tuple[int, float]:
    """Bytes, and when its record was last written (seconds since the epoch)."""
    total, written_at = 0, 0.0
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            facts = entry.stat()
            total += facts.st_size
            written_at = max(written_at, facts.st_mtime)
    return total, written_at


def _start_of(pid: int) -> int:
    """When the process began, in clock ticks since boot (proc(5), stat field 22): with the pid it names a process for good."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _alive(folder_name: str) -> bool:
    """Does the process of ``<pid>-<start>`` still run? A zombie does not."""
    pid, _, start = folder_name.partition("-")
    try:
        fields = Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()
        return fields[19] == start and fields[0] not in "ZX"
    except (OSError, ValueError, IndexError):
        return False
