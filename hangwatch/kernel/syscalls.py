"""One system call that a thread sits in, decoded: on which descriptors, for how long, with whom.

/proc/PID/task/TID/syscall gives the number, six arguments, stack and program counter of a thread that is blocked; it is
read without stopping the thread. What an argument points to (poll's descriptors, connect's address, a time-out) is read
from the target's memory where that is permitted and left out where not.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hangwatch.kernel import files
from hangwatch.kernel.sockets import SocketTable, join_address
from hangwatch.kernel.syscallnames import name_of

# The first argument is a descriptor and the call can last: what is waited for is that descriptor.
_ON_DESCRIPTOR = frozenset((
    "read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev", "pwritev2", "recvfrom", "recvmsg",
    "recvmmsg", "sendto", "sendmsg", "sendmmsg", "accept", "accept4", "connect", "shutdown", "close", "fsync", "fdatasync",
    "sync_file_range", "flock", "fcntl", "ioctl", "ftruncate", "fallocate", "getdents", "getdents64", "sendfile", "splice", "tee",
    "copy_file_range",
))  # fmt: skip
_EPOLL = frozenset(("epoll_wait", "epoll_pwait", "epoll_pwait2"))
_POLL = frozenset(("poll", "ppoll"))
_SELECT = frozenset(("select", "pselect6"))
_FUTEX_WAITS = {0: "wait", 6: "lock-pi", 9: "wait", 11: "wait-requeue-pi", 13: "lock-pi"}
_FUTEX_CMD_MASK = 0x7F
_MAX_POLLED = 256
_32_BIT = 1 << 32


@dataclass(frozen=True, slots=True)
class SystemCall:
    """``fds`` are the descriptors it waits on, ``what`` says what they are; ``timeout_ns`` is the time it was given when it
    began (None: no end, or not known); ``address`` is a futex' address: the lock itself up to
    Python 3.12, from 3.13 on (whose locks park in a table) a word of the waiting thread's own."""

    name: str
    arguments: tuple[int, ...] = ()
    fds: tuple[int, ...] = ()
    what: str = ""
    timeout_ns: int | None = None
    address: int | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.what}".rstrip()


def decode(pid: int, text: str, table: SocketTable) -> SystemCall | None:
    """A line of /proc/PID/task/TID/syscall; None when the thread runs or is stopped outside of any call."""
    columns = text.split()
    if len(columns) < 9 or columns[0] == "-1":
        return None
    name = call_name(text)
    arguments = tuple(int(column, 16) for column in columns[1:7])
    if name in _EPOLL:
        return _epoll(pid, name, arguments)
    if name in _POLL:
        return _poll(pid, name, arguments, table)
    if name in _SELECT:
        return _select(pid, name, arguments, table)
    if name == "futex":
        return _futex(pid, arguments)
    if name in ("nanosleep", "clock_nanosleep"):
        return _sleep(pid, name, arguments)
    if name in _ON_DESCRIPTOR:
        return _on_descriptor(pid, name, arguments, table)
    return SystemCall(name, arguments)


def call_name(text: str) -> str:
    """The name of the call in such a line."""
    columns = text.split()
    if len(columns) > 7 and 0 < int(columns[7], 16) < _32_BIT:
        # The stack of a 32-bit program on a 64-bit kernel: its numbers are of another table, a name would be wrong.
        return f"syscall {columns[0]} (32-bit)"
    return name_of(int(columns[0]))


def _on_descriptor(pid: int, name: str, arguments: tuple[int, ...], table: SocketTable) -> SystemCall:
    fd = _signed(arguments[0])
    what = table.describe(fd)
    if name == "connect":
        peer = _sockaddr(pid, arguments[1], arguments[2])
        known = table.socket(fd)
        what = f"{known.family if known else 'socket'} {peer}" if peer else what
    return SystemCall(name, arguments, (fd,), what)


def _epoll(pid: int, name: str, arguments: tuple[int, ...]) -> SystemCall:
    fd = _signed(arguments[0])
    timeout = _timespec(pid, arguments[3]) if name == "epoll_pwait2" else _milliseconds(arguments[3])
    watched = (files.read_text(f"/proc/{pid}/fdinfo/{fd}") or "").count("tfd:")
    what = f"on {watched} descriptor{'s' if watched > 1 else ''}" if watched else ""
    return SystemCall(name, arguments, (fd,), what, timeout)


def _poll(pid: int, name: str, arguments: tuple[int, ...], table: SocketTable) -> SystemCall:
    count = min(arguments[1], _MAX_POLLED)
    raw = files.read_memory(pid, arguments[0], count * 8) or b""
    fds = tuple(fd for fd, _, _ in struct.iter_unpack("=ihH", raw) if fd >= 0)
    timeout = _timespec(pid, arguments[2]) if name == "ppoll" else _milliseconds(arguments[2])
    return SystemCall(name, arguments, fds, _describe_all(fds, arguments[1], table), timeout)


def _select(pid: int, name: str, arguments: tuple[int, ...], table: SocketTable) -> SystemCall:
    size = min(_signed(arguments[0]), 8 * _MAX_POLLED)
    # fd_set is an array of unsigned long; on the little-endian machines we know, bit n is bit n of the bytes read as one number.
    bits = 0
    for pointer in arguments[1:4]:
        bits |= int.from_bytes(files.read_memory(pid, pointer, (size + 7) // 8) or b"", "little")
    fds = tuple(fd for fd in range(size) if bits >> fd & 1)[:_MAX_POLLED]
    timeout = _timespec(pid, arguments[4], unit=1 if name == "pselect6" else 1000)
    return SystemCall(name, arguments, fds, _describe_all(fds, len(fds), table), timeout)


def _futex(pid: int, arguments: tuple[int, ...]) -> SystemCall:
    operation = arguments[1] & _FUTEX_CMD_MASK
    if operation not in _FUTEX_WAITS:
        return SystemCall("futex", arguments, address=arguments[0])
    # FUTEX_WAIT_BITSET's time is a point in time, not a length: that there is an end can be told, how far it is cannot.
    timeout = _timespec(pid, arguments[3]) if operation == 0 else None
    what = f"{_FUTEX_WAITS[operation]}{' with a deadline' if arguments[3] else ''}"
    return SystemCall("futex", arguments, what=what, timeout_ns=timeout, address=arguments[0])


def _sleep(pid: int, name: str, arguments: tuple[int, ...]) -> SystemCall:
    if name == "nanosleep":
        return SystemCall(name, arguments, timeout_ns=_timespec(pid, arguments[0]))
    absolute = arguments[1] & 1  # TIMER_ABSTIME
    return SystemCall(name, arguments, timeout_ns=None if absolute else _timespec(pid, arguments[2]))


def _describe_all(fds: tuple[int, ...], count: int, table: SocketTable) -> str:
    if not fds:
        return f"{count} descriptors" if count else ""
    first = table.describe(fds[0])
    return first if len(fds) == 1 else f"{first} and {len(fds) - 1} more"


def _sockaddr(pid: int, pointer: int, size: int) -> str:
    raw = files.read_memory(pid, pointer, min(size, 128)) or b""
    if len(raw) < 3:
        return ""
    family = struct.unpack_from("=H", raw)[0]
    if family == 1:  # AF_UNIX; a leading NUL names an abstract socket
        path = raw[2:]
        return (
            ("@" + path[1:].decode("utf-8", "replace")) if path[:1] == b"\0" else path.split(b"\0")[0].decode("utf-8", "replace")
        ).strip()
    if family == 2 and len(raw) >= 8:  # AF_INET
        return join_address(raw[4:8], struct.unpack_from("!H", raw, 2)[0])
    if family == 10 and len(raw) >= 24:  # AF_INET6
        return join_address(raw[8:24], struct.unpack_from("!H", raw, 2)[0])
    return ""


def _timespec(pid: int, pointer: int, unit: int = 1) -> int | None:
    """A timespec (``unit`` 1) or timeval (``unit`` 1000) in nanoseconds."""
    raw = files.read_memory(pid, pointer, 16)
    if raw is None:
        return None
    seconds, rest = struct.unpack("=qq", raw)
    return int(seconds * 1_000_000_000 + rest * unit)


def _milliseconds(argument: int) -> int | None:
    value = _signed(argument)
    return None if value < 0 else value * 1_000_000


def _signed(argument: int) -> int:
    """The low 32 bits as a C int: the kernel ignores what stands above them."""
    low = argument & 0xFFFFFFFF
    return low - (1 << 32) if low & 0x80000000 else low
