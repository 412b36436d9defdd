"""asyncio: its locks, queues and events; with its tasks and streams (beside this file) everything that a task can park on.

A primitive's frames are recognised, not the future it waits on: Lock, Event, Condition, Semaphore and Queue all park on an anonymous
future that looks the same, and only ``self`` of the innermost frame tells them apart.
"""

from __future__ import annotations

from hangwatch.integrations import asyncio_streams, asyncio_tasks
from hangwatch.integrations.base import Desk, Look, Sighting, Spot
from hangwatch.reading.view import ObjectView, is_a, length, number, plain
from hangwatch.records import Plain, Primitive

NAME = "asyncio"
DISTRIBUTION = None
TESTED = ">=3.10,<3.16"

_LOCKS = "asyncio/locks.py"
_QUEUES = "asyncio/queues.py"


def event_primitive(event: ObjectView, desk: Desk) -> Primitive:
    is_set = plain(event, "_value")
    return Primitive(
        id=desk.id_of("event", event),
        kind="event",
        label=short_name(event),
        library=NAME,
        state={"set": is_set, "waiting": length(event, "_waiters")},
        ready=is_set if isinstance(is_set, bool) else None,
    )


def lock_primitive(lock: ObjectView, desk: Desk) -> Primitive:
    locked = plain(lock, "_locked")
    return Primitive(
        id=desk.id_of("lock", lock),
        kind="lock",
        label=short_name(lock),
        library=NAME,
        state={"locked": locked, "waiting": length(lock, "_waiters") or 0},
        ready=not locked if isinstance(locked, bool) else None,
        capacity=1,
        in_use=1 if locked else 0,
    )


def semaphore_primitive(semaphore: ObjectView, desk: Desk) -> Primitive:
    value, bound = number(semaphore, "_value"), number(semaphore, "_bound_value")
    state: dict[str, Plain] = {"value": value, "waiting": length(semaphore, "_waiters") or 0}
    return Primitive(
        id=desk.id_of("semaphore", semaphore),
        kind="semaphore",
        label=short_name(semaphore),
        library=NAME,
        state=state,
        ready=value > 0 if value is not None else None,
        capacity=bound,
        in_use=bound - value if bound is not None and value is not None else None,
    )


def condition_primitive(condition: ObjectView, desk: Desk) -> Primitive:
    """The waiters' side of a condition; its lock is a primitive of its own."""
    return Primitive(
        id=desk.id_of("condition", condition),
        kind="condition",
        label=short_name(condition),
        library=NAME,
        state={"waiting": length(condition, "_waiters"), "locked": plain(condition.attr("_lock"), "_locked")},
    )


def condition_lock(condition: ObjectView, desk: Desk) -> Primitive | None:
    """``async with condition:`` holds its lock."""
    lock = condition.attr("_lock")
    return lock_primitive(lock, desk) if is_a(lock, "asyncio.locks.Lock") and lock is not None else None


def barrier_primitive(barrier: ObjectView, desk: Desk) -> Primitive:
    parties, count = number(barrier, "_parties"), number(barrier, "_count")
    return Primitive(
        id=desk.id_of("barrier", barrier),
        kind="barrier",
        label=short_name(barrier),
        library=NAME,
        state={"parties": parties, "arrived": count},
        capacity=parties,
        in_use=count,
    )


def queue_primitive(queue: ObjectView, desk: Desk, side: str) -> Primitive:
    """One side of a queue: ``queue-get``, ``queue-put`` or ``queue-join``."""
    size, maximum = length(queue, "_queue"), number(queue, "_maxsize")
    unfinished = number(queue, "_unfinished_tasks")
    state: dict[str, Plain] = {
        "size": size,
        "maxsize": maximum,
        "unfinished": unfinished,
        "getters": length(queue, "_getters"),
        "putters": length(queue, "_putters"),
    }
    ready = None
    if side == "queue-get" and size is not None:
        ready = size > 0
    elif side == "queue-put" and size is not None and maximum is not None:
        ready = maximum <= 0 or size < maximum
    elif side == "queue-join" and unfinished is not None:
        ready = unfinished == 0
    return Primitive(desk.id_of(side, queue), side, short_name(queue), NAME, state, ready=ready, capacity=maximum or None, in_use=size)


def short_name(obj: ObjectView) -> str:
    """``asyncio.Lock`` for asyncio.locks.Lock; the whole name for a class of somebody else's."""
    module, _, name = obj.type_name.rpartition(".")
    return f"asyncio.{name}" if module.startswith("asyncio") else obj.type_name


def _event(look: Look) -> Sighting | None:
    event = look.frame.local("self")
    if event is None or not is_a(event, "asyncio.locks.Event"):
        return None
    return Sighting(look.desk.known("event", event) or event_primitive(event, look.desk), "wait")


def _wait(look: Look) -> Sighting | None:
    """Event.wait, Condition.wait and Barrier.wait share file and name."""
    obj = look.frame.local("self")
    if obj is None:
        return None
    if is_a(obj, "asyncio.locks.Condition"):
        return _condition(look)
    if is_a(obj, "asyncio.locks.Barrier"):
        return Sighting(barrier_primitive(obj, look.desk), "wait")
    return _event(look)


def _condition(look: Look) -> Sighting | None:
    condition = look.frame.local("self")
    inner = look.chain[look.index + 1 :]
    if condition is None or not is_a(condition, "asyncio.locks.Condition") or any(frame.name == "acquire" for frame in inner):
        return None  # notified, and now queueing for the lock again: that lock is what it waits on
    lock = condition_lock(condition, look.desk)
    releases = (lock.id,) if lock is not None else ()
    return Sighting(condition_primitive(condition, look.desk), look.frame.name, releases=releases)


def _barrier(look: Look) -> Sighting | None:
    barrier = look.frame.local("self")
    return (
        Sighting(barrier_primitive(barrier, look.desk), "wait") if is_a(barrier, "asyncio.locks.Barrier") and barrier is not None else None
    )


def _acquire(look: Look) -> Sighting | None:
    obj = look.frame.local("self")
    if obj is None:
        return None
    if is_a(obj, "asyncio.locks.Lock"):
        primitive = look.desk.known("lock", obj) or lock_primitive(obj, look.desk)
        # Condition.wait has let the lock go, though the ``async with condition`` around it is open.
        again = look.index > 0 and is_a(look.chain[look.index - 1].local("self"), "asyncio.locks.Condition")
        return Sighting(primitive, "acquire", releases=(primitive.id,) if again else ())
    if is_a(obj, "asyncio.locks.Semaphore"):
        return Sighting(look.desk.known("semaphore", obj) or semaphore_primitive(obj, look.desk), "acquire")
    return None


def _queue(look: Look) -> Sighting | None:
    queue = look.frame.local("self")
    if queue is None or not is_a(queue, "asyncio.queues.Queue"):
        return None
    side = f"queue-{look.frame.name}"
    return Sighting(look.desk.known(side, queue) or queue_primitive(queue, look.desk, side), look.frame.name)


WAITS = (
    Spot(_LOCKS, "wait", _wait, target="asyncio.locks:Event.wait"),
    Spot(_LOCKS, "wait_for", _condition, target="asyncio.locks:Condition.wait_for"),
    Spot(_LOCKS, "acquire", _acquire, target="asyncio.locks:Lock.acquire"),
    Spot(_LOCKS, "_block", _barrier, target="asyncio.locks:Barrier._block", since="3.11"),
    Spot(_LOCKS, "_wait", _barrier, target="asyncio.locks:Barrier._wait", since="3.11"),
    Spot(_QUEUES, "get", _queue, target="asyncio.queues:Queue.get"),
    Spot(_QUEUES, "put", _queue, target="asyncio.queues:Queue.put"),
    Spot(_QUEUES, "join", _queue, target="asyncio.queues:Queue.join"),
    *asyncio_tasks.WAITS,
    *asyncio_streams.WAITS,
)

HOLDS = {
    "asyncio.locks.Lock": lock_primitive,
    "asyncio.locks.Semaphore": semaphore_primitive,
    "asyncio.locks.Condition": condition_lock,
}

DEADLINES = asyncio_tasks.DEADLINES
