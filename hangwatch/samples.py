"""Samples of this process with what the ledger knows of its requests, and the stuck requests by the place they are stuck at."""

from __future__ import annotations

import time
from typing import Any, Final

from hangwatch.heartbeat import innermost_frames, stack_of
from hangwatch.integrations import uvicorn_hooks
from hangwatch.ledger import Follow, Ledger, LoopMark
from hangwatch.records import Evidence, Request, Snapshot

#: Kinds of stuck requests investigated from one pair of samples; the others count towards the last.
MAX_GROUPS: Final = 5
#: Requests given to a snapshot.
MAX_REQUESTS: Final = 1000
#: Innermost frames that make a place.
PLACE_FRAMES: Final = 8
#: Looks at the stack of a loop that computes, and seconds between two. Few: each takes the GIL from the loop, which on a crowded machine then
#: waits long for a CPU.
STACKS: Final = 5
STACKS_EVERY_S: Final = 0.006


def sample(ledger: Ledger, stuck: list[Follow]) -> Snapshot:
    """One look at this process, from any thread; ``stuck`` are the requests it is about."""
    from hangwatch.reading.live import LiveReader
    from hangwatch.snapshot import take

    marks = list(ledger.loops.values())
    reader: Any = LiveReader([mark.loop for mark in marks], loop_threads={id(mark.loop): mark.ident for mark in marks})
    return take(reader, history=ledger.acts(), requests=requests(ledger, stuck), dropped=dict(ledger.dropped))


def requests(ledger: Ledger, stuck: list[Follow]) -> list[Request]:
    """What the ledger knows of the requests in flight, the stuck first, at most `MAX_REQUESTS`."""
    found = {follow.subject_id: (follow.subject, follow.since_ns, follow.limit_ns) for follow in stuck[:MAX_REQUESTS]}
    for subject, since_ns, limit_ns in ledger.in_flight(MAX_REQUESTS):
        if len(found) >= MAX_REQUESTS:
            break
        found.setdefault(uvicorn_hooks.subject_id(subject), (subject, since_ns, limit_ns))
    return [
        subject if isinstance(subject, Request) else uvicorn_hooks.request_of(subject, since_ns, limit_ns)
        for subject, since_ns, limit_ns in found.values()
    ]


def by_place(stuck: list[Follow], snapshot: Snapshot) -> list[list[Follow]]:
    """Groups of requests stuck at the same place, that of the oldest first, at most `MAX_GROUPS`."""
    tasks = {task.id: task for task in snapshot.tasks}
    of_request = {request.id: tasks.get(request.task_id or "") for request in snapshot.requests}
    groups: dict[Any, list[Follow]] = {}
    for follow in stuck:
        task = of_request.get(follow.subject_id)
        place = tuple((frame.file, frame.line) for frame in task.frames[-PLACE_FRAMES:]) if task is not None else None
        if place not in groups and len(groups) >= MAX_GROUPS:
            place = next(reversed(groups))
        groups.setdefault(place, []).append(follow)
    return list(groups.values())


def stacks(mark: LoopMark, snapshot: Snapshot) -> tuple[Evidence, ...]:
    """Where the thread of a loop that computes stands, a few times more: one look shows whatever it calls at that moment, and only several
    show what does not return. Empty when the thread waits, as then every look shows the same."""
    thread = next((thread for thread in snapshot.threads if thread.native_id == mark.native_id), None)
    # Whoever looks from inside has the GIL meanwhile: a thread that computes is seen in a futex.
    if thread is None or thread.waits_on is not None or not (thread.syscall or "futex").startswith("futex"):
        return ()
    found = []
    for _ in range(STACKS):
        time.sleep(STACKS_EVERY_S)
        found.append(stack_of(innermost_frames().get(mark.ident)))
    data = {"threads": [{"native_id": mark.native_id, "stacks": [stack for stack in found if stack]}]}
    return (Evidence("samples", f"{len(found)} more looks at the stack of the loop's thread.", data),)
