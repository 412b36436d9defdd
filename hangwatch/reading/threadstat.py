"""What Linux' /proc says about one thread of this process: the system call it sits in, its CPU time.

Everything is None where /proc does not say (other systems, gVisor, a hardened kernel).
"""

from __future__ import annotations

import os
import platform
import socket
import struct

#: System calls in which a thread waits. Numbers: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h.
_X86_64 = {
    0: "read", 1: "write", 7: "poll", 17: "pread64", 18: "pwrite64", 19: "readv", 20: "writev", 23: "select", 34: "pause",
    35: "nanosleep", 42: "connect", 43: "accept", 44: "sendto", 45: "recvfrom", 46: "sendmsg", 47: "recvmsg", 61: "wait4",
    72: "fcntl", 73: "flock", 74: "fsync", 75: "fdatasync", 128: "rt_sigtimedwait", 130: "rt_sigsuspend", 202: "futex",
    230: "clock_nanosleep", 232: "epoll_wait", 247: "waitid", 257: "openat", 270: "pselect6", 271: "ppoll", 281: "epoll_pwait",
    288: "accept4", 441: "epoll_pwait2", 426: "io_uring_enter",
}  # fmt: skip
_AARCH64 = {
    63: "read", 64: "write", 65: "readv", 66: "writev", 67: "pread64", 68: "pwrite64", 73: "ppoll", 72: "pselect6",
    101: "nanosleep", 115: "clock_nanosleep", 203: "connect", 202: "accept", 242: "accept4", 206: "sendto", 207: "recvfrom",
    211: "sendmsg", 212: "recvmsg", 260: "wait4", 95: "waitid", 25: "fcntl", 32: "flock", 82: "fsync", 83: "fdatasync",
    98: "futex", 22: "epoll_pwait", 441: "epoll_pwait2", 56: "openat", 137: "rt_sigtimedwait", 426: "io_uring_enter",
}  # fmt: skip
_NAMES = {"x86_64": _X86_64, "aarch64": _AARCH64}.get(platform.machine(), {})

#: A loop's thread in one of these is asleep in its selector (asyncio) or poller (libuv).
POLLS = frozenset({"epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6"})
_ON_DESCRIPTOR = frozenset(
    {"read", "write", "readv", "writev", "pread64", "pwrite64", "connect", "accept", "accept4", "sendto", "recvfrom", "sendmsg",
     "recvmsg", "fcntl", "flock", "fsync", "fdatasync"}
)  # fmt: skip


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return None


def cpu_ns(native_id: int) -> int | None:
    """CPU time the thread has used, in ns (schedstat; by the clock tick where the kernel keeps no schedstat)."""
    text = _read(f"/proc/self/task/{native_id}/schedstat")
    try:
        return int(text.split()[0]) if text else None
    except (ValueError, IndexError):
        return None


def syscall_name(native_id: int) -> str | None:
    """Name of the system call the thread sits in; ``running`` when in none, None when that cannot be read."""
    found = _syscall(native_id)
    return found[0] if found else None


def _syscall(native_id: int) -> tuple[str, int | None] | None:
    text = _read(f"/proc/self/task/{native_id}/syscall")
    if not text:
        return None
    parts = text.split()
    if parts[0] == "running":
        return "running", None
    try:
        number = int(parts[0])
        first = int(parts[1], 16) if len(parts) > 1 else None
    except ValueError:
        return None
    return (_NAMES.get(number, f"syscall {number}"), first) if number >= 0 else None


def syscall(native_id: int) -> str | None:
    """``recvfrom tcp 10.0.0.1:443``, ``read /data/file``, ``futex``; None when in none or not readable."""
    found = _syscall(native_id)
    if found is None or found[0] == "running":
        return None
    name, descriptor = found
    if name not in _ON_DESCRIPTOR or descriptor is None:
        return name
    what = descriptor_text(descriptor)
    return f"{name} {what}" if what else name


def descriptor_text(descriptor: int) -> str | None:
    """What a file descriptor of this process is: a path, ``pipe``, ``tcp <peer>``, ``unix socket``."""
    try:
        target = os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return None
    if target.startswith("socket:["):
        return _socket_text(target[8:-1])
    return target.split(":", 1)[0] if ":[" in target else target


def _socket_text(inode: str) -> str:
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6), ("udp", socket.AF_INET), ("udp6", socket.AF_INET6)):
        try:
            with open(f"/proc/self/net/{table}", encoding="ascii") as file:
                for _, line in zip(range(20_000), file):  # noqa: B905  (a table of a million sockets is not walked to its end)
                    parts = line.split()
                    if len(parts) > 9 and parts[9] == inode:
                        return f"{table} {_address(parts[2], family)}"
        except (OSError, ValueError):
            continue
    return "unix socket"


def _address(text: str, family: socket.AddressFamily) -> str:
    """From the kernel's ``0100007F:1F90`` (32-bit words in host order)."""
    host, port = text.split(":")
    words = bytes.fromhex(host)
    packed = b"".join(struct.pack("=I", number) for number in struct.unpack(f">{len(words) // 4}I", words))
    name = socket.inet_ntop(family, packed)
    return f"[{name}]:{int(port, 16)}" if ":" in name else f"{name}:{int(port, 16)}"
