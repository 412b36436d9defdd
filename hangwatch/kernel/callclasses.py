"""What the collectors must know of system calls and registers of this machine: numbers, as data for their maps."""

from __future__ import annotations

import os
import struct

from hangwatch.kernel.syscallnames import name_of

# enum call_class in collectors/common.h
OTHER, EPOLL, ACCEPT, CONNECT, RECV, SEND, CLOSE, FUTEX = range(8)
BUFFER, VECTOR, MESSAGE = 0x10, 0x20, 0x40

#: Numbers above are not looked at (``CALLS`` in common.h).
CALLS = 512

CLASSES = {
    "epoll_wait": EPOLL, "epoll_pwait": EPOLL, "epoll_pwait2": EPOLL, "accept": ACCEPT, "accept4": ACCEPT, "connect": CONNECT,
    "read": RECV | BUFFER, "recvfrom": RECV | BUFFER, "recvmsg": RECV | MESSAGE, "readv": RECV | VECTOR,
    "write": SEND | BUFFER, "sendto": SEND | BUFFER, "sendmsg": SEND | MESSAGE, "writev": SEND | VECTOR, "sendfile": SEND,
    "close": CLOSE, "futex": FUTEX,
}  # fmt: skip

#: Members of struct pt_regs: the system call's number, its first three arguments. arm64 keeps the first one apart, as the answer
#: takes its register.
REGISTERS = {
    "x86_64": ("orig_ax", ("di", "si", "dx")),
    "aarch64": ("syscallno", ("orig_x0", "regs+8", "regs+16")),
}


def class_by_number() -> dict[int, int]:
    """System call number -> class, for this machine."""
    names = {number: name_of(number) for number in range(CALLS)}
    return {number: CLASSES[name] for number, name in names.items() if name in CLASSES}


def call_name(number: int) -> str:
    """``epoll_wait``; "" for what is no system call."""
    return name_of(number) if 0 <= number < CALLS else ""


def machine() -> str:
    name = os.uname().machine.lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def key(number: int) -> bytes:
    """A number as the key of a map of ours."""
    return struct.pack("<I", number)
