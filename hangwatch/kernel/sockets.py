"""The sockets of a process: what each descriptor is connected to, in which state, with how much unread and unsent.

Read from /proc/PID/fd and /proc/PID/net, which is the target's own network namespace: right across containers,
without entering them. Reading another user's /proc/PID/fd needs the rights of ptrace; then the table is empty.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass

from hangwatch.kernel import files

# include/net/tcp_states.h
_TCP_STATES = (
    "", "established", "syn-sent", "syn-recv", "fin-wait-1", "fin-wait-2", "time-wait", "closed", "close-wait",
    "last-ack", "listen", "closing", "new-syn-recv",
)  # fmt: skip
# include/uapi/linux/net.h: enum socket_state; a listening one is told by the flag __SO_ACCEPTCON
_UNIX_STATES = {"01": "unconnected", "02": "connecting", "03": "established", "04": "closing"}
_SO_ACCEPTCON = 0x10000
_V4_MAPPED = bytes(10) + b"\xff\xff"

#: A process with more descriptors than this is described in part; `SocketTable.dropped` counts the rest.
MAX_DESCRIPTORS = 20_000


@dataclass(frozen=True, slots=True)
class Socket:
    """One socket. ``local`` and ``peer`` are ``address:port`` (``[v6]:port``) or a Unix socket's path ("" where it has none).

    ``recv_queue`` is bytes that arrived and were not read (on a listening TCP socket: connections not yet accepted),
    ``send_queue`` bytes written and not yet acknowledged by the peer; None where the kernel does not tell (Unix sockets).
    """

    family: str
    local: str
    peer: str
    state: str
    inode: int
    recv_queue: int | None = None
    send_queue: int | None = None

    @property
    def local_port(self) -> int | None:
        return _port(self.local)

    @property
    def peer_port(self) -> int | None:
        return _port(self.peer)

    def describe(self) -> str:
        """``tcp 127.0.0.1:5432`` (the peer), ``tcp listening on 0.0.0.0:80``, ``unix /run/app.sock``."""
        if self.state == "listen":
            return f"{self.family} listening on {self.local}"
        if self.family == "unix":
            return f"unix {self.local or self.peer}".rstrip()
        if self.peer:
            return f"{self.family} {self.peer}"
        return f"{self.family} {self.local} ({self.state})" if self.local else f"{self.family} ({self.state})"


class SocketTable:
    """The descriptors of one process at one moment, each file of /proc read at most once, when first asked for."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.dropped = 0
        self._descriptors: dict[int, str] | None = None
        self._sockets: dict[int, Socket] | None = None

    def descriptors(self) -> dict[int, str]:
        """Descriptor -> what /proc says it is: ``socket:[123]``, ``pipe:[456]``, ``anon_inode:[eventfd]``, a path."""
        if self._descriptors is None:
            numbers = files.list_numbers(f"/proc/{self.pid}/fd")
            self.dropped = max(0, len(numbers) - MAX_DESCRIPTORS)
            links = {fd: files.read_link(f"/proc/{self.pid}/fd/{fd}") for fd in numbers[:MAX_DESCRIPTORS]}
            self._descriptors = {fd: link for fd, link in links.items() if link}
        return self._descriptors

    def sockets(self) -> dict[int, Socket]:
        """Descriptor -> socket, of those that the network tables name."""
        inodes = {fd: inode for fd, link in self.descriptors().items() if (inode := _inode(link))}
        if self._sockets is None:
            self._sockets = read_tables(self.pid, set(inodes.values()))
        return {fd: self._sockets[inode] for fd, inode in inodes.items() if inode in self._sockets}

    def link(self, fd: int) -> str | None:
        """What one descriptor is, without listing the others."""
        if self._descriptors is not None:
            return self._descriptors.get(fd)
        return files.read_link(f"/proc/{self.pid}/fd/{fd}")

    def socket(self, fd: int) -> Socket | None:
        inode = _inode(self.link(fd) or "")
        if not inode:
            return None
        if self._sockets is None or inode not in self._sockets:
            found = read_tables(self.pid, {inode})
            if self._sockets is None:
                return found.get(inode)
            self._sockets.update(found)
        return self._sockets.get(inode)

    def describe(self, fd: int) -> str:
        """A descriptor in words: ``tcp 10.0.0.1:80``, ``pipe``, ``eventfd``, ``/var/log/app.log``, ``fd 7`` when nothing is known."""
        link = self.link(fd)
        if not link:
            return f"fd {fd}"
        if link.startswith("socket:"):
            found = self.socket(fd)
            return found.describe() if found else "socket"
        if link.startswith("anon_inode:"):
            return link.partition(":")[2].strip("[]")
        return "pipe" if link.startswith("pipe:") else link

    def listening_ports(self) -> frozenset[int]:
        """TCP ports on which this process accepts (a prefork worker too: it inherited the descriptor)."""
        listening = (s.local_port for s in self.sockets().values() if s.state == "listen")
        return frozenset(port for port in listening if port is not None)

    def leads_to_itself(self, found: Socket) -> bool:
        """The peer is an address of this very host and a port that this process itself serves: a call to its own server."""
        if found.state == "listen" or found.peer_port is None:
            return False
        host, here = _host(found.peer), _host(found.local)
        return (host == here or _is_loopback(host)) and found.peer_port in self.listening_ports()


def read_tables(pid: int, inodes: set[int]) -> dict[int, Socket]:
    """The sockets with these inodes out of /proc/PID/net/{tcp,tcp6,udp,udp6,unix}, by inode."""
    found: dict[int, Socket] = {}
    for family in ("tcp", "tcp6", "udp", "udp6", "unix"):
        if len(found) == len(inodes):
            break
        text = files.read_text(f"/proc/{pid}/net/{family}") or ""
        parse = _unix_line if family == "unix" else _inet_line
        for line in text.splitlines()[1:]:
            entry = parse(family.rstrip("6"), line.split(), inodes)
            if entry is not None:
                found[entry.inode] = entry
    return found


def _inet_line(family: str, columns: list[str], inodes: set[int]) -> Socket | None:
    if len(columns) < 10 or not columns[9].isdigit() or int(columns[9]) not in inodes:
        return None
    sent, _, received = columns[4].partition(":")
    state = int(columns[3], 16)
    name = _TCP_STATES[state] if state < len(_TCP_STATES) else str(state)
    if family == "udp":
        name = "established" if state == 1 else "unconnected"
    local, peer = address(columns[1]), address(columns[2])
    return Socket(family, local, "" if peer.endswith(":0") else peer, name, int(columns[9]), int(received, 16), int(sent, 16))


def _unix_line(family: str, columns: list[str], inodes: set[int]) -> Socket | None:
    if len(columns) < 7 or not columns[6].isdigit() or int(columns[6]) not in inodes:
        return None
    listening = int(columns[3], 16) & _SO_ACCEPTCON
    state = "listen" if listening else _UNIX_STATES.get(columns[5], columns[5])
    return Socket(family, columns[7] if len(columns) > 7 else "", "", state, int(columns[6]))


def address(text: str) -> str:
    """``0100007F:1538`` as the kernel prints it -> ``127.0.0.1:5432``. The bytes of each 32-bit word are in host order."""
    host, _, port = text.partition(":")
    words = [bytes.fromhex(host[i : i + 8]) for i in range(0, len(host), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    return join_address(packed, int(port, 16))


def join_address(packed: bytes, port: int) -> str:
    """Four or sixteen bytes in network order and a port -> ``127.0.0.1:80`` or ``[::1]:80``; mapped v4 is shown as v4."""
    if packed.startswith(_V4_MAPPED):
        packed = packed[len(_V4_MAPPED) :]
    if len(packed) == 4:
        return f"{socket.inet_ntop(socket.AF_INET, packed)}:{port}"
    return f"[{socket.inet_ntop(socket.AF_INET6, packed)}]:{port}"


def _inode(link: str) -> int | None:
    if not link.startswith("socket:["):
        return None
    number = link[8:-1]
    return int(number) if number.isdigit() else None


def _port(address_text: str) -> int | None:
    _, colon, port = address_text.rpartition(":")
    return int(port) if colon and port.isdigit() else None


def _host(address_text: str) -> str:
    return address_text.rpartition(":")[0].strip("[]")


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host == "::1"


def pipe_peers(pid: int, relatives: list[int], fd: int) -> list[int]:
    """Those of ``relatives`` (pids) that have the other or the same end of this process' pipe ``fd`` open."""
    link = files.read_link(f"/proc/{pid}/fd/{fd}")
    if not link or not link.startswith("pipe:"):
        return []
    return [other for other in relatives if other != pid and _has_open(other, link)]


def _has_open(pid: int, link: str) -> bool:
    numbers = files.list_numbers(f"/proc/{pid}/fd")
    return any(files.read_link(f"/proc/{pid}/fd/{fd}") == link for fd in numbers[:MAX_DESCRIPTORS])


def access_mode(pid: int, fd: int) -> int | None:
    """``os.O_RDONLY``, ``os.O_WRONLY`` or ``os.O_RDWR`` of a descriptor, from /proc/PID/fdinfo."""
    flags = files.fields(files.read_text(f"/proc/{pid}/fdinfo/{fd}")).get("flags")
    return None if flags is None else int(flags, 8) & os.O_ACCMODE
