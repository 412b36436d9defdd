"""The kernel's part of a look from outside: system calls, descriptors and namespaces of the target's threads."""

from __future__ import annotations

import time

from hangwatch.kernel import files, procfs
from hangwatch.kernel.sockets import SocketTable
from hangwatch.kernel.syscalls import SystemCall


class Side:
    """What `RemoteReader` asks of the kernel about process ``pid``; remembers nothing across `begin`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._table: SocketTable | None = None
        self._calls: dict[int, SystemCall | None] = {}

    def begin(self) -> None:
        """A new look: threads have moved since, descriptors may stand for other things."""
        self._calls.clear()
        self._table = None

    def executable(self) -> str:
        return (files.read_link(f"/proc/{self.pid}/exe") or "").removesuffix(" (deleted)")

    def outside_ids(self) -> dict[int, int]:
        return procfs.inside_ids(self.pid)

    def activity(self) -> object:
        """CPU time and number of turns of each thread: equal before and after means that nothing ran in between.

        None when one is running: the kernel adds its time up at the next tick only, and up to then it would seem to stand still.
        """
        seen = []
        for tid in procfs.thread_ids(self.pid):
            columns = (files.read_text(f"/proc/{self.pid}/task/{tid}/schedstat") or "").split()
            # The state is read last: who wakes in between has begun a turn that the counters do not show yet, and is running.
            state = (files.read_text(f"/proc/{self.pid}/task/{tid}/stat") or "").rpartition(")")[2].split(None, 1)
            if len(columns) != 3 or columns[0] == "0" or not state or state[0] == "R":
                return None
            seen.append((tid, columns[0], columns[2]))
        return tuple(seen) or None

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def cpu_ns(self, native_id: int) -> int | None:
        return procfs.thread_cpu_ns(self.pid, native_id)

    def _call(self, native_id: int) -> SystemCall | None:
        if native_id not in self._calls:
            self._table = self._table or SocketTable(self.pid)
            self._calls[native_id] = procfs.system_call(self.pid, native_id, self._table)
        return self._calls[native_id]

    def syscall(self, native_id: int) -> str | None:
        call = self._call(native_id)
        return str(call) if call is not None else None

    def call_name(self, native_id: int) -> str | None:
        """Of this moment, whatever was asked before."""
        return procfs.thread_call_name(self.pid, native_id)

    def futex(self, native_id: int) -> int | None:
        call = self._call(native_id)
        return call.address if call is not None else None

    def descriptors(self, native_id: int) -> tuple[int, ...]:
        call = self._call(native_id)
        return call.fds if call is not None else ()

    def peer(self, descriptor: int) -> str | None:
        self._table = self._table or SocketTable(self.pid)
        found = self._table.socket(descriptor)
        return found.peer or None if found is not None else None
