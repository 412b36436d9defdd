"""Why a process cannot be looked at, in words that say what to do next. Every reason is found by an attempt or read, never guessed."""

from __future__ import annotations

import os
import re

from hangwatch.errors import CannotLook
from hangwatch.kernel import files, procfs, ptrace

#: Minor versions of CPython 3 whose memory `reading/remote` knows.
OLDEST, NEWEST = 9, 15

_MAPPED = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) \S+ \d+\s+(/.*?)(?: \(deleted\))?$")
# The interpreter (python3.11, libpython3.11.so.1.0, libpython3.13t.so) and its compiled modules (_socket.cpython-313t-x86_64-linux-gnu.so).
_INTERPRETER = re.compile(r"^(?:lib)?python(\d)(?:\.(\d+))?(t?)d?(?:m|mu)?(?:$|[-.]\D|\.so)")
_MODULE = re.compile(r"\.cpython-(\d)(\d+)(t?)d?m?-")
_PYPY = re.compile(r"^(?:lib)?pypy")
_SEARCH_BYTES = 256 << 20
_CHUNK_BYTES = 1 << 20


def why_not(pid: int) -> CannotLook | None:
    """None when ``pid`` is a CPython process whose memory this process may read, else the reason."""
    refused = ptrace.refusal(pid)
    if refused is not None:
        return cannot(refused.reason, refused.message, refused.help_text)
    maps = _maps(pid)
    return _width(pid, maps) or _interpreter(pid, maps)


def check(pid: int) -> None:
    """Raises CannotLook when there is a reason."""
    reason = why_not(pid)
    if reason is not None:
        raise reason


def ended(pid: int, error: CannotLook) -> CannotLook:
    """What to say where a look at ``pid`` failed with ``error``: that the process has ended meanwhile, where it has."""
    refused = ptrace.refusal(pid)
    if refused is None or refused.reason not in ("gone", "zombie"):
        return error
    return cannot(
        refused.reason,
        f"process {pid} has ended while it was looked at",
        "With an agent inside, what it last stored is in its spool: hangwatch incidents.",
    )


def cannot(reason: str, message: str, help_text: str) -> CannotLook:
    error = CannotLook(message, help_text)
    error.reason = reason
    return error


def _maps(pid: int) -> list[tuple[int, int, str, int, str]]:
    """Start, end, permissions, offset and path of what is mapped from files."""
    found = []
    for line in (files.read_text(f"/proc/{pid}/maps") or "").splitlines():
        match = _MAPPED.match(line)
        if match:
            start, end, permissions, offset, path = match.groups()
            found.append((int(start, 16), int(end, 16), permissions, int(offset, 16), path))
    return found


def _width(pid: int, maps: list[tuple[int, int, str, int, str]]) -> CannotLook | None:
    program = files.read_link(f"/proc/{pid}/exe")
    for start, _, _, offset, path in maps:
        header = files.read_memory(pid, start, 5) if offset == 0 and path == program else None
        if header == b"\x7fELF\x01":
            return cannot(
                "32-bit",
                f"process {pid} ({os.path.basename(path)}) is a 32-bit program; only 64-bit ones can be read",
                "The agent inside works there: hangwatch run … -- CMD.",
            )
    return None


def _interpreter(pid: int, maps: list[tuple[int, int, str, int, str]]) -> CannotLook | None:
    names = {os.path.basename(path) for _, _, _, _, path in maps}
    names.add(os.path.basename(files.read_link(f"/proc/{pid}/exe") or ""))
    if any(_PYPY.match(name) for name in names):
        return cannot(
            "pypy",
            f"process {pid} runs PyPy, whose memory is laid out differently; only CPython can be read",
            "hangwatch has no way to look at PyPy.",
        )
    builds = {build for name in names if (build := _build(name))}
    if any(free for _, _, free in builds):
        return cannot(
            "free-threaded",
            f"process {pid} runs a free-threaded build of CPython, whose objects are laid out differently",
            "The agent inside works there: hangwatch run … -- CMD.",
        )
    versions = {(major, minor) for major, minor, _ in builds if minor is not None}
    if versions:
        return _version(pid, max(versions))
    return None if builds or _has_runtime(pid, maps) else _not_python(pid)


def _build(name: str) -> tuple[int, int | None, bool] | None:
    """Major version, minor version where the name has it, and whether it is free-threaded."""
    match = _INTERPRETER.match(name) or _MODULE.search(name)
    if not match:
        return None
    major, minor, free = match.groups()
    return int(major), int(minor) if minor else None, free == "t"


def _version(pid: int, version: tuple[int, int]) -> CannotLook | None:
    major, minor = version
    if major == 3 and OLDEST <= minor <= NEWEST:
        return None
    known = f"3.{OLDEST} to 3.{NEWEST}"
    if version > (3, NEWEST):
        hint = "A newer hangwatch may know it: pip install -U hangwatch."
    else:
        hint = "py-spy shows the threads of older versions: py-spy dump --pid PID."
    return cannot("version", f"process {pid} runs CPython {major}.{minor}; its memory can be read for {known}", hint)


def _has_runtime(pid: int, maps: list[tuple[int, int, str, int, str]]) -> bool:
    """Some mapped file exports ``_PyRuntime``: an embedded interpreter (uwsgi, a frozen program) has no telling name."""
    left = _SEARCH_BYTES
    for start, end, permissions, _, _ in maps:
        if not permissions.startswith("r-") or left <= 0:
            continue
        left -= end - start
        if _contains(pid, start, end, b"\0_PyRuntime\0"):
            return True
    return False


def _contains(pid: int, start: int, end: int, needle: bytes) -> bool:
    tail = b""
    for address in range(start, end, _CHUNK_BYTES):
        chunk = files.read_memory(pid, address, min(_CHUNK_BYTES, end - address))
        if chunk is None:
            return False
        if needle in tail + chunk:
            return True
        tail = chunk[-len(needle) :]
    return False


def _not_python(pid: int) -> CannotLook:
    inside = [child for child in _descendants(pid) if _build(os.path.basename(files.read_link(f"/proc/{child}/exe") or ""))]
    if inside:
        listed = ", ".join(f"{child} ({command(child)})" for child in inside[:5])
        hint = f"Python runs below it; give one of these: {listed}."
    else:
        hint = "Give the pid of the worker itself: pgrep -af python lists them."
    return cannot("not-python", f"process {pid} ({procfs.name(pid) or 'no name'}) is not Python", hint)


def _descendants(pid: int, limit: int = 200) -> list[int]:
    found: list[int] = []
    waiting = [pid]
    while waiting and len(found) < limit:
        children = procfs.children(waiting.pop(0))
        found.extend(children)
        waiting.extend(children)
    return found


def command(pid: int, width: int = 60) -> str:
    """The command line, shortened."""
    words = (files.read_text(f"/proc/{pid}/cmdline", 4096) or "").split("\0")
    text = " ".join(word for word in words if word)
    return text if len(text) <= width else text[: width - 1] + "…"
