"""What follows from everything the desk was told: who made whom, which thread serves which task, who holds what, how patient a wait may be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hangwatch.integrations import opentelemetry
from hangwatch.integrations.desk import SnapshotDesk, union
from hangwatch.records import FOREVER, Primitive, Request, Task, Wait


def with_parents(known: dict[str, Task], desk: SnapshotDesk) -> dict[str, Task]:
    """By what libraries told; else a task that another one waits for by itself (await, gather, group) was most likely made by it."""
    tasks = dict(known)
    for child, parent in desk.parents.items():
        if child in tasks and parent in tasks:
            tasks[child] = replace(tasks[child], parent_id=parent)
    for wait in desk.waits.values():
        primitive = desk.primitives.get(wait.primitive_id)
        if primitive is None or primitive.kind not in ("task", "gather", "group") or wait.task_id not in tasks:
            continue
        for child in primitive.holders:
            if child in tasks and tasks[child].parent_id is None and child != wait.task_id:
                tasks[child] = replace(tasks[child], parent_id=wait.task_id)
    return tasks


def completed(task: Task, desk: SnapshotDesk) -> Task:
    """The task with the holds and the request that were told after it was read."""
    holds, request_id = tuple(desk.holds.get(task.id, ())), desk.bound.get(task.id)
    if holds == task.holds and request_id == task.request_id:
        return task
    return replace(task, holds=holds, request_id=request_id)


def find_servants(desk: SnapshotDesk) -> None:
    """Tells the desk which task waits for the job that a thread runs."""
    for wait in desk.waits.values():
        primitive = desk.primitives.get(wait.primitive_id)
        if primitive is None or primitive.kind != "job" or not wait.task_id.startswith("task:"):
            continue
        running = primitive.state.get("queued") is not True and len(primitive.holders) == 1
        if running and primitive.holders[0].startswith("thread:"):
            desk.serve(primitive.holders[0], wait.task_id)


def pass_deadlines_on(desk: SnapshotDesk) -> None:
    """Who waits under a timeout for a task sets that task a deadline, and whatever this waits on in turn.

    Up to 3.11 ``wait_for`` runs what it awaits in a task of its own, so without this nearly no wait would seem to have a timeout.
    A task that several wait for has the latest deadline of them, and none when one of them has none.
    """
    above: dict[str, list[Wait]] = {}
    of: dict[str, list[tuple[str, str]]] = {}
    for key, wait in desk.waits.items():
        of.setdefault(wait.task_id, []).append(key)
        primitive = desk.primitives.get(wait.primitive_id)
        if primitive is not None and primitive.kind in ("task", "gather", "group"):
            for child in primitive.holders:
                above.setdefault(child, []).append(wait)
    todo = [child for child, waits in above.items() if any(wait.deadline_ns is not None for wait in waits)]
    seen: set[str] = set()
    while todo:
        child = todo.pop()
        if child in seen:
            continue
        seen.add(child)
        deadlines = [desk.waits[wait.task_id, wait.primitive_id].deadline_ns for wait in above.get(child, ())]
        if any(deadline is None for deadline in deadlines):
            continue
        latest = max(deadline for deadline in deadlines if deadline is not None)
        for key in of.get(child, ()):
            wait = desk.waits[key]
            if wait.deadline_ns is None or wait.deadline_ns > latest:
                desk.waits[key] = replace(wait, deadline_ns=latest)
                primitive = desk.primitives.get(wait.primitive_id)
                todo += primitive.holders if primitive is not None and primitive.kind in ("task", "gather", "group") else ()


def bind_children(tasks: dict[str, Task], desk: SnapshotDesk) -> None:
    """A task without a request of its own works for its parent's."""
    for task_id in tasks:
        here, seen = task_id, set()
        while here in tasks and here not in desk.bound and here not in seen:
            seen.add(here)
            here = tasks[here].parent_id or ""
        if here in desk.bound:
            for child in seen:
                desk.bind(child, desk.bound[here])


def with_holders(desk: SnapshotDesk) -> Iterator[Primitive]:
    """Primitives with everybody who waits for them, and everybody whose open ``with`` block holds them."""
    holders: dict[str, list[str]] = {}
    for owner_id, held in desk.holds.items():
        for hold in held:
            holders.setdefault(hold.primitive_id, []).append(owner_id)
    for primitive in desk.primitives.values():
        waiting = desk.waiters.get(primitive.id, {})
        extra = holders.get(primitive.id, [])
        if waiting or extra:
            primitive = replace(primitive, waiters=union(primitive.waiters, waiting), holders=union(primitive.holders, extra))
        yield primitive


def settled(primitive: Primitive, desk: SnapshotDesk) -> Primitive:
    """Patience from what all its waiters have in common: a deadline each, or no request that anybody waits for."""
    if primitive.patience_ns is not None or not primitive.waiters:
        return primitive
    waits = [desk.waits[waiter, primitive.id] for waiter in primitive.waiters if (waiter, primitive.id) in desk.waits]
    if waits and all(wait.deadline_ns is not None for wait in waits):
        allowed = [(wait.deadline_ns or 0) - (wait.since_ns if wait.since_ns is not None else desk.now_ns) for wait in waits]
        return replace(primitive, patience_ns=max(0, *allowed))
    if primitive.kind == "queue-get" and primitive.ready is not True and not any(waiter in desk.bound for waiter in primitive.waiters):
        return replace(primitive, patience_ns=FOREVER)  # an idle consumer
    return primitive


def with_task(request: Request, desk: SnapshotDesk) -> Request:
    """With the task that works for it, and in the span that the application has open for it."""
    request = opentelemetry.in_its_span(request, desk)
    if request.task_id:
        return request
    task_id = next((task for task, bound in desk.bound.items() if bound == request.id), None)
    return replace(request, task_id=task_id) if task_id else request
