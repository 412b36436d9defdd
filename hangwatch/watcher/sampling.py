"""Loops by /proc alone: where no eBPF can be had, and for what began before the programs were attached.

/proc/PID/task/TID/syscall says of a sleeping thread in which call it is, with which arguments and stack pointer. The same twice is a
thread that did not move. Of a running thread it says only that it runs: a loop that computes and one that is merely busy look alike, so
such a finding is not ``certain``, and a look into the process has to confirm it.
"""

from __future__ import annotations

from dataclasses import dataclass

from hangwatch.kernel import files, procfs
from hangwatch.kernel.callclasses import CLASSES, EPOLL
from hangwatch.kernel.syscallnames import name_of

_EPOLLS = frozenset(name for name, kind in CLASSES.items() if kind == EPOLL)


@dataclass(slots=True)
class Sampled:
    """One thread, sampled. ``busy_since`` 0: it was in its epoll. ``asleep_since``: in the same sleep since then, 0 when it moved."""

    pid: int
    tid: int
    epoll_fd: int = -1
    busy_since: int = 0
    asleep_since: int = 0
    call: str = ""
    arguments: tuple[int, ...] = ()
    #: What would differ had the thread moved: the call, its arguments, its stack, how often it slept.
    place: tuple[str, ...] = ()


def in_epoll(pid: int, tid: int) -> int | None:
    """The descriptor of the epoll in which this thread sleeps, None when it does not."""
    columns = (files.read_text(f"/proc/{pid}/task/{tid}/syscall") or "").split()
    if len(columns) < 9 or not columns[0].isdigit() or name_of(int(columns[0])) not in _EPOLLS:
        return None
    return int(columns[1], 16) & 0x7FFFFFFF


def is_epoll(pid: int, fd: int) -> bool:
    """That descriptor is still an epoll: a loop that was closed took its own along."""
    return (files.read_link(f"/proc/{pid}/fd/{fd}") or "anon_inode:[eventpoll]") == "anon_inode:[eventpoll]"


class Sampler:
    """The threads that have to be sampled; each sample reads two small files."""

    def __init__(self) -> None:
        self.threads: dict[tuple[int, int], Sampled] = {}

    def add(self, pid: int, tid: int, epoll_fd: int = -1, busy_since: int = 0) -> None:
        self.threads.setdefault((pid, tid), Sampled(pid, tid, epoll_fd, busy_since))

    def drop(self, pid: int, tid: int | None = None) -> None:
        for key in [key for key in self.threads if key[0] == pid and tid in (None, key[1])]:
            del self.threads[key]

    def sample(self, now_ns: int) -> list[Sampled]:
        """Looks at all of them now. Threads that have ended are forgotten."""
        for key, thread in list(self.threads.items()):
            columns = (files.read_text(f"/proc/{thread.pid}/task/{thread.tid}/syscall") or "").split()
            if not columns:
                del self.threads[key]
                continue
            self._take(thread, columns, now_ns)
        return list(self.threads.values())

    def _take(self, thread: Sampled, columns: list[str], now_ns: int) -> None:
        number = int(columns[0]) if columns[0].lstrip("-").isdigit() else -1
        name = name_of(number) if number >= 0 else ""
        if name in _EPOLLS and (thread.epoll_fd in (-1, int(columns[1], 16) & 0x7FFFFFFF) or not is_epoll(thread.pid, thread.epoll_fd)):
            thread.epoll_fd = int(columns[1], 16) & 0x7FFFFFFF
            thread.busy_since = thread.asleep_since = 0
            thread.place = ()
            return
        if not thread.busy_since:
            thread.busy_since = now_ns
        thread.call = name
        thread.arguments = tuple(int(column, 16) for column in columns[1:4]) if len(columns) >= 9 else ()
        switches = procfs.status(thread.pid, thread.tid).get("voluntary_ctxt_switches", "")
        place = (*columns, switches)
        if name and place == thread.place:
            thread.asleep_since = thread.asleep_since or now_ns
        else:
            thread.asleep_since = now_ns if name else 0
        thread.place = place
