"""What waits to be sent, on disk: ``<spool>/outbox/<owner>/<key>.<signal>.json``, one small file for each parcel, or a note (see `notes`).

Each process owns one folder and holds a lock on its ``lock`` file for as long as it lives; the kernel lets go of it however the process
ends. A later process, or the CLI, takes over folders whose lock is free: what a killed worker did not send is sent by the next.
No file says "sent": what was sent is deleted.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from hangwatch.export.notes import SUFFIX, Note, read
from hangwatch.export.specs import Parcel
from hangwatch.records import from_json, to_json

LOCK = "lock"
#: Parcels that one owner keeps, and as many that are with its courier; about 8 KB each. Beyond, the oldest is dropped and counted.
MAX_PARCELS = 2000
#: From a file to its place in a queue takes its writer less.
SETTLED_NS = 500_000_000


class Outbox:
    """The outbox of this process. Not for use by several threads, save for `add`, which one other thread may call."""

    def __init__(self, spool: Path, limit: int = MAX_PARCELS) -> None:
        self.root = spool / "outbox"
        self.limit = limit
        self.dropped = 0
        self._folder: Path | None = None
        self._planned: Path | None = None
        self._lock = -1
        self._kept = 0
        #: Between the two threads; no one else knows of it, and a child gets its own.
        self._making = threading.Lock()

    def _own(self) -> Path:
        """This process' folder, made and locked at first use. Raises OSError."""
        with self._making:
            if self._folder is None:
                # Named before it exists: the export thread, looking for orphans meanwhile, must not take it for one.
                self._planned = folder = self.root / f"{os.getpid()}-{time.time_ns():x}"
                folder.mkdir(parents=True, mode=0o700)
                self._lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._folder = folder
            return self._folder

    def add(self, parcel: Parcel) -> bool:
        """Whole or not at all. False when the disk does not take it: then it lives in memory only."""
        try:
            folder = self._own()
            if self._kept >= self.limit:
                self._make_room(folder)
            path = folder / f"{parcel.key}.{parcel.signal}.json"
            unfinished = path.with_suffix(".tmp")
            unfinished.write_text(json.dumps(to_json(parcel)))
            unfinished.rename(path)
            self._kept += 1
            return True
        except (OSError, ValueError):
            return False

    def add_note(self, name: str) -> bool:
        """False when the disk does not take it."""
        try:
            folder = self._own()
            if self._kept >= self.limit:
                self._make_room(folder)
            os.close(os.open(f"{folder}/{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            self._kept += 1
            return True
        except OSError:
            return False

    def notes(self, limit: int) -> list[Note]:
        """The oldest of this process' folder."""
        names = [] if self._folder is None else sorted(name for name in _parcels(self._folder) if name.endswith(SUFFIX))
        return [note for name in names[:limit] if (note := read(name)) is not None]

    @property
    def kept(self) -> int:
        return self._kept

    def notes_waiting(self) -> int:
        """In this process' folder and in those of its couriers."""
        return sum(1 for folder in self.root.glob(f"{os.getpid()}-*") for name in _parcels(folder) if name.endswith(SUFFIX))

    def note_done(self, note: Note) -> None:
        """What it stands for was put here, or will never be."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                (self._folder / note.name).unlink()
                self._kept -= 1

    def seal(self, but_not: Collection[str]) -> tuple[Path, int] | None:
        """Gives this process' folder away, for another process to send; that folder and its lock's descriptor, which that process must
        inherit. Not the parcels whose keys are in ``but_not``, nor the newest: whoever added one may be about to put it into a queue.
        What is in it counts as kept until `take_back`. None where there is nothing in it. Raises OSError."""
        folder, handle = self._folder, self._lock
        if folder is None or not any(_parcels(folder)):
            return None
        self._folder, self._planned, self._lock = None, None, -1
        settled = f"{time.time_ns() - SETTLED_NS:020d}"
        for name in [name for name in _parcels(folder) if not name.endswith(SUFFIX)]:
            if name > settled or name.partition(".")[0] in but_not:
                with contextlib.suppress(OSError):
                    (folder / name).rename(self._own() / name)
        return folder, handle

    def take_back(self, folder: Path) -> int:
        """What of a sealed folder was not sent; how many that were. The folder is gone then."""
        taken = self._empty(folder)
        self._kept = len(list(_parcels(self._folder))) if self._folder is not None else 0
        return taken

    def adopt(self, folder: Path, handle: int) -> None:
        """Works on a sealed folder, by the lock that was inherited with it."""
        self._folder = self._planned = folder
        self._lock, self._kept = handle, len(list(_parcels(folder)))

    def _make_room(self, folder: Path) -> None:
        """A tenth at once, so that a full outbox does not list its folder for every parcel."""
        names = sorted(_parcels(folder))
        self._kept = len(names)
        for name in names[: max(0, self._kept - self.limit + self.limit // 10 + 1)]:
            with contextlib.suppress(OSError):
                (folder / name).unlink()
                self._kept -= 1
                self.dropped += 1

    def done(self, parcel: Parcel) -> None:
        """It was sent, or nobody will ever take it."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                (self._folder / f"{parcel.key}.{parcel.signal}.json").unlink()
                self._kept -= 1

    def waiting(self, signal: str, limit: int) -> list[Parcel]:
        """The oldest parcels of this process' folder. What cannot be read is deleted and counted."""
        found: list[Parcel] = []
        if self._folder is None:
            return found
        for name in sorted(name for name in _parcels(self._folder) if name.endswith(f".{signal}.json"))[:limit]:
            path = self._folder / name
            try:
                found.append(from_json(Parcel, json.loads(path.read_bytes())))
            except (ValueError, TypeError, OSError):
                self.dropped += 1
                with contextlib.suppress(OSError):
                    path.unlink()
        return found

    def take_over(self) -> int:
        """Moves what ended processes left into this process' folder; how many parcels that were."""
        taken = 0
        for folder in self._orphans():
            taken += self._empty(folder)
        self._kept += taken
        return taken

    def _empty(self, folder: Path) -> int:
        taken = 0
        for name in sorted(_parcels(folder)):
            with contextlib.suppress(OSError):
                (folder / name).rename(self._own() / name)
                taken += 1
        with contextlib.suppress(OSError):
            for left in os.listdir(folder):
                (folder / left).unlink()
            folder.rmdir()
        return taken

    def discard(self, incident_ids: set[str]) -> int:
        """Deletes what ended processes left to send of these incidents; how many parcels that were."""
        gone = 0
        for folder in self._orphans():
            for name in list(_parcels(folder)):
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    note = read(name)
                    of = note.incident_id if note else json.loads((folder / name).read_bytes()).get("incident_id")
                    if of in incident_ids:
                        (folder / name).unlink()
                        gone += 1
        return gone

    def has_orphans(self) -> bool:
        """Did an ended process leave something to send? Cheap enough for start-up: lists folders, reads no file."""
        return any(any(_parcels(folder)) for folder in self._orphans())

    def _orphans(self) -> Iterator[Path]:
        """Folders whose owner is gone, each locked while the caller works on it."""
        try:
            folders = sorted(entry for entry in self.root.iterdir() if entry.is_dir() and entry != self._planned)
        except OSError:
            return
        for folder in folders:
            with contextlib.suppress(OSError):
                handle = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    yield folder
                finally:
                    os.close(handle)

    def forget(self) -> None:
        """In a forked child: the folder is the parent's. Closing does not unlock it: the parent still has it open."""
        if self._lock >= 0:
            with contextlib.suppress(OSError):
                os.close(self._lock)
        self._folder, self._planned, self._lock, self._kept = None, None, -1, 0
        self._making = threading.Lock()

    def close(self) -> None:
        """Gives the folder up: removed when empty, left for the next process otherwise."""
        folder = self._folder
        if folder is not None and not any(_parcels(folder)):
            with contextlib.suppress(OSError):
                (folder / LOCK).unlink()
                folder.rmdir()
        self.forget()


def _parcels(folder: Path) -> Iterator[str]:
    """File names of whole parcels and of notes; unfinished ones (``.tmp``) are not among them."""
    with contextlib.suppress(OSError):
        yield from (name for name in os.listdir(folder) if name.endswith((".json", SUFFIX)))
