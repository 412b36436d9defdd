"""A pending task was collected: asyncio keeps only weak references, nobody else kept one, and what it was to do is not done."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Act, Finding, Frame, Primitive
from hangwatch.rules.base import Case
from hangwatch.rules.frames import pick, waits_in, where
from hangwatch.rules.words import because, place_of, primitive_name, seconds, waiters_name, waits_sentence

_KINDS = ("event", "future", "condition", "queue-get", "queue-join", "other", "stream", "semaphore", "lock")
#: What the ring and the log call it.
LOST = "lost"
_LOGGED = "was destroyed but it is pending"


def check(case: Case) -> Iterator[Finding]:
    lost = [act for act in case.snapshot.history if act.op == LOST]
    logged = [e.text for e in case.evidence if _LOGGED in e.text]
    if not lost and not logged:
        return
    for primitive, _ in case.waiting_on(*_KINDS):
        waiters = case.impatient(primitive)
        if waiters and primitive.ready is not True and not case.setters(primitive) and not case.graph.live_holders(primitive.id):
            yield _finding(case, primitive, waiters, lost)


def _finding(case: Case, primitive: Primitive, waiters: tuple[str, ...], lost: list[Act]) -> Finding:
    graph = case.graph
    made: list[Frame | None] = [act.frame for act in lost[-3:]]
    return Finding(
        cause="task-lost",
        title=f"{waiters_name(graph, waiters)} {'wait' if len(waiters) > 1 else 'waits'} for {primitive_name(primitive)}; a task that was still pending has been garbage-collected, and with it whoever was to end that wait",
        because=because(
            [waits_sentence(case, w, primitive) + "." for w in waiters[:3]],
            [
                f"{seconds(max(0, case.snapshot.at_ns - act.at_ns))} before, {act.primitive_id} was destroyed while pending{place_of(act.frame)}."
                for act in lost[-3:]
            ],
            "" if lost else "The log says that a task was destroyed while it was pending.",
            "No live task refers to what is waited for." if case.setters(primitive) == () else "",
        ),
        culprit=pick(made[:2], where(graph, waiters), waits_in(graph, waiters[:1]), where(graph, waiters, depth=2)),
        subjects=(*waiters[:20], primitive.id, *(act.primitive_id for act in lost[-3:])),
        confidence="likely" if case.setters(primitive) == () else "suspected",
        advice="Keep a strong reference to every task until it is done (a set, with add_done_callback(set.discard), or a TaskGroup).",
        frees=graph.frees(primitive.id),
    )
