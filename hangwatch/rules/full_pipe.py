"""The deadlock between a process and its child: we wait for its end, it waits until somebody reads what it writes."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Finding, Primitive
from hangwatch.rules.base import Case
from hangwatch.rules.frames import pick, waits_in, where
from hangwatch.rules.words import because, primitive_name, waiters_name, waits_sentence

_PIPES = ("stdout", "stderr")


def check(case: Case) -> Iterator[Finding]:
    for primitive, _ in case.waiting_on("process"):
        full = [name for name in _PIPES if primitive.state.get(f"{name} unread") is not None]
        waiters = case.impatient(primitive)
        if full and waiters and primitive.ready is not True and case.stands_still(waiters[0]) is not False:
            yield _finding(case, primitive, waiters, full)


def _finding(case: Case, primitive: Primitive, waiters: tuple[str, ...], full: list[str]) -> Finding:
    graph = case.graph
    name, pipes = primitive_name(primitive), " and ".join(full)
    return Finding(
        cause="deadlock",
        title=f"{waiters_name(graph, waiters)} waits for {name} to end, and it cannot: nobody reads its {pipes}, which is full",
        because=because(
            [waits_sentence(case, w, primitive) + "." for w in waiters[:3]],
            [f"{primitive.state[f'{pipe} unread']} bytes of its {pipe} lie unread here, and reading on is paused." for pipe in full],
            "A child that writes to a full pipe sleeps until somebody reads.",
        ),
        culprit=pick(where(graph, waiters, depth=2), waits_in(graph, waiters[:2])),
        subjects=(*waiters[:20], primitive.id),
        confidence="likely",
        advice="Use communicate(), or read the pipes in a task of their own while waiting; what nobody wants goes to DEVNULL.",
        frees=graph.frees(primitive.id),
    )
