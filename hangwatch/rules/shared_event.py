"""One event for several who each need their own: the wake-up of one is consumed, or left to, another.

Two ways are known. An event that belongs to a connection or an object is given to several users in turn (uvicorn 748), and the ``clear()`` of one eats the
``set()`` for the other. Or many wait on the event of the one that does the work for all (single flight), and that one ended without setting it.
"""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Finding, Frame, Primitive
from hangwatch.rules.base import Case
from hangwatch.rules.events import loop_runs, ready_twice, told
from hangwatch.rules.frames import application, frames_of, pick, place, waits_in, where
from hangwatch.rules.source import calls_in
from hangwatch.rules.words import because, primitive_name, state_sentence, waiter_name, waiters_name, waits_sentence

_KINDS = ("event", "body", "condition", "future", "thread-event")


def check(case: Case) -> Iterator[Finding]:
    for primitive, _ in case.waiting_on(*_KINDS):
        waiters = case.impatient(primitive)
        if not waiters or case.graph.holders(primitive.id):
            continue
        if primitive.state.get("shared") and loop_runs(case, waiters[0]):
            yield _eaten(case, primitive, waiters)
        elif primitive.ready is not True and (frame := _single_flight(case, primitive, waiters)) is not None:
            yield _leaderless(case, primitive, waiters, frame)


def _eaten(case: Case, primitive: Primitive, waiters: tuple[str, ...]) -> Finding:
    graph = case.graph
    twice = ready_twice(case, primitive, waiters[0])
    name = (
        f"{primitive_name(primitive)}, by an event that is shared between requests"
        if primitive.kind == "body"
        else f"{primitive_name(primitive)}, which is shared between requests"
    )
    due = "what it waits for has arrived" if primitive.ready else "nothing has set it"
    return Finding(
        cause="shared-event",
        title=f"{waiters_name(graph, waiters)} waits for {name}; {due}, and another one took the wake-up",
        because=because(
            [waits_sentence(case, w, primitive) + "." for w in waiters[:3]],
            state_sentence(primitive),
            f"What {waiter_name(graph, waiters[0])} waits for is already there" + (", in two looks one after the other." if twice else ".")
            if primitive.ready
            else "",
            told(case, primitive),
        ),
        culprit=pick(waits_in(graph, waiters[:1]), where(graph, waiters, depth=2)),
        subjects=(*waiters[:20], primitive.id),
        confidence="proved" if twice else "likely" if primitive.ready else "suspected",
        advice="Give each request an event of its own; whoever clears one event for all takes the others' wake-ups.",
        frees=graph.frees(primitive.id),
    )


def _single_flight(case: Case, primitive: Primitive, waiters: tuple[str, ...]) -> Frame | None:
    """The place where all wait, when its function is also the one that sets: what was to set it ran the same code, and is gone."""
    if case.setters(primitive) or primitive.kind not in ("event", "future"):
        return None
    for frame in application(frames_of(case.graph, waiters[0]))[:2]:
        calls = calls_in(frame)
        if calls & {"set", "set_result", "set_exception"} and calls & {"wait", "Event", "create_future", "Future", "shield"}:
            return frame
    return None


def _leaderless(case: Case, primitive: Primitive, waiters: tuple[str, ...], frame: Frame) -> Finding:
    graph = case.graph
    name = primitive_name(primitive)
    return Finding(
        cause="shared-event",
        title=f"{waiters_name(graph, waiters)} {'share' if len(waiters) > 1 else 'waits for'} {name}, which the one that worked for all was to set in {place(frame)}; that one ended without doing so",
        because=because(
            [waits_sentence(case, w, primitive) + "." for w in waiters[:4]],
            f"{place(frame)} both waits for it and sets it: whoever came first was to set it for the others.",
            "No live task that could set it was found." if case.setters(primitive) == () else "",
            told(case, primitive),
        ),
        culprit=pick([frame], where(graph, waiters, depth=2), waits_in(graph, waiters[:1])),
        subjects=(*waiters[:20], primitive.id),
        confidence="likely" if case.setters(primitive) == () or len(waiters) > 1 else "suspected",
        advice="Set the event and drop the entry in `finally`: `except Exception` does not see a cancellation. Or share one task and shield it.",
        frees=graph.frees(primitive.id),
    )
