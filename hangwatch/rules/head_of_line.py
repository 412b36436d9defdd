"""The deadlock that no lock shows: a request waits for what only the next request of its own connection could bring.

A server begins a connection's next request when the current one has ended. A current one that waits for something which nobody alive can
bring, while another request is parsed and parked behind it, holds back the only candidate.
"""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Finding, Primitive, Request
from hangwatch.rules.base import Case
from hangwatch.rules.frames import pick, waits_in, where
from hangwatch.rules.words import because, primitive_name, waits_sentence

_KINDS = ("event", "condition", "future", "other", "queue-get", "queue-join", "stream")


def check(case: Case) -> Iterator[Finding]:
    for connection in case.snapshot.connections:
        parked = [r for r in case.snapshot.requests if r.connection_id == connection.id and r.phase == "queued"]
        if not parked and not connection.queued:
            continue
        for request in case.snapshot.requests:
            if request.connection_id == connection.id and request.phase != "queued" and request.task_id:
                yield from _behind(case, request, parked)


def _behind(case: Case, request: Request, parked: list[Request]) -> Iterator[Finding]:
    tasks = [t.id for t in case.snapshot.tasks if case.graph.request_of(t.id) is request]
    for task_id in tasks:
        for primitive_id in case.graph.waits_of(task_id):
            primitive = case.graph.primitives.get(primitive_id)
            if primitive is not None and primitive.kind in _KINDS and _nobody_left(case, primitive, task_id):
                yield _finding(case, request, parked, task_id, primitive)


def _nobody_left(case: Case, primitive: Primitive, task_id: str) -> bool:
    return (
        primitive.ready is not True
        and not case.setters(primitive)
        and not case.graph.holders(primitive.id)
        and not case.is_patient(primitive, task_id)
        and case.stands_still(task_id) is not False
    )


def _finding(case: Case, request: Request, parked: list[Request], task_id: str, primitive: Primitive) -> Finding:
    graph = case.graph
    current = f"{request.method} {request.route}"
    queued = f"{parked[0].method} {parked[0].route}" if parked else "the next request"
    return Finding(
        cause="deadlock",
        title=f"{current} waits for {primitive_name(primitive)}, and {queued} of the same connection, which may have to end that wait, is not begun before {current} has ended",
        because=because(
            waits_sentence(case, task_id, primitive) + ".",
            f"No live task that could end this wait was found, other than requests that have not begun ({queued}).",
            f"{current} is in phase '{request.phase}': its connection serves nothing else until it ends.",
        ),
        culprit=pick(where(graph, [task_id], depth=2), waits_in(graph, [task_id, request.task_id or task_id])),
        subjects=(task_id, primitive.id, request.id, *(r.id for r in parked)),
        confidence="likely" if case.setters(primitive) == () else "suspected",
        advice="Let the response end before such a follow-up runs (a task of its own, outside the response), or let the other message come on another connection.",
        frees=1 + len(parked) + len(graph.behind(primitive.id)),
    )
