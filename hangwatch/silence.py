"""``silence.json``: a silence that the watchdog has just come out of, noted without a system call, until the reporter has told it.

Between two long garbage collections our threads get a few milliseconds, and every system call gives the GIL away again for as long as
a collection takes: what needs thirty of them to reach the disk comes too late, or never if the worker is killed meanwhile. Mapped
memory needs none, and the file outlives the process. `orphans` reads it.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import time
from pathlib import Path
from typing import Any, Final

from hangwatch.kernel import files

FILE_NAME: Final = "silence.json"
_SIZE: Final = 64 << 10
_LENGTH: Final = struct.Struct("<Q")
#: Innermost frames of each thread.
_FRAMES: Final = 60
#: Where a page of a mapped file may have to come over a network, a store into it can wait for ever, with the GIL.
_FAR: Final = ("nfs", "cifs", "smb", "fuse", "9p", "ceph", "gluster", "lustre", "afs")


class SilenceNote:
    """The file, mapped. `put` and `clear` are stores into memory. Raises OSError where there can be none."""

    def __init__(self, folder: Path) -> None:
        if _is_far(folder):
            raise OSError(f"{folder} lies on another machine")
        handle = os.open(folder / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, bytes(_SIZE))  # its room on the disk is taken now, not at the stall
            self._memory = mmap.mmap(handle, _SIZE)
        finally:
            os.close(handle)
        self._noted: dict[str, Any] | None = None

    def put(self, begun_at: float, data: dict[str, Any]) -> None:
        """``data`` of the watchdog's evidence. Until `clear`, further silences only add to the first one's times. Never raises."""
        with contextlib.suppress(Exception):
            self._noted = noted = _first(begun_at, data) if self._noted is None else _added(self._noted, data)
            raw = json.dumps(noted).encode()
            if len(raw) <= _SIZE - _LENGTH.size:
                # Its length last: who reads half of it finds no length, or no JSON.
                self._memory[: _LENGTH.size] = bytes(_LENGTH.size)
                self._memory[_LENGTH.size : _LENGTH.size + len(raw)] = raw
                self._memory[: _LENGTH.size] = _LENGTH.pack(len(raw))

    def clear(self) -> None:
        """It was told."""
        self._noted = None
        with contextlib.suppress(ValueError):
            self._memory[: _LENGTH.size] = bytes(_LENGTH.size)

    def close(self) -> None:
        """The mapping, and with it the descriptor that Python keeps for it. What is put later is lost."""
        with contextlib.suppress(BufferError):
            self._memory.close()


def _first(begun_at: float, data: dict[str, Any]) -> dict[str, Any]:
    threads = [{**thread, "frames": thread["frames"][-_FRAMES:]} for thread in data["threads"]]
    return {**data, "threads": threads, "begun_at": begun_at, "noted_at": time.time(), "silences": 1}


def _added(noted: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    return {**noted, **{key: noted[key] + data[key] for key in ("late_ms", "cpu_ms", "gc_ms")}, "silences": noted["silences"] + 1}


def read(folder: Path) -> dict[str, Any] | None:
    """What stands in a worker's folder: the watchdog's data with ``begun_at``, ``noted_at`` (seconds since the epoch) and ``silences``."""
    raw = files.read_bytes(str(folder / FILE_NAME), _SIZE) or b""
    if len(raw) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(raw)
    try:
        found = json.loads(raw[_LENGTH.size : _LENGTH.size + length]) if length else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _is_far(folder: Path) -> bool:
    """By the mount that holds it."""
    kinds = {}
    for line in (files.read_text("/proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        if len(left.split()) > 4 and right:
            kinds[left.split()[4]] = right.split()[0]
    here = str(folder.resolve())
    best = max((point for point in kinds if here == point or here.startswith(point.rstrip("/") + "/")), key=len, default="")
    return kinds.get(best, "").startswith(_FAR)
