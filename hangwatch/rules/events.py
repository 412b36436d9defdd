"""What shared-event, lost-wakeup and never-set have in common: a wait on something that another must bring about."""

from __future__ import annotations

from hangwatch.records import Act, Primitive
from hangwatch.rules.base import Case
from hangwatch.rules.words import place_of, seconds, waiter_name

#: The last few entries of the ring are what a reader can follow.
MAX_ACTS = 5


def loop_runs(case: Case, waiter_id: str) -> bool:
    """The waiter's loop gives signs of life, so that a wake-up which was given would have been seen."""
    task = case.graph.tasks.get(waiter_id)
    if task is None:
        return True
    loop = next((loop for loop in case.snapshot.loops if loop.id == task.loop_id), None)
    if loop is None:
        return True
    return not (loop.thread_id and case.graph.waits_of(loop.thread_id)) and case.stall.subject_id != loop.id


def wakeup_lies_there(case: Case, waiter_id: str) -> bool:
    """The waiter's wake-up is queued and its loop sleeps on: a matter of threads, not of this primitive."""
    task = case.graph.tasks.get(waiter_id)
    loop = next((loop for loop in case.snapshot.loops if task is not None and loop.id == task.loop_id), None)
    return loop is not None and bool(loop.asleep) and bool(loop.ready)


def ready_twice(case: Case, primitive: Primitive, waiter_id: str) -> bool:
    """Both samples saw the condition fulfilled and this waiter parked on it."""
    before = case.before(primitive.id)
    return before is not None and before.ready is True and case.waited_before(waiter_id, primitive.id)


def told(case: Case, primitive: Primitive) -> list[str]:
    """What the ring says was done to it, oldest first."""
    acts = sorted((act for act in case.snapshot.history if act.primitive_id == primitive.id), key=lambda act: act.at_ns)
    return [_act(case, act) for act in acts[-MAX_ACTS:]]


def _act(case: Case, act: Act) -> str:
    who = waiter_name(case.graph, act.task_id or act.thread_id or "somebody")
    return f"{seconds(max(0, case.snapshot.at_ns - act.at_ns))} before: {act.op} by {who}{place_of(act.frame)}."
