"""The spool: one folder per incident, written whole or not at all, shared by any number of workers without a lock between them.

    <spool>/incidents/<id>/incident.json        the record; each evidence's text lies beside it as <tool>.txt
    <spool>/incidents/<id>/head.json            the same without what makes it large; count and end are newest here
    <spool>/workers/<pid>-<start>/              what a worker writes while it lives: worker.json, faulthandler.txt, lock
    <spool>/outbox/                             what waits to be sent (see `hangwatch.export`)

A folder appears by rename(2) after its files are on the disk, and goes by rename before it is emptied, so nobody ever reads half of
one. The ``lock`` of a worker is held for as long as the process lives, however it ends: a sign of life that also works between
containers that share the folder but not their pids.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from hangwatch import lifesign, storefiles
from hangwatch.errors import NoSuchIncident, SpoolError
from hangwatch.pruning import Pruner, scan
from hangwatch.records import Evidence, Incident

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# `Store.list` hides the builtin inside the class.
Incidents = list[Incident]
Names = list[str]
Broken = list[tuple[Path, str]]
Workers = list[tuple[Path, int, bool]]


class Store:
    """One spool. Makes no folder before something is written. ``broken`` says of the last `list` what could not be read and why.

    Methods that write raise SpoolError, and never anything else for what a disk does.
    """

    def __init__(self, root: Path | str, max_mb: float = 200.0, max_days: float = 14.0) -> None:
        self.root = Path(root)
        self.max_bytes = int(max_mb * 1e6)
        self.max_age_s = max_days * 86400.0
        self.broken: Broken = []
        self._own: dict[int, Path] = {}
        self._pruner = Pruner(self.incidents, self.remove)
        self._locks: dict[int, Callable[[], object]] = {}

    @classmethod
    def existing(cls, root: Path | str) -> Store:
        """The spool for reading. Raises SpoolError when it cannot be read; one that does not exist is empty."""
        store = cls(root)
        store.ids()
        return store

    @property
    def incidents(self) -> Path:
        return self.root / "incidents"

    @property
    def workers(self) -> Path:
        return self.root / "workers"

    @property
    def outbox(self) -> Path:
        return self.root / "outbox"

    # Writing

    def add(self, incident: Incident) -> Path:
        """Keeps it and makes room for it; the folder it lies in. Adding the same id again replaces nothing and is no error."""
        final = self.incidents / _checked(incident.id)
        draft = self.incidents / f".{incident.id}.{os.getpid()}.{time.monotonic_ns():x}.tmp"
        try:
            self.incidents.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft.mkdir(mode=0o700)
            self._pruner.wrote(storefiles.write_files(draft, incident), 2 + sum(bool(said.text) for said in incident.evidence))
            storefiles.sync_folder(draft)
            storefiles.appear(draft, final)
            storefiles.sync_folder(self.incidents)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise self._trouble(error) from None
        if self._pruner.due(self.max_bytes):
            self.prune(time.time(), keep=incident.id)
        return final

    def update(self, incident: Incident) -> None:
        """Replaces what `add` kept under this id (its count went up, it is over, more evidence). Adds it when it is not there."""
        folder = self.incidents / _checked(incident.id)
        if not folder.is_dir():
            self.add(incident)
            return
        self._write_into(folder, lambda there: storefiles.write_files(there, incident))

    def attach(self, incident_id: str, evidence: tuple[Evidence, ...]) -> None:
        """Further evidence on an incident whose record somebody else keeps; `load` shows it with the others'."""
        folder = self.incidents / _checked(incident_id)
        if evidence and folder.is_dir():
            self._write_into(folder, lambda there: storefiles.write_added(there, evidence))

    def mark(self, incident: Incident) -> None:
        """Keeps its count and end, and nothing else of it: enough where the record is large and has not changed."""
        if (self.incidents / _checked(incident.id)).is_dir():
            self._write_into(self.incidents / incident.id, lambda folder: storefiles.write_head(folder, incident))

    def _write_into(self, folder: Path, write: Callable[[Path], int]) -> None:
        try:
            write(folder)
        except FileNotFoundError:  # pruned at this very moment
            return
        except OSError as error:
            raise self._trouble(error) from None

    def remove(self, incident_id: str) -> bool:
        """False when somebody else was faster."""
        gone = self.incidents / f".{incident_id}.{os.getpid()}.{time.monotonic_ns():x}.gone"
        try:
            (self.incidents / incident_id).rename(gone)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._trouble(error) from None
        shutil.rmtree(gone, ignore_errors=True)
        return True

    def prune(self, now: float, keep: str = "") -> int:
        """Removes incidents not touched for ``max_days``, and the oldest where the rest does not fit ``max_mb``; how many that were.

        ``now`` in seconds since the epoch. ``keep`` names one that stays whatever its size. Never raises.
        """
        return self._pruner.prune(now, self.max_bytes, self.max_age_s, keep)

    def _trouble(self, error: OSError) -> SpoolError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            help_text = "Free some space there, or name another folder with --spool DIR or HANGWATCH_SPOOL."
            return SpoolError(f"no room left for incidents in {self.root} ({os.strerror(error.errno)})", help_text)
        return SpoolError(f"cannot use the spool {self.root}: {error.strerror or error} ({error.filename or self.root})")

    # Reading

    def list(self) -> Incidents:
        """All incidents, oldest first. What cannot be read is left out and told in ``broken``. Raises SpoolError when the spool itself
        cannot be read; one that does not exist is empty."""
        return sorted(self.each(), key=_began)

    def each(self) -> Iterator[Incident]:
        """As `list`, one at a time: only that one is in memory. In the order of their ids."""
        return self._each(storefiles.read)

    def heads(self) -> Incidents:
        """As `list`, without snapshots, evidence and all but the first finding: what a table needs, in a fraction of the time."""
        return sorted(self._each(storefiles.read_head), key=_began)

    def _each(self, read: Callable[[Path], Incident]) -> Iterator[Incident]:
        self.broken = []
        for name in self.ids():
            try:
                incident = read(self.incidents / name)
            except FileNotFoundError:
                if (self.incidents / name).is_dir():
                    self.broken.append((self.incidents / name, f"it has no {storefiles.RECORD}"))
            except (OSError, ValueError, TypeError, KeyError) as error:
                self.broken.append((self.incidents / name, str(error) or type(error).__name__))
            else:
                yield incident

    def ids(self) -> Names:
        """Ids of what is kept, in the order in which it began. Reads no incident."""
        try:
            names = os.listdir(self.incidents)
        except FileNotFoundError:
            if self.root.exists() and not self.root.is_dir():
                raise SpoolError(f"the spool {self.root} is not a folder") from None
            return []
        except OSError as error:
            raise self._trouble(error) from None
        return sorted(name for name in names if _ID.fullmatch(name))

    def has(self, incident_id: str) -> bool:
        return (self.incidents / incident_id / storefiles.RECORD).is_file()

    def load(self, id_or_prefix: str) -> Incident:
        """By its id, the beginning of it, the beginning of the part after the dash, or ``last``. Raises NoSuchIncident, also for two that fit."""
        name = self.resolve(id_or_prefix)
        try:
            return storefiles.read(self.incidents / name)
        except FileNotFoundError:
            raise NoSuchIncident(f"incident {name} has just been removed, or was never whole") from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            help_text = f"What there is of it lies in {self.incidents / name}."
            raise SpoolError(f"incident {name} cannot be read: {error}", help_text) from None

    def resolve(self, id_or_prefix: str) -> str:
        """The one id that is meant. Raises NoSuchIncident."""
        ids = self.ids()
        if id_or_prefix == "last" and ids:
            return ids[-1]
        if id_or_prefix in ids:
            return id_or_prefix
        fitting = [
            name for name in ids if id_or_prefix and (name.startswith(id_or_prefix) or name.partition("-")[2].startswith(id_or_prefix))
        ]
        if len(fitting) == 1:
            return fitting[0]
        if not fitting:
            raise NoSuchIncident(f"no incident {id_or_prefix!r} in {self.root}")
        some = ", ".join(fitting[:5]) + (", …" if len(fitting) > 5 else "")
        raise NoSuchIncident(f"{id_or_prefix!r} fits {len(fitting)} incidents: {some}", "Give more characters, or those after the dash.")

    def folder(self, incident_id: str) -> Path:
        return self.incidents / incident_id

    # Workers

    def files_dir(self, pid: int) -> Path:
        """The folder for what this process writes while it lives, made at the first call. ``pid``: its own. Raises SpoolError."""
        if pid not in self._own:
            folder = self.workers / lifesign.name_of(pid)
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                handle = lifesign.give(folder, pid)
            except OSError as error:
                raise self._trouble(error) from None
            self._locks[pid] = weakref.finalize(self, _close, handle)
            self._own[pid] = folder
        return self._own[pid]

    def leave(self, pid: int) -> None:
        """This process has tidied up: the lock that says it lives is let go now, not when the last reference to this goes."""
        self._own.pop(pid, None)
        self._locks.pop(pid, lambda: None)()

    def worker_dirs(self) -> Workers:
        """(folder, pid, does that process live?) of every worker that has not tidied up after itself, by name."""
        found = []
        for entry in sorted(scan(self.workers), key=lambda e: e.name):
            pid, _, tick = entry.name.partition("-")
            if pid.isdigit() and entry.is_dir(follow_symlinks=False):
                found.append((Path(entry.path), int(pid), lifesign.lives(Path(entry.path), int(pid), tick)))
        return found


def _checked(incident_id: str) -> str:
    if not _ID.fullmatch(incident_id):
        raise SpoolError(f"{incident_id!r} is no incident's id", "An id is letters, digits, dots and dashes.")
    return incident_id


def _began(incident: Incident) -> tuple[float, str]:
    return incident.opened_at, incident.id


def _close(handle: int) -> None:
    with contextlib.suppress(OSError):
        os.close(handle)
