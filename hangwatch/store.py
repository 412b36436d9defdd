"""The spool: one folder per incident, written whole or not at all, shared by any number of workers without a lock between them.

    <spool>/incidents/<id>/incident.json        the record; each evidence's text lies beside it as <tool>.txt
    <spool>/workers/<pid>-<start>/              what a worker writes while it lives: worker.json, faulthandler.txt, lock
    <spool>/outbox/                             what waits to be sent (see `hangwatch.export`)

A folder appears by rename(2) after its files are on the disk, and goes by rename before it is emptied, so nobody ever reads half of
one. The ``lock`` of a worker is held for as long as the process lives, however it ends: a sign of life that also works between
containers that share the folder but not their pids.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import re
import shutil
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hangwatch import lifesign
from hangwatch.errors import NoSuchIncident, SpoolError
from hangwatch.records import Evidence, Incident, from_json, to_json

RECORD: Final = "incident.json"
#: What a killed writer or pruner left half done is removed after this long; no write takes anything like it.
UNFINISHED_S: Final = 3600.0
#: One incident larger than this is not one of ours: 10,000 tasks give some 20 MB.
MAX_RECORD_BYTES: Final = 256 << 20

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
            _write_files(draft, incident)
            _sync_folder(draft)
            _appear(draft, final)
            _sync_folder(self.incidents)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise self._trouble(error) from None
        self.prune(time.time(), keep=incident.id)
        return final

    def update(self, incident: Incident) -> None:
        """Replaces what `add` kept under this id (its count went up, it is over, more evidence). Adds it when it is not there."""
        folder = self.incidents / _checked(incident.id)
        if not folder.is_dir():
            self.add(incident)
            return
        try:
            _write_files(folder, incident)
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
        """Removes incidents not touched for ``max_days``, then the oldest until the rest fits ``max_mb``; how many that were.

        ``now`` in seconds since the epoch. ``keep`` names one that stays whatever its size. Never raises.
        """
        sizes = sorted(self._sizes(now))
        total = sum(size for _, _, size in sizes)
        removed = 0
        for touched_at, name, size in sizes:
            if now - touched_at <= self.max_age_s and total <= self.max_bytes:
                break
            if name == keep:
                continue
            with contextlib.suppress(SpoolError):
                removed += self.remove(name)
                total -= size
        return removed

    def _sizes(self, now: float) -> Iterator[tuple[float, str, int]]:
        """(last touched, name, bytes on disk) of each incident; sweeps away what was left half done on the way."""
        for entry in _scan(self.incidents):
            with contextlib.suppress(OSError):
                stat = entry.stat(follow_symlinks=False)
                if entry.name.startswith("."):
                    if now - stat.st_mtime > UNFINISHED_S:
                        shutil.rmtree(entry.path, ignore_errors=True)
                    continue
                within = [(file.name, file.stat(follow_symlinks=False)) for file in os.scandir(entry.path)]
                touched_at = max((s.st_mtime for name, s in within if name == RECORD), default=stat.st_mtime)
                yield touched_at, entry.name, sum(s.st_blocks * 512 for _, s in within)

    def _trouble(self, error: OSError) -> SpoolError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            help_text = "Free some space there, or name another folder with --spool DIR or HANGWATCH_SPOOL."
            return SpoolError(f"no room left for incidents in {self.root} ({os.strerror(error.errno)})", help_text)
        return SpoolError(f"cannot use the spool {self.root}: {error.strerror or error} ({error.filename or self.root})")

    # Reading

    def list(self) -> Incidents:
        """All incidents, oldest first. What cannot be read is left out and told in ``broken``. Raises SpoolError when the spool itself
        cannot be read; one that does not exist is empty."""
        self.broken = []
        found = []
        for name in self.ids():
            try:
                found.append(self._read(name))
            except FileNotFoundError:
                if (self.incidents / name).is_dir():
                    self.broken.append((self.incidents / name, f"it has no {RECORD}"))
            except (OSError, ValueError, TypeError, KeyError) as error:
                self.broken.append((self.incidents / name, str(error) or type(error).__name__))
        return sorted(found, key=lambda incident: (incident.opened_at, incident.id))

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
        return (self.incidents / incident_id / RECORD).is_file()

    def load(self, id_or_prefix: str) -> Incident:
        """By its id, the beginning of it, the beginning of the part after the dash, or ``last``. Raises NoSuchIncident, also for two that fit."""
        name = self.resolve(id_or_prefix)
        try:
            return self._read(name)
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

    def _read(self, name: str) -> Incident:
        folder = self.incidents / name
        if (folder / RECORD).stat().st_size > MAX_RECORD_BYTES:
            raise ValueError(f"{RECORD} is larger than {MAX_RECORD_BYTES >> 20} MB")
        incident = from_json(Incident, json.loads((folder / RECORD).read_bytes()))
        if not isinstance(incident.snapshot.pid, int) or incident.id != name:
            raise ValueError(f"{RECORD} is of something else")
        evidence = tuple(_with_text(folder, said) for said in incident.evidence)
        return dataclasses.replace(incident, evidence=evidence)

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
            weakref.finalize(self, _close, handle)
            self._own[pid] = folder
        return self._own[pid]

    def worker_dirs(self) -> Workers:
        """(folder, pid, does that process live?) of every worker that has not tidied up after itself, by name."""
        found = []
        for entry in sorted(_scan(self.workers), key=lambda e: e.name):
            pid, _, tick = entry.name.partition("-")
            if pid.isdigit() and entry.is_dir(follow_symlinks=False):
                found.append((Path(entry.path), int(pid), lifesign.lives(Path(entry.path), int(pid), tick)))
        return found


def _checked(incident_id: str) -> str:
    if not _ID.fullmatch(incident_id):
        raise SpoolError(f"{incident_id!r} is no incident's id", "An id is letters, digits, dots and dashes.")
    return incident_id


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


# One incident's files


def _write_files(folder: Path, incident: Incident) -> None:
    """Texts first, the record that names them last; each whole or not at all. Raises OSError."""
    bare = []
    for said in incident.evidence:
        if said.text:
            text = said.text.encode("utf-8", "backslashreplace")
            path = folder / _text_name(said)
            if not path.exists() or path.stat().st_size != len(text):
                _write(path, text)
        bare.append(dataclasses.replace(said, text=""))
    _write(folder / RECORD, json.dumps(to_json(dataclasses.replace(incident, evidence=tuple(bare)))).encode("utf-8", "backslashreplace"))


def _write(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns():x}")
    try:
        handle = os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def _text_name(said: Evidence) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", said.tool)[:60] + ".txt"


def _with_text(folder: Path, said: Evidence) -> Evidence:
    try:
        return dataclasses.replace(said, text=(folder / _text_name(said)).read_text("utf-8", "replace"))
    except OSError:
        return said


def _appear(draft: Path, final: Path) -> None:
    """The same incident from two finders (a killed worker's, say): the first stays."""
    try:
        draft.rename(final)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        shutil.rmtree(draft, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that cannot
            raise
    finally:
        os.close(handle)


def _close(handle: int) -> None:
    with contextlib.suppress(OSError):
        os.close(handle)
