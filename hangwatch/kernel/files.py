"""Reading the small files of /proc and /sys: bounded, and None instead of an exception."""

from __future__ import annotations

import os

# /proc/PID/net/tcp of a node with 50,000 connections is 7.5 MB; a reader that must not hurt the service stops there.
LIMIT_BYTES = 8 << 20


def read_text(path: str, limit: int = LIMIT_BYTES) -> str | None:
    """The first ``limit`` bytes of a file as text, None when it cannot be read."""
    raw = read_bytes(path, limit)
    return None if raw is None else raw.decode("utf-8", "backslashreplace")


def read_bytes(path: str, limit: int = LIMIT_BYTES) -> bytes | None:
    """The first ``limit`` bytes of a file, None when it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        return _drain(fd, limit)
    except OSError:
        return None
    finally:
        os.close(fd)


def _drain(fd: int, limit: int) -> bytes:
    parts: list[bytes] = []
    room = limit
    while room > 0:
        part = os.read(fd, min(room, 1 << 16))
        if not part:
            break
        parts.append(part)
        room -= len(part)
    return b"".join(parts)


def read_memory(pid: int, address: int, size: int) -> bytes | None:
    """``size`` bytes of a process' memory; None where it may not be read or is not mapped. Does not stop the process."""
    if address <= 0 or size <= 0:
        return None
    try:
        fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = os.pread(fd, size, address)
    except (OSError, OverflowError):
        return None
    finally:
        os.close(fd)
    return data if len(data) == size else None


def read_link(path: str) -> str | None:
    """Where a symbolic link points, None when it cannot be read."""
    try:
        return os.readlink(path)
    except OSError:
        return None


def list_numbers(path: str) -> list[int]:
    """The entries of a folder that are numbers (``/proc/PID/task``, ``/proc/PID/fd``), ascending; empty when unreadable."""
    try:
        return sorted(int(name) for name in os.listdir(path) if name.isdigit())
    except OSError:
        return []


def fields(text: str | None, separator: str = ":") -> dict[str, str]:
    """Lines of ``key: value`` (/proc/PID/status) or, with separator " ", ``key value`` (cpu.stat)."""
    found: dict[str, str] = {}
    for line in (text or "").splitlines():
        key, _, value = line.partition(separator)
        found[key.strip()] = value.strip()
    return found
