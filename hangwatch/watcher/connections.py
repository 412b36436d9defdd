"""Connections on which something should have come or gone and did not, told while it lasts.

Two observers. The kernel's socket diagnosis costs nobody but the watcher anything and is always asked; it sees what arrived and was not
answered, and what is not acknowledged. The program of collectors/conntime.bpf.c sees each call: streams that stop half-way, uploads,
upgrades, TLS. It taxes every system call of the host, so it is attached for a window when the first saw something, or for good when asked.

What neither can tell from outside: which of many HTTP/2 requests on one connection waits; whether a quiet event stream is stuck; a request
that was pipelined behind one that is answered, unless the first bytes are copied and both heads fit into them. `attach` sees all three.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hangwatch.kernel import files, procfs, sockdiag
from hangwatch.kernel.bpf import BpfError
from hangwatch.kernel.collectors import ConnTime
from hangwatch.kernel.rows import CLIENT, SEEDED, SERVER, TLS, WAITS, ConnectionRow, Heads
from hangwatch.kernel.sockets import Socket, SocketTable
from hangwatch.watcher.states import (
    HALF_ANSWERED,
    NOT_READING,
    PENDING,
    TROUBLE,
    UPSTREAM,
    ConnectionStall,
    Key,
    classify,
    key_of,
    request_line,
    unanswered,
)

#: How long the program stays attached after something was suspected: some requests' time.
WINDOW_S = 30.0
#: Between two scans: at most, at least, and at least as a multiple of what one costs. A connection that is on its way to the limit is
#: looked at again when it gets there.
SCAN_S, SHORTEST_S, SCAN_COST = 1.0, 0.1, 100.0
#: Connections of which it is remembered that they were told too early.
MAX_LATER = 10_000


@dataclass(slots=True)
class _Watched:
    """One process: the network namespace it is in, the ports it serves."""

    pid: int
    namespace: int
    ports: frozenset[int]


@dataclass(slots=True)
class ConnectionWatch:
    """``collector`` None: socket diagnosis only. ``always``: the program stays attached. Not for several threads."""

    limit_ns: int
    collector: ConnTime | None = None
    always: bool = False
    clock: Callable[[], int] = time.monotonic_ns
    errors: dict[str, int] = field(default_factory=dict)
    scanned: int = 0
    _watched: dict[int, _Watched] = field(default_factory=dict)
    _sockets: dict[int, socket.socket] = field(default_factory=dict)
    #: What the last scan found past the limit, told or not. A descriptor alone would not do: the next connection gets it.
    trouble: set[Key] = field(default_factory=set)
    _told: set[Key] = field(default_factory=set)
    #: What was told too early: when to tell it again, and the pause before that.
    _later: dict[Key, tuple[int, int]] = field(default_factory=dict)
    _until_ns: int = 0
    _next_ns: int = 0

    def add(self, pid: int) -> None:
        self._watched[pid] = _Watched(pid, sockdiag.namespace(pid), procfs.listening_ports(pid))
        if self.collector is not None:
            self.collector.watch(pid)
            if self.collector.attached:
                self._seed(self._watched[pid])
        if self.always:
            self.open_window(forever=True)

    def drop(self, pid: int) -> None:
        watched = self._watched.pop(pid, None)
        if self.collector is not None and watched is not None:
            self.collector.unwatch(pid, frozenset(self._watched))
        if watched is not None and watched.namespace not in {other.namespace for other in self._watched.values()}:
            asking = self._sockets.pop(watched.namespace, None)
            if asking is not None:
                asking.close()

    def refresh(self) -> None:
        """Ports may be opened after the process began: looked up again for those without."""
        for watched in self._watched.values():
            if not watched.ports:
                watched.ports = procfs.listening_ports(watched.pid)

    def open_window(self, forever: bool = False) -> None:
        """Attaches the program for a while."""
        if self.collector is None:
            return
        self._until_ns = 1 << 62 if forever else max(self._until_ns, self.clock() + int(WINDOW_S * 1e9))
        if not self.collector.attached:
            try:
                self.collector.attach()
            except BpfError as error:
                self._count(str(error))
                return
            for watched in self._watched.values():
                self._seed(watched)

    def tick(self, but: frozenset[int] = frozenset()) -> list[ConnectionStall]:
        """The connections that are past the limit now and were not told before; of the processes in ``but`` they are kept for later."""
        now = self.clock()
        if now < self._next_ns:
            return []
        begun = time.perf_counter()
        ahead_ns = min(int(SCAN_S * 1e9), self.limit_ns // 2)
        found, known = self._of_program(now, ahead_ns) if self.collector is not None and self.collector.attached else ([], set())
        found += [stall for stall in self._of_sockets(now, ahead_ns) if (stall.pid, stall.fd) not in known]
        due = [stall for stall in found if now - stall.since_ns >= self.limit_ns]
        if due:
            self.open_window()
        elif self.collector is not None and self.collector.attached and now > self._until_ns:
            self.collector.detach()
            self.collector.clear()
        self.trouble = set(map(key_of, due))
        self._plan(now, [stall.since_ns + self.limit_ns for stall in found if stall not in due], time.perf_counter() - begun)
        return self._fresh([stall for stall in due if stall.pid not in but])

    def _plan(self, now: int, due_at: list[int], took_s: float) -> None:
        least = now + int(max(SHORTEST_S, took_s * SCAN_COST * (0.1 if due_at else 1.0)) * 1e9)
        self._next_ns = max(least, min([now + int(SCAN_S * 1e9), *(at + 10_000_000 for at in due_at)]))

    @property
    def scans(self) -> int:
        """When the next look is due; changes with each one."""
        return self._next_ns

    def put_off(self, stalls: list[ConnectionStall]) -> None:
        """The process owed nothing on them yet (a route of a longer limit, a body that was still coming): if they last, they are told again,
        each time after twice the pause."""
        if len(self._later) > MAX_LATER:
            self._later.clear()
        now = self.clock()
        for key in map(key_of, stalls):
            pause_ns = self._later[key][1] * 2 if key in self._later else self.limit_ns
            self._later[key] = (now + pause_ns, pause_ns)

    def _fresh(self, found: list[ConnectionStall]) -> list[ConnectionStall]:
        now = self.clock()
        keys = {key_of(stall): stall for stall in found}
        due = {key for key in keys if key in self._later and self._later[key][0] <= now}
        for key in due:
            self._later[key] = (1 << 62, self._later[key][1])
        self._told -= due
        fresh = [stall for key, stall in keys.items() if key not in self._told]
        self._told = set(keys) | (self._told if len(self._told) < 100_000 else set())
        return fresh

    # What the program saw

    def _of_program(self, now: int, ahead_ns: int) -> tuple[list[ConnectionStall], set[tuple[int, int]]]:
        """What is past the limit or will be within ``ahead_ns``, and the connections about which the program knows better than the sockets."""
        assert self.collector is not None
        found, known, tables = [], set(), {pid: SocketTable(pid) for pid in self._watched}
        self.collector.answered()
        for row in self.collector.overdue(now, self.limit_ns - ahead_ns):
            if row.pid not in self._watched:
                continue
            heads = self.collector.heads(row)
            state = classify(row, heads, now, self.limit_ns - ahead_ns)
            if not row.flags & SEEDED and state != NOT_READING:
                known.add((row.pid, row.fd))
            if state not in TROUBLE or (row.flags & SEEDED and not row.received):
                continue
            here = tables[row.pid].socket(row.fd)
            if state == NOT_READING and here is not None and here.family == "tcp":
                # What the process last wrote may still be on its way to a slow reader; the sockets know (`_of_sockets`).
                continue
            # A pipelined request waits since the one before it was answered.
            pending = row.waits_since if row.waits else row.sent_at
            since = {PENDING: pending, NOT_READING: max(row.unsent_since, row.sent_at), HALF_ANSWERED: row.sent_at}[state]
            local, peer = (here.local, here.peer) if here is not None else ("", "")
            found.append(
                ConnectionStall(
                    row.pid,
                    row.fd,
                    state,
                    since,
                    now,
                    local,
                    peer,
                    row.received,
                    row.sent,
                    bool(row.flags & TLS),
                    request_line(heads.request if row.waits or state != PENDING else unanswered(row, heads)),
                    "eBPF",
                )
            )
        return found, known

    def upstreams(self, pid: int) -> list[ConnectionStall]:
        """Peers that this process wrote to and that have not answered for longer than the limit. Evidence beside a stall, no stall."""
        if self.collector is None or not self.collector.attached:
            return []
        now, table = self.clock(), SocketTable(pid)
        found = []
        for row in self.collector.overdue(now, self.limit_ns // 2):
            if row.pid == pid and classify(row, Heads(), now, self.limit_ns // 2) == UPSTREAM:
                here = table.socket(row.fd)
                found.append(
                    ConnectionStall(
                        pid,
                        row.fd,
                        UPSTREAM,
                        row.waits_since,
                        now,
                        here.local if here else "",
                        here.peer if here else "",
                        row.received,
                        row.sent,
                        observer="eBPF",
                    )
                )
        return found

    # What the sockets say

    def _of_sockets(self, now: int, ahead_ns: int) -> list[ConnectionStall]:
        quiet_ms = max(1, (self.limit_ns - ahead_ns) // 1_000_000)
        trouble: dict[tuple[int, int], tuple[str, int, sockdiag.Diagnosis]] = {}
        for namespace, ports in self._questions().items():
            for diagnosis in self._ask(namespace, ports, quiet_ms):
                self.scanned += 1
                key = (namespace, diagnosis.inode)
                if diagnosis.unacked:
                    # Something waits to go, and nothing went for so long: the peer's window is shut.
                    trouble[key] = (NOT_READING, now - diagnosis.sent_ago_ms * 1_000_000, diagnosis)
                elif diagnosis.waits:
                    trouble[key] = (PENDING, now - diagnosis.received_ago_ms * 1_000_000, diagnosis)
        return self._owned(trouble, now) if trouble else []

    def _questions(self) -> dict[int, frozenset[int]]:
        """For each network namespace all ports at once: what a question costs does not grow with them."""
        asked: dict[int, frozenset[int]] = {}
        for watched in self._watched.values():
            asked[watched.namespace] = asked.get(watched.namespace, frozenset()) | watched.ports
        return asked

    def _ask(self, namespace: int, ports: frozenset[int], quiet_ms: int) -> list[sockdiag.Diagnosis]:
        if not ports:
            return []
        try:
            if namespace not in self._sockets:
                pid = next(watched.pid for watched in self._watched.values() if watched.namespace == namespace)
                self._sockets[namespace] = sockdiag.open_socket(pid)
            return list(sockdiag.connections(self._sockets[namespace], ports, quiet_ms))
        except (FileNotFoundError, StopIteration):
            return []  # the process by which the namespace is found has just ended
        except OSError as error:
            self._count(f"sock_diag: {error.strerror or error}")
            return []

    def _owned(self, trouble: dict[tuple[int, int], tuple[str, int, sockdiag.Diagnosis]], now: int) -> list[ConnectionStall]:
        """Whose descriptors these are: every watched process of the namespace that serves the port is asked."""
        found = []
        for watched in self._watched.values():
            wanted = {inode for namespace, inode in trouble if namespace == watched.namespace}
            for fd, inode in _inodes(watched.pid, wanted) if wanted else ():
                state, since, diagnosis = trouble[watched.namespace, inode]
                if diagnosis.local_port in watched.ports:
                    found.append(
                        ConnectionStall(
                            watched.pid,
                            fd,
                            state,
                            since,
                            now,
                            diagnosis.local,
                            diagnosis.peer,
                            diagnosis.received,
                            diagnosis.sent or diagnosis.acked,
                        )
                    )
        return found

    def _seed(self, watched: _Watched) -> None:
        """The connections that are there already, with what the sockets know of them."""
        assert self.collector is not None
        known = {diagnosis.inode: diagnosis for diagnosis in self._ask(watched.namespace, watched.ports, 0)}
        now, there = self.clock(), SocketTable(watched.pid).sockets()
        for fd, here in there.items():
            if here.family not in ("tcp", "unix") or here.state != "established" or self._is_own_pair(watched, here, there):
                continue
            role = SERVER if here.local_port in watched.ports else CLIENT
            diagnosis = known.get(here.inode)
            self.collector.seed(_seeded(watched.pid, fd, role, diagnosis, now))

    def _is_own_pair(self, watched: _Watched, here: Socket, there: Mapping[int, Socket]) -> bool:
        """Both ends belong to this process, as of the pair by which asyncio wakes its own loop: nobody's answer is waited for on it."""
        if here.family != "unix" or watched.namespace not in self._sockets:
            return False
        peer = sockdiag.unix_peer(self._sockets[watched.namespace], here.inode)
        return peer is not None and any(other.inode == peer for other in there.values())

    def _count(self, what: str) -> None:
        if what in self.errors or len(self.errors) < 20:
            self.errors[what] = self.errors.get(what, 0) + 1

    def close(self) -> None:
        if self.collector is not None:
            self.collector.close()
        for asking in self._sockets.values():
            asking.close()


def _seeded(pid: int, fd: int, role: int, diagnosis: sockdiag.Diagnosis | None, now: int) -> ConnectionRow:
    flags, received_at, sent_at, received = SEEDED, 0, 0, 0
    if diagnosis is not None and role == SERVER:
        received_at = now - diagnosis.received_ago_ms * 1_000_000 if diagnosis.received else 0
        sent_at = now - diagnosis.sent_ago_ms * 1_000_000 if diagnosis.sent else 0
        received = diagnosis.received
        flags |= WAITS if diagnosis.waits else 0
    waits_since = received_at if flags & WAITS else 0
    return ConnectionRow(pid, fd, 0, role, flags, 2, now, waits_since, received_at, sent_at, 0, received, 0, 0, 0, 0)


def _inodes(pid: int, wanted: set[int]) -> list[tuple[int, int]]:
    found = []
    for fd in files.list_numbers(f"/proc/{pid}/fd"):
        link = files.read_link(f"/proc/{pid}/fd/{fd}") or ""
        if link.startswith("socket:[") and int(link[8:-1]) in wanted:
            found.append((fd, int(link[8:-1])))
    return found
