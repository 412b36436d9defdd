"""What the collectors hand over, as Python values. The layouts are those of collectors/*.h; a test compares them with the objects."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hangwatch.kernel.callclasses import call_name

CONFIG = struct.Struct("<QQQIIIIIIII3II")
TARGET = struct.Struct("<QQ")
KNOWN = struct.Struct("<iIQ")
LOOP = struct.Struct("<IIiiQQQQQQ3QQQQ3QiIii")
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
