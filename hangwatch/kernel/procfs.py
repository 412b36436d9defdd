"""What /proc says of a process and its threads, without stopping them: state, CPU time, system call, relatives, namespaces.

Every function answers None or empty, never an exception, for what is gone, hidden or not ours to read. ``syscall``, ``wchan``
and memory need the rights of ptrace (one's own threads always may); the rest is open to all.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

from hangwatch.kernel import files, syscalls
from hangwatch.kernel.cgroups import Throttling, cpu_throttling
from hangwatch.kernel.sockets import Socket, SocketTable
from hangwatch.kernel.syscalls import SystemCall

__all__ = [
    "Socket",
    "SocketTable",
    "SystemCall",
    "ThreadStat",
    "Throttling",
    "children",
    "cpu_throttling",
    "inside_ids",
    "listening_ports",
    "name",
    "parent",
    "status",
    "system_call",
    "thread_call_name",
    "thread_cpu_ns",
    "thread_delay_ns",
    "thread_ids",
    "thread_kernel_stack",
    "thread_stat",
    "thread_syscall",
    "thread_wchan",
]  # fmt: skip

_TICK_NS = 1_000_000_000 // (os.sysconf("SC_CLK_TCK") or 100)

#: The letters of /proc/PID/stat in words (Documentation/filesystems/proc.rst).
STATES = {
    "R": "running", "S": "sleeping", "D": "waiting for a device", "T": "stopped", "t": "stopped by a debugger",
    "Z": "zombie", "X": "dead", "I": "idle", "P": "parked",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ThreadStat:
    """One thread. ``state`` is the kernel's letter (see ``STATES``), ``cpu_ns`` CPU time so far, ``delay_ns`` time it was
    ready to run and had to wait for a CPU (None where the kernel does not count it)."""

    tid: int
    name: str
    state: str
    cpu_ns: int
    delay_ns: int | None


def thread_ids(pid: int) -> list[int]:
    """Native ids of all threads, ascending; empty when the process is gone."""
    return files.list_numbers(f"/proc/{pid}/task")


def thread_stat(pid: int, tid: int) -> ThreadStat | None:
    text = files.read_text(f"/proc/{pid}/task/{tid}/stat")
    if not text:
        return None
    # The name stands in parentheses and may itself contain any of them.
    before, _, after = text.rpartition(")")
    columns = after.split()
    if len(columns) < 13:
        return None
    precise = _schedstat(pid, tid)
    ticks = (int(columns[11]) + int(columns[12])) * _TICK_NS
    cpu_ns, delay_ns = precise if precise else (ticks, None)
    return ThreadStat(tid, before.partition("(")[2], columns[0], cpu_ns, delay_ns)


def thread_cpu_ns(pid: int, tid: int) -> int | None:
    """CPU time of one thread so far: exact where the kernel keeps schedstat, else in clock ticks (10 ms)."""
    precise = _schedstat(pid, tid)
    if precise:
        return precise[0]
    stat = thread_stat(pid, tid)
    return stat.cpu_ns if stat else None


def thread_delay_ns(pid: int, tid: int) -> int | None:
    """Time this thread was ready to run and had no CPU."""
    precise = _schedstat(pid, tid)
    return precise[1] if precise else None


def _schedstat(pid: int, tid: int) -> tuple[int, int] | None:
    columns = (files.read_text(f"/proc/{pid}/task/{tid}/schedstat") or "").split()
    # A kernel without CONFIG_SCHED_INFO prints zeros.
    if len(columns) != 3 or columns[0] == "0":
        return None
    return int(columns[0]), int(columns[1])


def thread_wchan(pid: int, tid: int) -> str | None:
    """The kernel function in which the thread sleeps; None when it runs or the kernel does not tell."""
    text = (files.read_text(f"/proc/{pid}/task/{tid}/wchan") or "").strip()
    return text if text and text != "0" else None


def thread_kernel_stack(pid: int, tid: int) -> tuple[str, ...]:
    """The kernel's functions in which the thread sleeps, innermost first; empty when it runs, or without CAP_SYS_ADMIN."""
    lines = (files.read_text(f"/proc/{pid}/task/{tid}/stack") or "").splitlines()
    # "[<0>] hrtimer_nanosleep+0x8a/0x130"
    return tuple(line.split()[-1].partition("+")[0] for line in lines if "+" in line)


def system_call(pid: int, tid: int, table: SocketTable | None = None) -> SystemCall | None:
    """The system call in which the thread is blocked; None when it runs or when we may not know."""
    if tid == threading.get_native_id():
        return None
    text = files.read_text(f"/proc/{pid}/task/{tid}/syscall")
    return syscalls.decode(pid, text, table or SocketTable(pid)) if text else None


def thread_syscall(pid: int, tid: int, table: SocketTable | None = None) -> str | None:
    """``recvfrom tcp 127.0.0.1:5432``, ``futex wait``, ``epoll_wait on 12 descriptors``; None as in `system_call`.

    Give one ``table`` for all threads of a process, so that its descriptors are read once.
    """
    call = system_call(pid, tid, table)
    return str(call) if call else None


def thread_call_name(pid: int, tid: int) -> str | None:
    """The bare name of the system call it is blocked in, ``running`` when it is in none, None when we may not know."""
    text = files.read_text(f"/proc/{pid}/task/{tid}/syscall")
    if not text:
        return None
    return "running" if text.startswith(("running", "-1")) else syscalls.call_name(text)


def status(pid: int, tid: int | None = None) -> dict[str, str]:
    """The lines of /proc/PID/status (or of one thread's); empty when the process is gone."""
    path = f"/proc/{pid}/status" if tid is None else f"/proc/{pid}/task/{tid}/status"
    return files.fields(files.read_text(path))


def name(pid: int) -> str:
    """The process' short name, "" when it is gone."""
    return (files.read_text(f"/proc/{pid}/comm") or "").strip()


def inside_ids(pid: int) -> dict[int, int]:
    """Thread id in the innermost pid namespace of the process -> thread id here. Equal outside of containers.

    A process that looks at itself names its threads by the former (``threading.get_native_id()``).
    """
    found: dict[int, int] = {}
    for tid in thread_ids(pid):
        inside = status(pid, tid).get("NSpid", "").split()
        found[int(inside[-1]) if inside else tid] = tid
    return found


def parent(pid: int) -> int | None:
    text = status(pid).get("PPid", "")
    return int(text) if text.isdigit() and text != "0" else None


def children(pid: int) -> list[int]:
    """Pids of the direct children, whichever thread started them. Zombies are among them."""
    found: set[int] = set()
    told = False
    for tid in thread_ids(pid):
        text = files.read_text(f"/proc/{pid}/task/{tid}/children")
        told = told or text is not None
        found.update(int(word) for word in (text or "").split())
    if told:
        return sorted(found)
    # Kernels without CONFIG_PROC_CHILDREN: ask every process for its parent.
    return [other for other in files.list_numbers("/proc") if parent(other) == pid]


def listening_ports(pid: int) -> frozenset[int]:
    """TCP ports on which this process accepts; empty also when its descriptors are not ours to read."""
    return SocketTable(pid).listening_ports()
