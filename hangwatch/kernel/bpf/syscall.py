"""The system call bpf(2) itself, and the few numbers of its interface (include/uapi/linux/bpf.h) that are used here."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

MAP_CREATE: Final = 0
MAP_LOOKUP: Final = 1
MAP_UPDATE: Final = 2
MAP_DELETE: Final = 3
MAP_NEXT_KEY: Final = 4
PROG_LOAD: Final = 5
RAW_TRACEPOINT_OPEN: Final = 17
MAP_LOOKUP_BATCH: Final = 24
MAP_UPDATE_BATCH: Final = 26

PROG_TYPE_RAW_TRACEPOINT: Final = 17
MAP_TYPE_RINGBUF: Final = 27

_NUMBERS = {"x86_64": 321, "amd64": 321, "aarch64": 280, "arm64": 280}


class BpfError(OSError):
    """bpf(2) said no. ``step`` names what was tried, ``log`` is the verifier's last words where it spoke."""

    def __init__(self, number: int, step: str, log: str = "") -> None:
        super().__init__(number, f"{step}: {os.strerror(number)}")
        self.step = step
        self.log = log


def supported() -> bool:
    """The number of bpf(2) is known for this machine."""
    return os.uname().machine in _NUMBERS


_libc: ctypes.CDLL | None = None


def bpf(command: int, attributes: bytes, step: str) -> tuple[int, bytes]:
    """The call's answer (often a descriptor) and the attributes as the kernel left them. Raises BpfError."""
    return bpf_in_place(command, ctypes.create_string_buffer(attributes, len(attributes)), step)


def bpf_in_place(command: int, block: ctypes.Array[ctypes.c_char], step: str) -> tuple[int, bytes]:
    """The same for who wants to read the attributes also after an error."""
    global _libc
    number = _NUMBERS.get(os.uname().machine)
    if number is None:
        raise BpfError(errno.ENOSYS, step)
    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
    answer = _libc.syscall(ctypes.c_long(number), ctypes.c_long(command), block, ctypes.c_ulong(len(block)))
    if answer < 0:
        raise BpfError(ctypes.get_errno(), step)
    return answer, block.raw


def address_of(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)
