"""The memory of a running process.

``process_vm_readv(2)`` copies pages without a ptrace stop; where the kernel or a seccomp filter has taken it away, the
same bytes come out of ``/proc/PID/mem``.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from hangwatch.errors import CannotLook
from hangwatch.reading.remote.memory import Region, parse_maps

#: IOV_MAX of Linux: ranges per process_vm_readv.
_IOV_MAX: Final = 1024
#: Bytes per process_vm_readv, unless one range alone is longer: the kernel holds the target's map of its memory while it looks pages up.
_LONGEST_CALL: Final = 1 << 20


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _process_vm_readv() -> Callable[..., int] | None:
    try:
        call = ctypes.CDLL(None, use_errno=True).process_vm_readv
    except (OSError, AttributeError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong)
    call.restype = ctypes.c_ssize_t
    found: Callable[..., int] = call
    return found


class ProcessSource:
    """The memory of a running process. Raises CannotLook when it is gone or not ours to read."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._call = _process_vm_readv()
        self._file: int | None = None
        #: Kept: a fresh one would be filled with zeros for every call.
        self._buffer = ctypes.create_string_buffer(_LONGEST_CALL)

    def regions(self) -> list[Region]:
        try:
            with open(f"/proc/{self.pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
                return parse_maps(file)
        except (FileNotFoundError, ProcessLookupError):
            raise CannotLook(f"there is no process {self.pid} (any more)") from None
        except PermissionError:
            raise _refused(self.pid) from None

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for part in _parts(ranges):
            found += self._fetch_some(part)
        return found

    def _fetch_some(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | None]:
        if self._call is None:
            return [self._pread(address, length) for address, length in ranges]
        total = sum(length for _, length in ranges)
        buffer = self._buffer if total <= _LONGEST_CALL else ctypes.create_string_buffer(total)
        found: list[bytes | None] = []
        while len(found) < len(ranges):
            rest = ranges[len(found) :]
            got, code = self._readv(buffer, total, rest)
            if got < 0 and code in (errno.ENOSYS, errno.EPERM, errno.EACCES):
                self._call = None
                return [self._pread(address, length) for address, length in ranges]
            if got < 0 and code == errno.ESRCH:
                raise CannotLook(f"process {self.pid} is gone")
            taken = _split(buffer, max(got, 0), rest)
            found += taken
            if len(found) < len(ranges):
                found.append(None)  # the range at which the kernel stopped
        return found

    def _readv(self, buffer: ctypes.Array[ctypes.c_char], total: int, ranges: Sequence[tuple[int, int]]) -> tuple[int, int]:
        assert self._call is not None
        local = _IoVec(ctypes.addressof(buffer), total)
        packed = struct.pack(f"<{2 * len(ranges)}Q", *itertools.chain.from_iterable(ranges))
        got = self._call(self.pid, ctypes.byref(local), 1, packed, len(ranges), 0)
        return got, ctypes.get_errno() if got < 0 else 0

    def _pread(self, address: int, length: int) -> bytes | None:
        if self._file is None:
            try:
                self._file = os.open(f"/proc/{self.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
            except (FileNotFoundError, ProcessLookupError):
                raise CannotLook(f"process {self.pid} is gone") from None
            except PermissionError:
                raise _refused(self.pid) from None
        try:
            data = os.pread(self._file, length, address)
        except (OSError, OverflowError):
            return None
        return data if len(data) == length else None

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _parts(ranges: Sequence[tuple[int, int]]) -> Iterator[Sequence[tuple[int, int]]]:
    """In portions that one call takes."""
    first = total = 0
    for place, (_, length) in enumerate(ranges):
        if place > first and (total + length > _LONGEST_CALL or place - first == _IOV_MAX):
            yield ranges[first:place]
            first, total = place, 0
        total += length
    if first < len(ranges):
        yield ranges[first:]


def _split(buffer: ctypes.Array[ctypes.c_char], got: int, ranges: Sequence[tuple[int, int]]) -> list[bytes | None]:
    """The ranges that arrived whole. Linux stops at the first range that faults; a short one counts as not read."""
    data = memoryview(buffer)[:got].tobytes()
    if len(ranges) == 1:
        return [data] if ranges[0][1] == got else []
    found: list[bytes | None] = []
    position = 0
    for _, length in ranges:
        if position + length > got:
            break
        found.append(data[position : position + length])
        position += length
    return found


def _refused(pid: int) -> CannotLook:
    return CannotLook(
        f"the kernel does not let this user read process {pid}",
        "Reading another process needs the same user (and kernel.yama.ptrace_scope 0) or CAP_SYS_PTRACE: run it as root.",
    )
