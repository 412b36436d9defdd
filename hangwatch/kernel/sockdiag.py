"""TCP connections as the kernel's diagnosis interface tells them (sock_diag(7), struct tcp_info): no eBPF, no privilege.

It says of every connection when data last came and last went, in milliseconds but counted in the kernel's ticks (1 to 10 ms), and how
much was acknowledged. That is enough to see a request without an answer; what happened within one tick cannot be told apart.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from hangwatch.kernel.sockets import join_address

ESTABLISHED, CLOSE_WAIT = 1, 8

_NETLINK_SOCK_DIAG = 4
_TCPDIAG_GETSOCK = 18
_SOCK_DIAG_BY_FAMILY = 20
_SHOW_PEER, _UNIX_PEER = 4, 2
_ERROR, _DONE = 2, 3
_INFO, _BYTECODE = 2, 1
_PORT_AT_LEAST, _PORT_AT_MOST = 2, 3
#: A question's attribute has 64 kB at most; this is a quarter of it, and more ports than most machines' services open.
MAX_PORTS = 1024
_CLONE_NEWNET = 0x40000000
_RECEIVE_BYTES = 1 << 18
_numbers = itertools.count(1)
#: struct inet_diag_msg from idiag_family to idiag_inode, and the members of struct tcp_info that are used.
_MESSAGE = struct.Struct("<BBBBHH16s16sIIIIIIII")
_UNACKED = struct.Struct("<60xI")
_TIMES = struct.Struct("<44xI4xI")
_BYTES = struct.Struct("<120xQQ")
_SENT = struct.Struct("<200xQ")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One TCP connection. ``unread`` bytes wait for the process, ``unacked`` for the peer; ``sent_ago_ms`` is the connection's age
    when nothing was ever sent. ``sent`` counts bytes with repetitions, None before Linux 4.19."""

    inode: int
    local: str
    peer: str
    local_port: int
    state: int
    unread: int
    unacked: int
    sent_ago_ms: int
    received_ago_ms: int
    acked: int
    received: int
    sent: int | None

    @property
    def waits(self) -> bool:
        """Bytes came after the last that went."""
        if not self.received:
            return False
        return self.received_ago_ms < self.sent_ago_ms or self.sent == 0


def open_socket(pid: int | None = None) -> socket.socket:
    """A socket to ask with, in the network namespace of process ``pid``. Raises OSError (another namespace needs CAP_SYS_ADMIN)."""
    if pid is None or _namespace(pid) == _namespace(os.getpid()):
        return _open()
    found: list[socket.socket | OSError] = []

    # A thread of its own moves over there; a socket stays in the namespace it was made in.
    thread = threading.Thread(target=lambda: found.append(_open_there(pid)), name="hangwatch-netns", daemon=True)
    thread.start()
    thread.join(5.0)
    answer = found[0] if found else OSError("no answer")
    if isinstance(answer, OSError):
        raise answer
    return answer


def _open() -> socket.socket:
    asking = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    asking.settimeout(2.0)
    return asking


def _open_there(pid: int) -> socket.socket | OSError:
    import ctypes

    try:
        handle = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(handle, _CLONE_NEWNET):
                number = ctypes.get_errno()
                return OSError(number, os.strerror(number))
            return _open()
        finally:
            os.close(handle)
    except OSError as error:
        return error


def namespace(pid: int) -> int:
    """The network namespace of a process, by its number; 0 when that cannot be read."""
    return _namespace(pid)


def _namespace(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return 0


def connections(asking: socket.socket, local_ports: Collection[int] | None = None, quiet_ms: int = 0) -> Iterator[Diagnosis]:
    """The established connections of the namespace, IPv4 and IPv6, of some local ports when those are given. Raises OSError.

    With ``quiet_ms`` only those on which something is open that long: data came and none went after it, or is not acknowledged.
    However many ports: the kernel goes through its whole table of connections once, which is what a question costs (2 ms for
    262,144 chains, on the machine of README's table, whoever is connected).
    """
    ports = sorted(set(local_ports or ()))
    wanted = [b""] if local_ports is None else [_only(ports[at : at + MAX_PORTS]) for at in range(0, len(ports), MAX_PORTS)]
    for program in wanted:
        for messages in _dump(asking, program):
            yield from _parse(messages, quiet_ms)


def _dump(asking: socket.socket, program: bytes) -> Iterator[bytes]:
    """The older of the kernel's two questions (struct inet_diag_req): it has no address family, where the newer goes through the table
    for each. The answers are the same."""
    states = 1 << ESTABLISHED | 1 << CLOSE_WAIT
    body = struct.pack("<BBBB48xII", 0, 0, 0, 1 << (_INFO - 1), states, 0) + program
    number = next(_numbers) & 0xFFFFFFFF
    asking.send(struct.pack("<IHHII", 16 + len(body), _TCPDIAG_GETSOCK, 0x301, number, 0) + body)
    while True:
        data = asking.recv(_RECEIVE_BYTES)
        kind, sequence = struct.unpack_from("<H2xI", data, 4)
        if sequence != number:
            continue  # what is left of a question that was given up
        if kind == _ERROR:
            raise OSError(-struct.unpack_from("<i", data, 16)[0], "sock_diag")
        yield data
        if _ends(data):
            return


def unix_peer(asking: socket.socket, inode: int) -> int | None:
    """The inode at the other end of a connected Unix socket; None where the kernel does not tell (no unix_diag, gone meanwhile)."""
    number = next(_numbers) & 0xFFFFFFFF
    body = struct.pack("<BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, inode, _SHOW_PEER, 0xFFFFFFFF, 0xFFFFFFFF)
    try:
        asking.send(struct.pack("<IHHII", 16 + len(body), _SOCK_DIAG_BY_FAMILY, 1, number, 0) + body)
        while True:
            data = asking.recv(_RECEIVE_BYTES)
            length, kind, sequence = struct.unpack_from("<IH2xI", data)
            if sequence == number:
                break
        # struct unix_diag_msg has 16 bytes.
        at = _attribute(data, 32, length, _UNIX_PEER) if kind == _SOCK_DIAG_BY_FAMILY else None
        return int(struct.unpack_from("<I", data, at)[0]) if at is not None else None
    except (OSError, struct.error):
        return None


def _only(ports: list[int]) -> bytes:
    """A program for the kernel's filter (struct inet_diag_bc_op) that takes these local ports, which ascend. Two tests a port: below it, rejected
    (a jump beyond the end); not above it, taken (a jump to the end); else on to the next. What all tests passed must end well, so that the
    last one is turned round. A jump of what passed is one byte long, of what failed two: hence these tests and no others."""
    left, code = 16 * len(ports), b""
    for port in ports:
        below = struct.pack("<BBHBBH", _PORT_AT_LEAST, 8, left + 4, 0, 0, port)
        within = (_PORT_AT_MOST, 8, 12, 0, 0, port) if left == 16 else (_PORT_AT_LEAST, 8, left - 8, 0, 0, port + 1)
        code += below + struct.pack("<BBHBBH", *within)
        left -= 16
    return struct.pack("<HH", 4 + len(code), _BYTECODE) + code


def _ends(data: bytes) -> bool:
    at = kind = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("<IH", data, at)
        if kind == _DONE or length < 16:
            return True
        at += length + 3 & ~3
    return False


def _parse(data: bytes, quiet_ms: int) -> Iterator[Diagnosis]:
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("<IH", data, at)
        if kind in (_DONE, _ERROR) or length < 16 + _MESSAGE.size:
            return
        info = _attribute(data, at + 16 + _MESSAGE.size, at + length)
        if info is not None and (not quiet_ms or _is_open(data, at + 16, info, quiet_ms)):
            with contextlib.suppress(struct.error):
                yield _diagnosis(data, at + 16, info)
        at += length + 3 & ~3


def _is_open(data: bytes, at: int, info: int, quiet_ms: int) -> bool:
    """Cheap, for nearly all connections of a busy service end here."""
    sent_ago, received_ago = _TIMES.unpack_from(data, info)
    if _UNACKED.unpack_from(data, at)[0]:
        return bool(sent_ago >= quiet_ms)
    if received_ago < quiet_ms:
        return False
    return bool(_BYTES.unpack_from(data, info)[1] and (received_ago < sent_ago or _SENT.unpack_from(data, info)[0] == 0))


def _attribute(data: bytes, at: int, end: int, wanted: int = _INFO) -> int | None:
    """Where its value begins; of ``_INFO`` that is struct tcp_info."""
    while at + 4 <= end:
        length, kind = struct.unpack_from("<HH", data, at)
        if kind == wanted:
            return at + 4
        if length < 4:
            return None
        at += length + 3 & ~3
    return None


def _diagnosis(data: bytes, at: int, info: int) -> Diagnosis:
    family, state, _, _, _, _, source, target, _, _, _, _, unread, unacked, _, inode = _MESSAGE.unpack_from(data, at)
    size = 4 if family == socket.AF_INET else 16
    source_port, target_port = struct.unpack_from(">HH", data, at + 4)
    sent_ago, received_ago = _TIMES.unpack_from(data, info)
    acked, received = _BYTES.unpack_from(data, info)
    length = struct.unpack_from("<H", data, info - 4)[0] - 4
    return Diagnosis(
        inode,
        join_address(source[:size], source_port),
        join_address(target[:size], target_port),
        source_port,
        state,
        unread,
        unacked,
        sent_ago,
        received_ago,
        acked,
        received,
        _SENT.unpack_from(data, info)[0] if length >= 208 else None,
    )
