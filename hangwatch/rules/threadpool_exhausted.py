"""All threads (or tokens for threads) are taken by work that does not end; what needs one waits in the queue."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Finding, Primitive
from hangwatch.rules.base import Case
from hangwatch.rules.frames import pick, waits_in, where
from hangwatch.rules.never_set import submitted
from hangwatch.rules.words import because, primitive_name, state_sentence, waiter_name, waiters_name, waits_sentence


def check(case: Case) -> Iterator[Finding]:
    for primitive, _ in case.waiting_on("limiter", "executor", "job"):
        waiters = case.impatient(primitive)
        holders = case.graph.live_holders(primitive.id)
        if not waiters or primitive.ready is True or set(waiters) <= case.graph.deadlocked():
            continue
        if primitive.kind == "job" and not _is_queued(case, primitive, holders):
            continue
        if primitive.capacity is not None and primitive.in_use is not None and primitive.in_use < primitive.capacity:
            continue
        yield _finding(case, primitive, waiters, holders)


def _is_queued(case: Case, primitive: Primitive, holders: tuple[str, ...]) -> bool:
    """The job has not begun: what it waits for is every thread of its pool, not the one that runs it."""
    return primitive.state.get("queued") is True and bool(holders)


def _finding(case: Case, primitive: Primitive, waiters: tuple[str, ...], holders: tuple[str, ...]) -> Finding:
    graph = case.graph
    served = [s for h in holders if h in graph.threads and (s := graph.threads[h].serves)]
    moved = [h for h in holders if case.stands_still(h) is False]
    doing = [f"{waiter_name(graph, h)}: {primitive_name(graph.primitives.get(p), p)}" for h in holders[:4] for p in graph.waits_of(h)[:1]]
    count = f"all {primitive.capacity}" if primitive.capacity is not None else f"all {len(holders)}" if holders else "all"
    return Finding(
        cause="threadpool-exhausted",
        title=f"{waiters_name(graph, waiters)} {'wait' if len(waiters) > 1 else 'waits'} for a thread: {count} of {primitive_name(primitive)} are taken by {waiters_name(graph, [*served, *holders])}",
        because=because(
            state_sentence(primitive),
            [f"Thread taken by {words}." for words in doing],
            [waits_sentence(case, w, primitive) + "." for w in waiters[:3]],
            f"{len(moved)} of the threads moved between the two looks." if moved else "",
        ),
        culprit=pick(
            where(graph, holders[:3]),
            where(graph, served[:3]),
            [submitted(primitive)],
            where(graph, waiters[:3]),
            waits_in(graph, waiters[:1]),
        ),
        subjects=(*waiters[:20], primitive.id, *holders[:40]),
        confidence="suspected" if moved or not holders else "likely",
        advice="Work that waits long does not belong into the shared pool: await it, or give it a pool of its own, so that short jobs find a thread.",
        frees=graph.frees(primitive.id),
    )
