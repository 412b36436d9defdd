"""What the collectors hand over, as Python values. The layouts are those of collectors/*.h; a test compares them with the objects."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hangwatch.kernel.callclasses import call_name

CONFIG = struct.Struct("<QQQIIIIIIII3II")
TARGET = struct.Struct("<QQ")
KNOWN = struct.Struct("<iIQ")
LOOP = struct.Struct("<IIiiQQQQQQ3QQQQ3QiIii")
CONNECTION = struct.Struct("<IiIBBBBQQQQQQQQQII")
HEADS = struct.Struct("<128s192s8s")
LOOP_ENDED = struct.Struct(f"<QQQ{LOOP.format[1:]}")


@dataclass(frozen=True, slots=True)
class Sleep:
    """One sleep of a thread: in which system call (its number, -1: none), with which arguments, since when or for how long."""

    call: int
    arguments: tuple[int, int, int]
    ns: int
    stack: int = -1

    @property
    def name(self) -> str:
        return call_name(self.call)


@dataclass(frozen=True, slots=True)
class LoopRow:
    """One thread with an event loop (``struct loop_thread``). Times in monotonic ns, 0 for never.

    ``busy_since`` 0: it is in its epoll. ``now``: the sleep it is in, with ``ns`` its begin; None when it is not asleep.
    ``longest``: of this turn, ``ns`` its length. ``exec_ns`` and ``delay_ns``: the scheduler's counters when the turn began.
    """

    pid: int
    tid: int
    epoll_fd: int
    idle_since: int
    busy_since: int
    polled_at: int
    exec_ns: int
    delay_ns: int
    now: Sleep | None
    slept_ns: int
    gil_ns: int
    longest: Sleep | None
    sleeps: int


@dataclass(frozen=True, slots=True)
class LoopEnded:
    """A turn that lasted too long has ended. ``cpu_ns`` and ``delay_ns`` are of that turn; None where the kernel does not count them."""

    at_ns: int
    cpu_ns: int | None
    delay_ns: int | None
    row: LoopRow


def loop_row(raw: bytes, offset: int = 0) -> LoopRow:
    (
        pid, tid, epoll_fd, call, idle_since, busy_since, polled_at, exec_ns, delay_ns, asleep_since, a0, a1, a2, slept_ns, gil_ns,
        longest_ns, l0, l1, l2, longest_call, sleeps, stack, longest_stack,
    ) = LOOP.unpack_from(raw, offset)  # fmt: skip
    now = Sleep(call, (a0, a1, a2), asleep_since, stack) if asleep_since else None
    longest = Sleep(longest_call, (l0, l1, l2), longest_ns, longest_stack) if longest_ns else None
    return LoopRow(pid, tid, epoll_fd, idle_since, busy_since, polled_at, exec_ns, delay_ns, now, slept_ns, gil_ns, longest, sleeps)


def loop_ended(raw: bytes) -> LoopEnded:
    at_ns, exec_ns, delay_ns = struct.unpack_from("<QQQ", raw)
    row = loop_row(raw, 24)
    return LoopEnded(at_ns, exec_ns - row.exec_ns if exec_ns else None, delay_ns - row.delay_ns if delay_ns else None, row)


# enum role and enum connection_flags in collectors/conntime.h
SERVER, CLIENT = 1, 2
WAITS, ENDED, TLS, UPGRADED, TICKETS, SEEDED = 1, 2, 4, 8, 16, 32


@dataclass(frozen=True, slots=True)
class ConnectionRow:
    """One connection (``struct connection``). Times in monotonic ns, 0 for never; ``role`` and ``flags`` as above."""

    pid: int
    fd: int
    tid: int
    role: int
    flags: int
    sends: int
    opened_at: int
    waits_since: int
    received_at: int
    sent_at: int
    unsent_since: int
    received: int
    sent: int
    request_bytes: int
    answer_bytes: int
    exchanges: int
    flight: int = 0

    @property
    def waits(self) -> bool:
        return bool(self.flags & WAITS)

    def packed(self) -> bytes:
        return CONNECTION.pack(
            self.pid, self.fd, self.tid, self.role, self.flags, self.sends, 0, self.opened_at, self.waits_since, self.received_at,
            self.sent_at, self.unsent_since, self.received, self.sent, self.request_bytes, self.answer_bytes, self.exchanges, self.flight,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Heads:
    """The first bytes of the last request and of its answer, the last bytes written, each with NUL behind (``struct connection_heads``).

    May hold what strangers sent. ``tail`` is all NUL where it is not known.
    """

    request: bytes = b""
    answer: bytes = b""
    tail: bytes = b""


def connection_row(values: tuple[int, ...]) -> ConnectionRow:
    """From what ``CONNECTION`` unpacks."""
    return ConnectionRow(*values[:6], *values[7:])


def heads(raw: bytes) -> Heads:
    return Heads(*HEADS.unpack(raw))
