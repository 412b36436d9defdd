"""The client does not read what we send, or does not send what it announced, and we keep something for it all the while."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Connection, Finding, Primitive
from hangwatch.rules.base import Case
from hangwatch.rules.frames import pick, taken_at, waits_in, where
from hangwatch.rules.words import because, primitive_name, state_sentence, waiters_name, waits_sentence


def check(case: Case) -> Iterator[Finding]:
    for primitive, _ in case.waiting_on("client", "body"):
        waiters = case.impatient(primitive)
        if not waiters or primitive.ready is True or primitive.state.get("unparsed_bytes"):
            continue
        if case.stands_still(waiters[0]) is False:
            continue
        yield _finding(case, primitive, waiters)


def _connection(case: Case, waiters: tuple[str, ...]) -> Connection | None:
    request = case.graph.request_of(waiters[0])
    return next((c for c in case.snapshot.connections if request is not None and c.id == request.connection_id), None)


def _moved(case: Case, connection: Connection | None) -> bool:
    old = next((c for c in case.earlier.connections if connection and c.id == connection.id), None) if case.earlier else None
    return connection is not None and old is not None and old.unsent_bytes != connection.unsent_bytes


def _finding(case: Case, primitive: Primitive, waiters: tuple[str, ...]) -> Finding:
    graph = case.graph
    connection = _connection(case, waiters)
    reads = primitive.kind == "client"
    client = f"client {connection.client}" if connection and connection.client else "the client"
    held = [p for w in waiters for p in graph.held_by(w) if graph.waiters(p)]
    others = len(graph.behind(*held)) if held else 0
    behind = (
        f"; {others} more wait for what it keeps ({', '.join(primitive_name(graph.primitives.get(p), p) for p in held[:2])})"
        if others
        else ""
    )
    return Finding(
        cause="slow-client",
        title=f"{waiters_name(graph, waiters)} waits for {client} to {'read what was sent' if reads else 'send the rest of its request body'}{behind}",
        because=because(
            [waits_sentence(case, w, primitive) + "." for w in waiters[:3]],
            f"{connection.unsent_bytes} bytes wait in the send buffer." if connection and connection.unsent_bytes else "",
            "Sending on this connection is paused by flow control." if connection and connection.write_paused else "",
            state_sentence(primitive),
        ),
        culprit=pick(
            *[taken_at(graph, waiters, p) for p in held],
            where(graph, waiters),
            waits_in(graph, waiters[:2]),
            where(graph, waiters, depth=2),
        ),
        subjects=(*waiters[:20], primitive.id, *([connection.id] if connection else [])),
        confidence="suspected" if _moved(case, connection) else "likely",
        advice="Do not keep a connection, lock or slot while sending to a client; give sending a time limit, or collect the answer before it is sent."
        if reads
        else "Give the reading of request bodies a time limit; a client that waits for '100 Continue' sends nothing before it has that.",
        frees=len(graph.behind(primitive.id, *waiters)),
    )
