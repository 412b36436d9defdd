"""The collectors of this installation: found, configured, attached; their rows and events.

    loops = LoopTime(limit_ns=500_000_000)
    loops.watch(pid)
    for row in loops.rows(): ...

An object of these classes may be used by one thread at a time. All of it ends with the process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hangwatch.kernel import callclasses, offsets, rows
from hangwatch.kernel.bpf import BadObject, BpfError, Collector, Ring, load_object
from hangwatch.kernel.rows import CLIENT, CONNECTION, SERVER, WAITS, ConnectionRow, Heads, LoopEnded, LoopRow, connection_row, heads

#: The number of the kernel's first pid namespace (PROC_PID_INIT_INO in include/linux/proc_ns.h).
_FIRST_PID_NAMESPACE = 0xEFFFFFFC
_TRANSLATE_PIDS, _KERNEL_STACKS, _COPY_HEADS = 1, 2, 4
_ALL_PIDS = 65536


class CannotCollect(Exception):
    """eBPF cannot be used here. ``error`` is what the kernel said, where it was the kernel."""

    def __init__(self, message: str, error: BpfError | None = None) -> None:
        super().__init__(message)
        self.error = error


@dataclass(frozen=True, slots=True)
class Settings:
    """``struct config`` of collectors/common.h."""

    limit_ns: int
    offsets: offsets.Offsets | None
    registers: int = 0
    kernel_stacks: bool = False
    heads: bool = False
    namespace: tuple[int, int] | None = None

    def packed(self) -> bytes:
        found = self.offsets
        device, inode = self.namespace or (0, 0)
        flags = (
            (_TRANSLATE_PIDS if self.namespace else 0) | (_KERNEL_STACKS if self.kernel_stacks else 0) | (_COPY_HEADS if self.heads else 0)
        )
        task = (found.task_stack, found.task_state, found.task_exec_ns, found.task_delay_ns) if found else (0, 0, 0, 0)
        registers = (found.register_number, *found.register_arguments) if found else (0, 0, 0, 0)
        return rows.CONFIG.pack(self.limit_ns, device, inode, flags, os.getpid(), *task, self.registers, *registers, 0)


def find(name: str) -> Path:
    """The committed object of a collector: in the wheel, else beside the package. Raises CannotCollect."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_collectors", package.parent / "collectors"):
        path = folder / f"{name}.bpf.o"
        if path.is_file():
            return path
    raise CannotCollect(f"the collector {name} is not in this installation (no {name}.bpf.o)")


def pid_namespace() -> tuple[int, int] | None:
    """Device and inode of our pid namespace when it is not the kernel's first: process ids must be translated then."""
    try:
        stat = os.stat("/proc/self/ns/pid")
    except OSError:
        return None
    return None if stat.st_ino == _FIRST_PID_NAMESPACE else (stat.st_dev, stat.st_ino)


class Collecting:
    """One object in the kernel, configured. Raises CannotCollect. Base of the collectors below."""

    NAME = ""

    def __init__(self, limit_ns: int, known: offsets.Offsets | None = None, **settings: Any) -> None:
        try:
            self.offsets = known or offsets.read()
            self.settings = Settings(limit_ns, self.offsets, namespace=pid_namespace(), **settings)
            self.collector = Collector(load_object(find(self.NAME)))
        except offsets.NoOffsets as error:
            raise CannotCollect(str(error)) from None
        except BadObject as error:
            raise CannotCollect(str(error)) from None
        except BpfError as error:
            raise CannotCollect(f"the kernel refuses eBPF ({error.step}: {error.strerror})", error) from error
        try:
            self._configure()
        except BpfError as error:
            self.close()
            raise CannotCollect(f"the kernel refuses eBPF ({error.step}: {error.strerror})", error) from error

    def _configure(self) -> None:
        self.maps = self.collector.maps
        self._put_settings()
        for number, kind in callclasses.class_by_number().items():
            self.maps["calls"].put(callclasses.key(number), bytes([kind]))
        if self.settings.namespace:
            # Which of the kernel's ids are meant is not known here: each is translated by the program.
            self.maps["wanted"].put_all(struct.pack(f"<{_ALL_PIDS}I", *range(_ALL_PIDS)), b"\1" * _ALL_PIDS)

    def _put_settings(self) -> None:
        self.maps["settings"].put(bytes(4), self.settings.packed())

    def configure(self, **changes: Any) -> None:
        """Changes settings while the programs run."""
        self.settings = dataclasses.replace(self.settings, **changes)
        self._put_settings()

    def watch(self, pid: int, gil: tuple[int, int] = (0, 0)) -> None:
        """``gil``: the addresses in which the interpreter keeps its GIL. Raises CannotCollect when 4096 are watched."""
        try:
            self.maps["targets"].put(callclasses.key(pid), rows.TARGET.pack(*gil))
        except BpfError as error:
            raise CannotCollect("too many processes to watch", error) from error
        if not self.settings.namespace:
            self.maps["wanted"].put(callclasses.key(pid & 0xFFFF), b"\1")

    def unwatch(self, pid: int, others: frozenset[int] = frozenset()) -> None:
        """``others`` are those still watched: one whose id has the same low bits keeps its mark."""
        self.maps["targets"].drop(callclasses.key(pid))
        if not self.settings.namespace and not any(other & 0xFFFF == pid & 0xFFFF for other in others):
            self.maps["wanted"].put(callclasses.key(pid & 0xFFFF), b"\0")

    def lost(self) -> int:
        """Events and entries for which there was no room."""
        counts = (self.maps["lost"].get(callclasses.key(number)) for number in range(4))
        return sum(struct.unpack("<Q", count)[0] for count in counts if count)

    def close(self) -> None:
        self.collector.close()


class LoopTime(Collecting):
    """looptime: threads with an event loop. Attached when made."""

    NAME = "looptime"

    def __init__(self, limit_ns: int, known: offsets.Offsets | None = None, *, kernel_stacks: bool = False) -> None:
        super().__init__(limit_ns, known, kernel_stacks=kernel_stacks)
        try:
            self.configure(registers=self._find_registers())
            self.collector.attach("loop_exit", "loop_switch")
            self._ring = Ring(self.maps["events"])
        except BpfError as error:
            self.close()
            raise CannotCollect(f"the kernel refuses eBPF ({error.step}: {error.strerror})", error) from error

    def _find_registers(self) -> int:
        """From the lowest address of a kernel stack to the registers saved on it: shown by a system call of our own."""
        self.collector.attach("loop_where")
        os.getppid()
        self.collector.detach("loop_where")
        (found,) = struct.unpack("<Q", self.maps["where"].get(bytes(4)) or bytes(8))
        if not 0 < found < 1 << 20:
            raise CannotCollect("where the kernel keeps a thread's registers could not be found out")
        return int(found)

    def knows(self, tid: int, epoll_fd: int, seen_at_ns: int) -> None:
        """This thread was seen asleep in its epoll before the programs could see it go there."""
        with contextlib.suppress(BpfError):
            self.maps["known"].put(callclasses.key(tid), rows.KNOWN.pack(epoll_fd, 0, seen_at_ns))

    def rows(self) -> Iterator[LoopRow]:
        """Every thread with an event loop that has been seen."""
        for _, values, count in self.maps["threads"].batches():
            for place in range(count):
                yield rows.loop_row(values, place * rows.LOOP.size)

    def forget(self, tid: int) -> None:
        """The thread's loop is another one now (its epoll was closed): it is learnt anew."""
        for key, value in self.maps["threads"].items():
            if struct.unpack_from("<I", value, 4)[0] == tid:
                self.maps["threads"].drop(key)
        self.maps["known"].drop(callclasses.key(tid))

    def ended(self) -> list[LoopEnded]:
        """Turns that ended after more than the limit, since the last call."""
        return [rows.loop_ended(raw) for raw in self._ring.read()]

    def look_closer(self, wanted: bool) -> None:
        """Attaches or detaches the program that sees a loop pass by without sleeping. Raises BpfError."""
        if wanted:
            self.collector.attach("loop_polled")
        else:
            self.collector.detach("loop_polled")

    @property
    def closer(self) -> bool:
        return "loop_polled" in self.collector.attached

    def stack(self, number: int) -> tuple[int, ...]:
        """Addresses in the kernel, innermost first."""
        raw = self.maps["stacks"].get(callclasses.key(number)) if number >= 0 else None
        return tuple(address for address in struct.unpack("<32Q", raw) if address) if raw else ()


class ConnTime(Collecting):
    """conntime: the connections of the watched processes. Attached by `attach`, which taxes every system call of the host."""

    NAME = "conntime"

    def __init__(self, limit_ns: int, known: offsets.Offsets | None = None, *, copy_heads: bool = False) -> None:
        super().__init__(limit_ns, known, heads=copy_heads)
        try:
            self.collector.load("conn_call")
            self._ring = Ring(self.maps["events"])
        except BpfError as error:
            self.close()
            raise CannotCollect(f"the kernel refuses eBPF ({error.step}: {error.strerror})", error) from error

    def attach(self) -> None:
        """Raises BpfError."""
        self.collector.attach("conn_call")

    def detach(self) -> None:
        self.collector.detach("conn_call")

    @property
    def attached(self) -> bool:
        return bool(self.collector.attached)

    def seed(self, row: ConnectionRow) -> None:
        """A connection that was there before the program; one that it knows already is left alone."""
        key = struct.pack("<iI", row.fd, row.pid)
        with contextlib.suppress(BpfError):
            if self.maps["connections"].get(key) is None:
                self.maps["connections"].put(key, row.packed())

    def clear(self) -> None:
        """Forgets all connections: what the program did not see since it was detached would be told wrong."""
        for key, _ in list(self.maps["connections"].items()):
            self.maps["connections"].drop(key)

    def overdue(self, now_ns: int, limit_ns: int) -> Iterator[ConnectionRow]:
        """Connections on which something has lasted longer than ``limit_ns``, out of all: ten thousand take some milliseconds."""
        since = now_ns - limit_ns
        for _, values, _ in self.maps["connections"].batches():
            for row in CONNECTION.iter_unpack(values):
                _, _, _, role, flags, _, _, _, waits_since, received_at, sent_at, unsent_since = row[:12]
                waits = flags & WAITS and waits_since < since and (role == CLIENT or received_at < since)
                if waits or (unsent_since and unsent_since < since and sent_at < since) or (role == SERVER and sent_at and sent_at < since):
                    yield connection_row(row)

    def heads(self, row: ConnectionRow) -> Heads:
        raw = self.maps["heads"].get(struct.pack("<iI", row.fd, row.pid))
        return heads(raw) if raw else Heads()

    def answered(self) -> list[tuple[int, ConnectionRow]]:
        """(when, the connection as it was before) of answers that took longer than the limit, since the last call."""
        return [(struct.unpack_from("<Q", raw)[0], connection_row(CONNECTION.unpack_from(raw, 8))) for raw in self._ring.read()]
