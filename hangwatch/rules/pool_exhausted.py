"""All of a pool is out: some of it is kept by nobody alive (a leak), or by holders who do not give it back."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Finding, Primitive
from hangwatch.rules.base import Case
from hangwatch.rules.frames import pick, taken_at, waits_in, where
from hangwatch.rules.lock_leaked import last_act
from hangwatch.rules.words import because, path_sentence, primitive_name, state_sentence, waiter_name, waiters_name, waits_sentence


def check(case: Case) -> Iterator[Finding]:
    for primitive, waiters in case.waiting_on("pool"):
        if primitive.ready is True or set(waiters) <= case.graph.deadlocked():
            continue
        live = case.graph.live_holders(primitive.id)
        used = primitive.in_use if primitive.in_use is not None else primitive.capacity
        if used is None or _with_the_living(primitive, live) < used:
            yield _leak(case, primitive, waiters, live, used)
        elif case.impatient(primitive):
            yield _busy(case, primitive, case.impatient(primitive), live)


def _with_the_living(primitive: Primitive, live: tuple[str, ...]) -> int:
    """How much of what is out somebody alive has; one of them may have several."""
    found = primitive.state.get("out with the living")
    return max(len(live), found) if isinstance(found, int) else len(live)


def _leak(case: Case, primitive: Primitive, waiters: tuple[str, ...], live: tuple[str, ...], used: int | None) -> Finding:
    graph = case.graph
    name = primitive_name(primitive)
    lost = f"{used - _with_the_living(primitive, live)} of {used}" if used is not None else "some"
    taken = last_act(case, primitive.id, "acquire")
    return Finding(
        cause="pool-exhausted",
        title=f"{waiters_name(graph, waiters)} {'wait' if len(waiters) > 1 else 'waits'} for {name}: {lost} of what is out is kept by nobody alive",
        because=because(
            state_sentence(primitive),
            f"{len(live)} live holders were found ({', '.join(waiter_name(graph, h) for h in live[:4])})."
            if live
            else "No task or thread alive holds any of it.",
            [waits_sentence(case, w, primitive) + "." for w in waiters[:3]],
        ),
        culprit=pick(
            [taken.frame if taken else None],
            where(graph, waiters),
            waits_in(graph, waiters[:2]),
            where(graph, live),
            where(graph, waiters, depth=3),
        ),
        subjects=(*waiters[:20], primitive.id, *live),
        confidence="likely" if _is_sure(case, primitive, live, used) else "suspected",
        advice="Something took it and ended without giving it back (an error, a cancellation, a response that was not closed): take it with `async with`, close what was opened in `finally`.",
        frees=graph.frees(primitive.id),
    )


def _is_sure(case: Case, primitive: Primitive, live: tuple[str, ...], used: int | None) -> bool:
    """What a task has that runs at this moment is not seen: as many as are missing may be with those."""
    running = sum(task.state == "running" for task in case.snapshot.tasks)
    return used is not None and used - _with_the_living(primitive, live) > running and _stands(case, primitive)


def _stands(case: Case, primitive: Primitive) -> bool:
    """As many were out a moment before."""
    before = case.before(primitive.id)
    return before is None or before.in_use == primitive.in_use


def _busy(case: Case, primitive: Primitive, waiters: tuple[str, ...], live: tuple[str, ...]) -> Finding:
    graph = case.graph
    stuck = [h for h in live if graph.waits_of(h)]
    moved = any(case.stands_still(h) is False for h in live) or not _stands(case, primitive)
    paths = [graph.final(h) for h in stuck[:4]]
    return Finding(
        cause="pool-exhausted",
        title=f"{waiters_name(graph, waiters)} {'wait' if len(waiters) > 1 else 'waits'} for {primitive_name(primitive)}: all of it is out with {waiters_name(graph, live)}",
        because=because(
            state_sentence(primitive),
            [f"A holder: {path_sentence(graph, path)}." for path in paths],
            [waits_sentence(case, w, primitive) + "." for w in waiters[:3]],
            "Holders moved between the two looks." if moved else "",
        ),
        culprit=pick(where(graph, live[:3]), where(graph, waiters[:3]), taken_at(graph, live, primitive.id), waits_in(graph, waiters[:2])),
        subjects=(*waiters[:20], primitive.id, *live[:20]),
        confidence="suspected" if moved or not stuck else "likely",
        advice="Look at what the holders wait for; keep a connection only for as long as it is used, and give acquire a time limit.",
        frees=graph.frees(primitive.id),
    )
