"""Does the worker that owns a folder of the spool still live? Told by pid and start where pids count alike, by a lock elsewhere.

A folder is named ``<pid>-<start>``, start in the kernel's ticks since boot: together they name a process for ever. Its ``lock`` is
held by the process; the kernel lets go of it however the process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any, Final

from hangwatch.kernel import files, procfs

LOCK: Final = "lock"
#: A folder without a lock is one that is just being made or tidied away, for as long as this.
SETTLING_S: Final = 60.0


def name_of(pid: int) -> str:
    """``4242-1234567``; without a start when there is no such process."""
    return f"{pid}-{started_at_tick(pid)}"


def started_at_tick(pid: int) -> str:
    """proc(5), field 22 of stat. Empty when there is no such process."""
    stat = files.read_text(f"/proc/{pid}/stat") or ""
    return stat.rpartition(")")[2].split()[19] if ")" in stat else ""


def give(folder: Path, pid: int) -> int:
    """Takes the folder's lock for this process; the descriptor, which holds it until it is closed. Raises OSError."""
    handle = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: the pid decides
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.pwrite(handle, json.dumps({"pid": pid, "place": _place()}).encode(), 0)
    except OSError:
        os.close(handle)
        raise
    return handle


def lives(folder: Path, pid: int, tick: str) -> bool:
    """The lock decides only where pids count otherwise: a forked child may keep it a little longer than its parent lived."""
    try:
        owner = json.loads((folder / LOCK).read_bytes())
    except (OSError, ValueError):
        owner = {}
    here = _place()
    if here and isinstance(owner, dict) and owner.get("place") == here:
        return started_at_tick(pid) == tick and (procfs.status(pid).get("State") or "Z")[0] not in "ZX"
    return _is_locked(folder)


def _is_locked(folder: Path) -> bool:
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return _age_s(folder) < SETTLING_S
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _age_s(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0


def _place() -> dict[str, Any]:
    """Where a pid counts: this boot of this machine, this pid namespace."""
    with contextlib.suppress(OSError):
        return {"boot": (files.read_text("/proc/sys/kernel/random/boot_id") or "").strip(), "pids": os.readlink("/proc/self/ns/pid")}
    return {}
