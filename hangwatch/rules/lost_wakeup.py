"""The condition is fulfilled and the waiter sleeps on: the wake-up went to somebody who is gone, or was never sent."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Finding, Primitive
from hangwatch.rules.base import Case
from hangwatch.rules.events import loop_runs, ready_twice, told, wakeup_lies_there
from hangwatch.rules.frames import pick, waits_in, where
from hangwatch.rules.loop_thread import waits_for_gil
from hangwatch.rules.words import because, primitive_name, state_sentence, waiters_name, waits_sentence

#: Not: what another thread or task hands over (`foreign_thread`, `never_set` know more of it), and timers.
_KINDS = (
    "event", "lock", "condition", "semaphore", "barrier", "queue-get", "queue-put", "queue-join", "pool", "limiter", "stream", "body",
    "future", "gather", "group", "thread-lock", "thread-event", "thread-queue",
)  # fmt: skip


def check(case: Case) -> Iterator[Finding]:
    for primitive, waiters in case.waiting_on(*_KINDS):
        parked = [w for w in waiters if loop_runs(case, w) and not wakeup_lies_there(case, w) and _is_parked(case, w)]
        if primitive.ready is True and not primitive.state.get("shared") and parked:
            yield _finding(case, primitive, tuple(parked))


def _is_parked(case: Case, waiter_id: str) -> bool:
    task = case.graph.tasks.get(waiter_id)
    if task is None:
        # A thread that was woken and needs the GIL to go on looks the same; then the GIL is what it waits for.
        return case.of_tool("gil") is None and case.of_tool("gc") is None and not waits_for_gil(case, waiter_id)
    return task.state == "parked"


def _finding(case: Case, primitive: Primitive, waiters: tuple[str, ...]) -> Finding:
    graph = case.graph
    twice = [w for w in waiters if ready_twice(case, primitive, w)]
    return Finding(
        cause="lost-wakeup",
        title=f"{waiters_name(graph, waiters)} {'wait' if len(waiters) > 1 else 'waits'} for {primitive_name(primitive)}, which is there to be taken: the wake-up was lost",
        because=because(
            state_sentence(primitive),
            [waits_sentence(case, w, primitive) + "." for w in waiters[:4]],
            "Two looks one after the other saw it free and the same waiter parked." if twice else "One look only: it may be on its way.",
            told(case, primitive),
        ),
        culprit=pick(where(graph, waiters), waits_in(graph, waiters[:2]), where(graph, waiters, depth=3)),
        subjects=(*waiters[:20], primitive.id),
        confidence="proved" if twice else "suspected" if case.earlier is not None else "likely",
        advice="The one that was woken last was probably cancelled at that moment and did not pass the wake-up on: look for a timeout or cancel() around this wait, and at the library's fixes.",
        frees=graph.frees(primitive.id),
    )
