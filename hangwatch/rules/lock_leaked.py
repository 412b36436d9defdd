"""A lock stays locked though nobody alive holds it: its taker ended, was cancelled, or stayed behind in another process."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Act, Finding, Primitive
from hangwatch.rules.base import Case
from hangwatch.rules.frames import pick, waits_in, where
from hangwatch.rules.words import because, place_of, primitive_name, state_sentence, waiters_name, waits_sentence

_KINDS = ("lock", "thread-lock", "semaphore", "import-lock")


def check(case: Case) -> Iterator[Finding]:
    for primitive, _ in case.waiting_on(*_KINDS):
        waiters = case.impatient(primitive)
        live = case.graph.live_holders(primitive.id)
        if not waiters or primitive.ready is True:
            continue
        if live and (primitive.in_use is None or len(live) >= primitive.in_use):
            continue
        yield _finding(case, primitive, waiters, live)


def last_act(case: Case, primitive_id: str, *ops: str) -> Act | None:
    """The youngest entry of the ring for this primitive, among these operations."""
    acts = [act for act in case.snapshot.history if act.primitive_id == primitive_id and act.op in ops]
    return max(acts, key=lambda act: act.at_ns, default=None)


def _is_gone(case: Case, act: Act) -> bool:
    """Who did this lives no more. A loop's thread without a task: the task's memory is gone already."""
    if act.task_id is None:
        return any(loop.thread_id == act.thread_id for loop in case.snapshot.loops)
    return act.task_id not in case.graph.tasks


def _finding(case: Case, primitive: Primitive, waiters: tuple[str, ...], live: tuple[str, ...]) -> Finding:
    graph = case.graph
    name = primitive_name(primitive)
    taken = last_act(case, primitive.id, "acquire")
    gone = taken is not None and _is_gone(case, taken)
    lost = f"{(primitive.in_use or 0) - len(live)} of {primitive.in_use} permits" if live else name
    return Finding(
        cause="lock-leaked",
        title=f"{waiters_name(graph, waiters)} {'wait' if len(waiters) > 1 else 'waits'} for {name}, which stays taken though nobody alive holds it",
        because=because(
            state_sentence(primitive),
            f"No live task or thread holds {lost}.",
            f"It was last acquired{place_of(taken.frame)} by {taken.task_id or 'a task'}, which has ended." if gone and taken else "",
            [waits_sentence(case, w, primitive) + "." for w in waiters[:4]],
        ),
        culprit=pick([taken.frame if taken else None], where(graph, waiters), where(graph, waiters, depth=2), waits_in(graph, waiters[:3])),
        subjects=(*waiters[:20], primitive.id),
        confidence=_confidence(case, primitive, gone),
        advice="Take it with `async with` (or `with`), so that every way out gives it back; look at what runs between acquire() and release() for what may raise or be cancelled.",
        frees=graph.frees(primitive.id),
    )


def _confidence(case: Case, primitive: Primitive, gone: bool) -> str:
    """That no holder is seen is not yet proof: one that took it without a ``with`` block shows nowhere but in the ring."""
    if primitive.state.get("unreachable") is True:
        return "proved"
    if gone or case.setters(primitive) == () or primitive.state.get("inherited") is True:
        return "likely"
    return "suspected" if case.setters(primitive) else "likely"
