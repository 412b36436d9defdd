"""What a connection that makes no progress is called, and what its row means: pure, and with as little HTTP as will do."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hangwatch.kernel.rows import CLIENT, UPGRADED, ConnectionRow, Heads

#: States that are somebody's trouble. The others are healthy or the client's own fault.
PENDING, NOT_READING, HALF_ANSWERED, UPSTREAM = "request-pending", "client-not-reading", "answer-unfinished", "upstream-silent"
TROUBLE = frozenset((PENDING, NOT_READING, HALF_ANSWERED))


@dataclass(frozen=True, slots=True)
class ConnectionStall:
    """One connection past the limit. ``since_ns`` monotonic; ``request`` is ``GET /path`` where the first bytes may be told."""

    pid: int
    fd: int
    state: str
    since_ns: int
    at_ns: int
    local: str
    peer: str
    received: int
    sent: int
    tls: bool = False
    request: str = ""
    observer: str = "sock_diag"


#: One wait on one connection: pid, descriptor, peer, state, bytes received.
Key = tuple[int, int, str, str, int]


def key_of(stall: ConnectionStall) -> Key:
    # The two observers date one wait differently by a tick; the bytes that came are the same.
    return stall.pid, stall.fd, stall.peer, stall.state, stall.received


def classify(row: ConnectionRow, heads: Heads, now_ns: int, limit_ns: int) -> str:
    """One word for a connection's state. ``heads`` may be empty: then what needs HTTP to be told apart is not told.

    Server: ``websocket``, ``client-not-reading``, ``sending``, ``receiving``, ``request-incomplete``, ``request-pending``, ``event-stream``,
    ``answer-unfinished``, ``idle``. Client: ``upstream-silent``, ``idle``.
    """
    if row.role == CLIENT:
        return UPSTREAM if row.waits and now_ns - row.waits_since > limit_ns else "idle"
    if row.flags & UPGRADED:
        return "websocket"
    if row.unsent_since:
        return NOT_READING if now_ns - max(row.unsent_since, row.sent_at) > limit_ns else "sending"
    if row.waits:
        if now_ns - row.received_at <= limit_ns:
            return "receiving"
        return "request-incomplete" if _is_incomplete(row, heads.request) else PENDING
    if row.sent_at and heads.answer.startswith(b"HTTP/1."):
        if now_ns - row.sent_at > limit_ns and unanswered(row, heads):
            return PENDING
        return _of_answer(row, heads, now_ns, limit_ns)
    return "idle"


#: What no request is shorter than: ``GET / HTTP/1.1`` and its two ends of line.
SHORTEST_REQUEST = 18


def unanswered(row: ConnectionRow, heads: Heads) -> bytes:
    """The beginning of a second request that came with or right behind the first (pipelined), of which only the first was answered.

    Known only where both heads are short enough to be kept and say how long their bodies are: then there are bytes behind the first
    request, and none behind its answer. b"" where that is not so, or not known.
    """
    request, answer = heads.request, heads.answer
    ends, asked, said = request.find(b"\r\n\r\n"), _header(request, b"content-length"), _header(answer, b"content-length")
    if ends < 0 or _METHOD.match(request) is None or _header(request, b"transfer-encoding") is not None or (asked and not asked.isdigit()):
        return b""
    first = ends + 4 + int(asked or 0)
    if row.request_bytes < first + SHORTEST_REQUEST or _header(answer, b"connection") == b"close":
        return b""
    begins = answer.find(b"\r\n\r\n") + 4
    if answer[9:12] in (b"204", b"304") or request.startswith(b"HEAD "):
        said = b"0"
    if begins < 4 or said is None or not said.isdigit() or row.answer_bytes != begins + int(said):
        return b""
    # What came by a read of its own is not among the first bytes.
    return request[first:] if _METHOD.match(request[first:]) else b"?"


def _of_answer(row: ConnectionRow, heads: Heads, now_ns: int, limit_ns: int) -> str:
    answer = heads.answer
    end = answer.find(b"\r\n\r\n")
    if heads.request.startswith(b"HEAD ") or answer[9:12] in (b"204", b"304"):
        return "idle"
    if (_header(answer, b"content-type") or b"").startswith(b"text/event-stream"):
        return "event-stream"
    length = _header(answer, b"content-length")
    if length is not None and length.isdigit() and end >= 0:
        done = row.answer_bytes >= end + 4 + int(length)
    elif (_header(answer, b"transfer-encoding") or b"").endswith(b"chunked"):
        # Of an answer written in very many pieces the end is not known.
        last = heads.tail.rstrip(b"\0")
        done = not last or last.endswith(b"0\r\n\r\n")
    else:
        # The head is longer than what was kept, or the answer ends with the connection.
        return "idle"
    return "idle" if done or now_ns - row.sent_at <= limit_ns else HALF_ANSWERED


def _is_incomplete(row: ConnectionRow, request: bytes) -> bool:
    """The client announced more than it has sent: it is the client that is waited for."""
    end = request.find(b"\r\n\r\n")
    length = _header(request, b"content-length")
    if length is not None and length.isdigit() and end >= 0:
        return row.request_bytes < end + 4 + int(length)
    if (_header(request, b"transfer-encoding") or b"").endswith(b"chunked"):
        return False
    # Not even its head has come, if this is HTTP at all.
    return end < 0 and row.request_bytes < len(request) and _METHOD.match(request) is not None


_METHOD = re.compile(rb"(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) ")


def _header(head: bytes, name: bytes) -> bytes | None:
    found = re.search(rb"\r\n" + re.escape(name) + rb":[ \t]*([^\r\n\0]*)\r\n", head, re.IGNORECASE)
    return found[1].strip().lower() if found else None


def request_line(head: bytes) -> str:
    """``GET /path`` without its query string and with what a terminal may obey made visible; "" for what is no HTTP."""
    match = re.match(rb"([A-Z]{3,7}) (/[^ ?#\r\n\0]{0,200})", head)
    return ascii(match[0].decode("latin-1"))[1:-1] if match else ""
