"""What the kernel knows of the target and its memory does not tell: ids in its namespaces, CPU time, system calls.

The readers stand beside `hangwatch.kernel`, not above it, so whoever builds a reader hands in what knows more (`KernelSide`);
this default answers the little that is needed to read at all.
"""

from __future__ import annotations

import os
import time
from typing import Protocol


class KernelSide(Protocol):
    def executable(self) -> str:
        """Path of the program as its own mappings name it."""

    def outside_ids(self) -> dict[int, int]:
        """Native id inside the target's pid namespace -> id here."""

    def activity(self) -> object:
        """A value that changes whenever any of its threads has run; None where that cannot be told, and while one runs."""

    def now_ns(self) -> int: ...

    def cpu_ns(self, native_id: int) -> int | None: ...

    def syscall(self, native_id: int) -> str | None:
        """Name of the system call with what its descriptor is; None when it runs or nobody tells."""

    def call_name(self, native_id: int) -> str | None:
        """The bare name of that call, ``running`` when it sits in none; None when nobody tells."""

    def futex(self, native_id: int) -> int | None:
        """The address that the thread waits on in futex(2)."""

    def descriptors(self, native_id: int) -> tuple[int, ...]:
        """The descriptors that the thread's system call waits on."""

    def begin(self) -> None:
        """A new look begins: forget what the last one asked."""

    def peer(self, descriptor: int) -> str | None:
        """``host:port`` at the other end of one of its sockets."""


class ProcessSide:
    """By /proc alone: enough to read tasks and threads, without system calls."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def executable(self) -> str:
        try:
            return os.readlink(f"/proc/{self.pid}/exe").removesuffix(" (deleted)")
        except OSError:
            return ""

    def _threads(self) -> list[int]:
        try:
            return [int(name) for name in os.listdir(f"/proc/{self.pid}/task")]
        except OSError:
            return []

    def outside_ids(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for tid in self._threads():
            inside = tid
            for line in _lines(f"/proc/{self.pid}/task/{tid}/status"):
                if line.startswith("NSpid:"):
                    inside = int(line.split()[-1])
            found[inside] = tid
        return found

    def activity(self) -> object:
        seen = []
        for tid in self._threads():
            lines = _lines(f"/proc/{self.pid}/task/{tid}/schedstat")
            state = " ".join(_lines(f"/proc/{self.pid}/task/{tid}/stat")).rpartition(")")[2].split(None, 1)
            if not lines or lines[0].startswith("0 ") or not state or state[0] == "R":
                return None
            seen.append((tid, lines[0].split()[0], lines[0].split()[2]))
        return tuple(seen) or None

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def cpu_ns(self, native_id: int) -> int | None:
        lines = _lines(f"/proc/{self.pid}/task/{native_id}/schedstat")
        return int(lines[0].split()[0]) if lines else None

    def syscall(self, native_id: int) -> str | None:
        return None

    def call_name(self, native_id: int) -> str | None:
        return None

    def futex(self, native_id: int) -> int | None:
        return None

    def descriptors(self, native_id: int) -> tuple[int, ...]:
        return ()

    def begin(self) -> None:
        pass

    def peer(self, descriptor: int) -> str | None:
        return None


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []
