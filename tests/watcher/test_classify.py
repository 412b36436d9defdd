"""What a connection's state means, on rows made by hand."""

from __future__ import annotations

import pytest

from hangwatch.kernel.rows import CLIENT, SERVER, TLS, UPGRADED, WAITS, ConnectionRow, Heads
from hangwatch.watcher.states import classify, request_line, unanswered

S = 1_000_000_000
NOW, LIMIT = 1000 * S, 10 * S
GET = b"GET /items?token=secret HTTP/1.1\r\nHost: x\r\n\r\n"


def row(role=SERVER, flags=0, waits=0, received=0, sent=0, unsent=0, request_bytes=0, answer_bytes=0):
    """Times are seconds ago, 0 for never."""
    at = [NOW - seconds * S if seconds else 0 for seconds in (waits, received, sent, unsent)]
    return ConnectionRow(1, 5, 2, role, flags, 3, 1, *at, 100, 100, request_bytes, answer_bytes, 1)


def answer(head, tail=b""):
    return Heads(GET, b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n", tail)


def post(length):
    return Heads(b"POST /upload HTTP/1.1\r\nContent-Length: " + str(length).encode() + b"\r\n\r\n")


ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
ANSWERED = len(ANSWER) + 5
TWO = Heads((GET + b"GET /second HTTP/1.1\r\n").ljust(128, b"\0")[:128], ANSWER)
# The head of such an upload.
HEAD = len(post(1000).request)

CASES = {
    "a request, and nothing for longer than the limit": (row(flags=WAITS, waits=11, received=11), Heads(GET), "request-pending"),
    "the same without its first bytes": (row(flags=WAITS, waits=11, received=11), Heads(), "request-pending"),
    "the same under TLS": (row(flags=WAITS | TLS, waits=11, received=11), Heads(b"\x17\x03\x03"), "request-pending"),
    "a request within the limit": (row(flags=WAITS, waits=9, received=9), Heads(GET), "receiving"),
    "an upload that still moves": (row(flags=WAITS, waits=60, received=2, request_bytes=HEAD + 10), post(1000), "receiving"),
    "an upload whose client stopped": (row(flags=WAITS, waits=60, received=50, request_bytes=HEAD + 10), post(1000), "request-incomplete"),
    "an upload that is complete": (row(flags=WAITS, waits=60, received=50, request_bytes=HEAD + 1000), post(1000), "request-pending"),
    "half a request line": (
        row(flags=WAITS, waits=60, received=50, request_bytes=9),
        Heads(b"GET /items".ljust(128, b"\0")),
        "request-incomplete",
    ),
    "bytes of another protocol": (
        row(flags=WAITS, waits=60, received=50, request_bytes=9),
        Heads(b"\x00\x01".ljust(128, b"\0")),
        "request-pending",
    ),
    "keep-alive": (row(received=60, sent=60, answer_bytes=43), answer(b"content-length: 5", b"hello"), "idle"),
    "answered to the last byte": (row(received=60, sent=60, answer_bytes=43), answer(b"content-length: 5"), "idle"),
    "the answer's body is missing": (row(received=60, sent=60, answer_bytes=30), answer(b"content-length: 5"), "answer-unfinished"),
    "that, but only just": (row(received=60, sent=6, answer_bytes=30), answer(b"content-length: 5"), "idle"),
    "chunks that ended": (row(received=60, sent=60), answer(b"transfer-encoding: chunked", b"\r\n0\r\n\r\n"), "idle"),
    "chunks that stopped": (row(received=60, sent=60), answer(b"Transfer-Encoding: chunked", b"chunk\r\n"), "answer-unfinished"),
    "chunks that ended with a write of their own": (
        row(received=60, sent=60),
        answer(b"transfer-encoding: chunked", b"0\r\n\r\n\0\0\0"),
        "idle",
    ),
    "chunks in more pieces than are looked at": (
        row(received=60, sent=60),
        answer(b"transfer-encoding: chunked", bytes(8)),
        "idle",
    ),
    "an event stream": (row(received=60, sent=60), answer(b"content-type: text/event-stream", b"\n\n"), "event-stream"),
    "an answer of unknown length": (row(received=60, sent=60), answer(b"connection: close"), "idle"),
    "HEAD": (row(received=60, sent=60), Heads(b"HEAD / HTTP/1.1", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"), "idle"),
    "not modified": (row(received=60, sent=60), Heads(GET, b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"), "idle"),
    "a websocket whose client talks": (row(flags=WAITS | UPGRADED, waits=60, received=60), Heads(), "websocket"),
    "connected and silent": (row(), Heads(), "idle"),
    "a client that does not read": (row(sent=60, unsent=60), Heads(), "client-not-reading"),
    "a client that reads slowly": (row(sent=3, unsent=60), Heads(), "sending"),
    "pipelined, only the first answered": (
        row(received=60, sent=60, request_bytes=200, answer_bytes=ANSWERED),
        TWO,
        "request-pending",
    ),
    "pipelined, both answered": (
        row(received=60, sent=60, request_bytes=200, answer_bytes=2 * ANSWERED),
        TWO,
        "idle",
    ),
    "pipelined, but the first has some time left": (
        row(received=60, sent=6, request_bytes=200, answer_bytes=ANSWERED),
        TWO,
        "idle",
    ),
    "pipelined, read apart": (
        row(received=60, sent=60, request_bytes=200, answer_bytes=ANSWERED),
        Heads(GET.ljust(128, b"\0"), ANSWER),
        "request-pending",
    ),
    "an end of line behind a request": (
        row(received=60, sent=60, request_bytes=len(GET) + 2, answer_bytes=ANSWERED),
        Heads((GET + b"\r\n").ljust(128, b"\0"), ANSWER),
        "idle",
    ),
    "pipelined, of unknown length": (
        row(received=60, sent=60, request_bytes=200, answer_bytes=ANSWERED),
        Heads(b"GET /a HTTP/1.1\r\nHost: a".ljust(128, b"x"), ANSWER),
        "idle",
    ),
    "pipelined, and the server closes": (
        row(received=60, sent=60, request_bytes=200, answer_bytes=ANSWERED + 19),
        Heads(TWO.request, ANSWER.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")),
        "idle",
    ),
    "an upstream that is silent": (row(CLIENT, WAITS, waits=11, sent=11), Heads(), "upstream-silent"),
    "an upstream that has some time left": (row(CLIENT, WAITS, waits=9, sent=9), Heads(), "idle"),
    "a pooled upstream": (row(CLIENT, received=60, sent=61), Heads(), "idle"),
}


@pytest.mark.parametrize("name", CASES)
def test_states(name):
    found, heads, state = CASES[name]
    assert classify(found, heads, NOW, LIMIT) == state


@pytest.mark.parametrize(
    "head, line",
    [
        (GET, "GET /items"),
        (b"POST /a\x1b[31m\x07 HTTP/1.1", "POST /a\\x1b[31m\\x07"),
        (b"GET /\xff\xe2\x80\xae HTTP/1.1", "GET /\\xff\\xe2\\x80\\xae"),
        (b"GET /" + b"a" * 300, "GET /" + "a" * 200),
        (b"\x16\x03\x01", ""),
        (b"", ""),
    ],
)
def test_a_request_line_carries_no_secret_and_nothing_a_terminal_obeys(head, line):
    assert request_line(head) == line


def test_a_pipelined_request_is_named_where_it_is_among_the_first_bytes():
    one = row(received=60, sent=60, request_bytes=200, answer_bytes=ANSWERED)
    assert request_line(unanswered(one, TWO)) == "GET /second"
    assert request_line(unanswered(one, Heads(GET.ljust(128, b"\0"), ANSWER))) == ""
