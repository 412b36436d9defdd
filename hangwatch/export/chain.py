"""From a waiter along its waits to what it finally waits for, as far as it is worth drawing; and who else waits behind the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hangwatch.records import Frame, Primitive, Request, Snapshot, Stall, Task, Thread, Wait

#: Length of a wait chain worth drawing.
MAX_HOPS = 8
#: Requests examined for being victims of the same root; the detecting thread pays for it.
MAX_EXAMINED = 1000


@dataclass(frozen=True, slots=True)
class Hop:
    """One waiter, what it waits on, and the holder that the chain goes on with (``others``: further holders not followed)."""

    wait: Wait
    primitive: Primitive
    holder_id: str | None
    others: int
    cycle: bool = False


class Index:
    """A snapshot's records by id. Built once for each incident."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.tasks: dict[str, Task] = {task.id: task for task in snapshot.tasks}
        self.threads: dict[str, Thread] = {thread.id: thread for thread in snapshot.threads}
        self.requests: dict[str, Request] = {request.id: request for request in snapshot.requests}
        self.primitives: dict[str, Primitive] = {primitive.id: primitive for primitive in snapshot.primitives}
        self.waits: dict[str, Wait] = {}
        for wait in snapshot.waits:
            self.waits.setdefault(wait.task_id, wait)
        self._request_of_task = {request.task_id: request for request in snapshot.requests if request.task_id}

    def frames(self, waiter_id: str) -> tuple[Frame, ...]:
        waiter = self.tasks.get(waiter_id) or self.threads.get(waiter_id)
        return waiter.frames if waiter else ()

    def label(self, waiter_id: str) -> str:
        waiter = self.tasks.get(waiter_id) or self.threads.get(waiter_id)
        return waiter.name if waiter else waiter_id.partition(":")[0]

    def request_of(self, waiter_id: str | None) -> Request | None:
        """The request that a task, a thread or a request itself works for."""
        if waiter_id is None:
            return None
        thread = self.threads.get(waiter_id)
        if thread is not None:
            return self.request_of(thread.serves)
        task = self.tasks.get(waiter_id)
        if task is not None and task.request_id in self.requests:
            return self.requests[task.request_id]
        return self.requests.get(waiter_id) or self._request_of_task.get(waiter_id)

    def waiter(self, node_id: str) -> str | None:
        """The task or thread that waits on behalf of a request, loop, task or thread."""
        request = self.requests.get(node_id)
        if request is not None:
            return request.task_id
        for loop in self.snapshot.loops:
            if loop.id == node_id:
                return loop.thread_id
        return node_id

    def hops(self, node_id: str) -> tuple[Hop, ...]:
        """The waits behind each other, the waiter's own first; ends at what nobody holds, at a cycle, or after MAX_HOPS."""
        found: list[Hop] = []
        seen: set[str] = set()
        waiter = self.waiter(node_id)
        while waiter is not None and len(found) < MAX_HOPS:
            seen.add(waiter)
            step = self._step(waiter)
            if step is None:
                break
            following = self.waiter(step.holder_id) if step.holder_id else None
            if following in seen:
                found.append(Hop(step.wait, step.primitive, step.holder_id, step.others, cycle=True))
                break
            found.append(step)
            waiter = following
        return tuple(found)

    def _step(self, waiter_id: str) -> Hop | None:
        wait = self.waits.get(waiter_id)
        task = self.tasks.get(waiter_id) or self.threads.get(waiter_id)
        primitive = self.primitives.get(wait.primitive_id if wait else (task.waits_on or "") if task else "")
        if primitive is None:
            return None
        holders = primitive.holders
        return Hop(wait or Wait(waiter_id, primitive.id, ""), primitive, holders[0] if holders else None, max(0, len(holders) - 1))


def subject_request(index: Index, stall: Stall) -> Request | None:
    """The request in whose trace the stall belongs: the stalled one, or the one that runs on the blocked loop."""
    for loop in index.snapshot.loops:
        if loop.id == stall.subject_id:
            return index.request_of(loop.running_task_id)
    return index.request_of(stall.subject_id)


def victims(index: Index, stall: Stall, hops: tuple[Hop, ...], subjects: tuple[str, ...]) -> Iterator[Request]:
    """Other requests that cannot go on either: all on a blocked loop, those named, and those that wait behind the same thing."""
    own = subject_request(index, stall)
    holders = {hop.holder_id for hop in hops}
    holding = {request.id for holder in holders if (request := index.request_of(holder))}
    shared = {hop.primitive.id for hop in hops}
    named = {request.id for subject in subjects if (request := index.request_of(subject))}
    for request in index.snapshot.requests[:MAX_EXAMINED]:
        if request.id in holding or (own is not None and request.id == own.id):
            continue
        behind = request.id in named or any(hop.primitive.id in shared for hop in index.hops(request.id))
        if stall.kind == "loop" or behind:
            yield request
