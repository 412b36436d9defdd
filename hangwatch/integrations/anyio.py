"""anyio on asyncio, 3.5 and later: locks, limiters, streams, task groups, worker threads.

Up to 4.5 locks and semaphores are the same for every backend and know their owner as a TaskInfo; later they are the backend's and know
the task itself. Objects made outside a loop are adapters around the real one.
"""

from __future__ import annotations

from hangwatch.integrations import anyio_threads as threads
from hangwatch.integrations.asyncio_streams import peer_of, process_primitive, socket_peer, transport_state
from hangwatch.integrations.asyncio_tasks import is_pending, is_task, task_id
from hangwatch.integrations.base import Desk, Look, Sighting, Spot
from hangwatch.reading.view import ObjectView, is_a, length, number, plain
from hangwatch.records import FOREVER, Plain, Primitive

NAME = "anyio"
DISTRIBUTION = "anyio"
TESTED = ">=3.5,<5"

_CORE = "/anyio/_core/_synchronization.py"
_BACKEND = "/anyio/_backends/_asyncio.py"
_MEMORY = "/anyio/streams/memory.py"
_PORTAL = "/anyio/from_thread.py"
_LIMIT = 1000


def _names(name: str) -> tuple[str, str]:
    """anyio renames the module of what it exports to plain ``anyio``, some releases only when a name is first asked for."""
    return f"anyio.{name}", f"anyio._core._synchronization.{name}"


_EVENT, _LOCK, _CONDITION, _SEMAPHORE, _LIMITER = map(_names, ("Event", "Lock", "Condition", "Semaphore", "CapacityLimiter"))


def _real(obj: ObjectView | None) -> ObjectView | None:
    """Past an adapter. What was never used has nothing behind it."""
    for name in ("_internal_event", "_internal_lock", "_internal_semaphore", "_internal_limiter"):
        inner = obj.attr(name) if obj is not None else None
        if inner is not None and inner.value() is not None:
            return inner
    return obj


def _owner(owner: ObjectView | None) -> str | None:
    """The id of an owner that is a task, or a TaskInfo, which has the task's address."""
    if owner is None or owner.value() is None:
        return None
    address = number(owner, "id")
    return task_id(owner) if is_task(owner) else f"task:{address:x}" if address is not None else None


def _waiting(obj: ObjectView) -> int | None:
    """Those of cancelled tasks stay in the queue for a while and count."""
    return length(obj, "_waiters")


def lock_primitive(lock: ObjectView, desk: Desk) -> Primitive:
    lock = _real(lock) or lock
    owner = lock.attr("_owner_task")
    free = owner is None or owner.value() is None
    holder = _owner(owner)
    state: dict[str, Plain] = {"locked": not free, "waiting": _waiting(lock)}
    return Primitive(
        desk.id_of("lock", lock),
        "lock",
        "anyio.Lock",
        NAME,
        state,
        holders=(holder,) if holder else (),
        ready=free,
        capacity=1,
        in_use=0 if free else 1,
    )


def semaphore_primitive(semaphore: ObjectView, desk: Desk) -> Primitive:
    semaphore = _real(semaphore) or semaphore
    value, most = number(semaphore, "_value"), number(semaphore, "_max_value")
    return Primitive(
        desk.id_of("semaphore", semaphore),
        "semaphore",
        "anyio.Semaphore",
        NAME,
        {"value": value, "waiting": _waiting(semaphore)},
        ready=value > 0 if value is not None else None,
        capacity=most,
        in_use=most - value if most is not None and value is not None else None,
    )


def limiter_primitive(limiter: ObjectView, desk: Desk) -> Primitive:
    """Held by the thread that a borrower waits for, where it waits for one: that thread's end gives the token back."""
    limiter = _real(limiter) or limiter
    known = desk.known("limiter", limiter)
    if known is not None:
        return known
    total, borrowers = number(limiter, "_total_tokens"), limiter.attr("_borrowers")
    taken = borrowers.items(_LIMIT) if borrowers is not None else []
    running = threads.workers(desk).running
    holders = []
    for borrower in taken:
        awaited = borrower.attr("_fut_waiter") if is_task(borrower) else None
        holders.append(running.get(awaited.id) if awaited is not None and awaited.id in running else _owner(borrower))
    state: dict[str, Plain] = {"total": total, "borrowed": len(taken), "waiting": length(limiter, "_wait_queue")}
    return Primitive(
        desk.id_of("limiter", limiter),
        "limiter",
        f"anyio.CapacityLimiter({total})",
        NAME,
        state,
        holders=tuple(dict.fromkeys(holder for holder in holders if holder)),
        ready=len(taken) < total if total is not None else None,
        capacity=total,
        in_use=len(taken),
    )


def condition_lock(condition: ObjectView, desk: Desk) -> Primitive | None:
    lock = condition.attr("_lock")
    return lock_primitive(lock, desk) if lock is not None else None


def _acquire(look: Look) -> Sighting | None:
    obj = look.frame.local("self")
    if is_a(obj, *_LOCK) and obj is not None:
        return Sighting(lock_primitive(obj, look.desk), "acquire")
    if is_a(obj, *_SEMAPHORE) and obj is not None:
        return Sighting(semaphore_primitive(obj, look.desk), "acquire")
    if is_a(obj, *_LIMITER) and obj is not None:
        return Sighting(limiter_primitive(obj, look.desk), "acquire")
    return None


def _wait(look: Look) -> Sighting | None:
    """Event.wait and Condition.wait of the core, Event.wait and Process.wait of the backend."""
    obj, desk = look.frame.local("self"), look.desk
    if obj is None:
        return None
    if is_a(obj, *_CONDITION):
        if any(frame.name == "acquire" for frame in look.chain[look.index + 1 :]):
            return None  # notified, and queueing for the lock
        lock = condition_lock(obj, desk)
        primitive = Primitive(desk.id_of("condition", obj), "condition", "anyio.Condition", NAME, {"waiting": _waiting(obj)})
        return Sighting(primitive, "wait", releases=(lock.id,) if lock is not None else ())
    if is_a(obj, *_EVENT):
        return _event(look, _real(obj) or obj)
    if is_a(obj, "anyio._backends._asyncio.Process"):
        process = obj.attr("_process")
        return Sighting(process_primitive(process, desk), "wait") if process is not None else None
    return None


def _event(look: Look, event: ObjectView) -> Sighting:
    """By the address of anyio's own object, as that is what others refer to; asyncio's is inside it."""
    inner = event.attr("_event")
    is_set = plain(inner, "_value")
    state: dict[str, Plain] = {"set": is_set, "waiting": length(inner, "_waiters")}
    ready = is_set if isinstance(is_set, bool) else None
    return Sighting(Primitive(look.desk.id_of("event", event), "event", "anyio.Event", NAME, state, ready=ready), "wait")


# Task groups


def children(group: ObjectView) -> list[str]:
    """Ids of the group's tasks that have not ended."""
    return [task_id(task) for task in child_tasks(group)]


def child_tasks(group: ObjectView) -> list[ObjectView]:
    """Up to 4.2 they are the scope's tasks other than its host."""
    scope, tasks = group.attr("cancel_scope"), group.attr("_tasks")
    host = scope.attr("_host_task") if scope is not None else None
    if tasks is None and scope is not None:
        tasks = scope.attr("_tasks")
    found = [task for task in tasks.items(_LIMIT) if is_task(task) and is_pending(task)] if tasks is not None else []
    return [task for task in found if host is None or task.id != host.id]


def _group_exit(look: Look) -> Sighting | None:
    group = look.frame.local("self")
    if group is None or not is_a(group, "anyio._backends._asyncio.TaskGroup"):
        return None
    left = tuple(children(group))
    state: dict[str, Plain] = {"pending": len(left), "cancelled": plain(group.attr("cancel_scope"), "_cancel_called")}
    return Sighting(
        Primitive(look.desk.id_of("group", group), "group", "anyio.TaskGroup", NAME, state, holders=left, ready=not left), "exit"
    )


def _group_start(look: Look) -> Sighting | None:
    group, future, task = look.frame.local("self"), look.frame.local("future"), look.frame.local("task")
    if group is None or not is_a(group, "anyio._backends._asyncio.TaskGroup") or future is None or task is None:
        return None
    label = "a task of the group to report that it started"
    pending = is_pending(future)
    return Sighting(
        Primitive(look.desk.id_of("future", future), "task", label, NAME, holders=(task_id(task),) if pending else (), ready=not pending),
        "start",
    )


def _open_group(group: ObjectView, desk: Desk) -> None:
    """Its tasks were made by the task that has it open."""
    scope = group.attr("cancel_scope")
    host = _owner(scope.attr("_host_task")) if scope is not None else None
    for child in children(group) if host else []:
        desk.parent(child, host or "")


def _deadline(scope: ObjectView) -> int | None:
    """Deadlines are in loop time: seconds of the monotonic clock."""
    when = plain(scope, "_deadline")
    return int(when * 1e9) if isinstance(when, (int, float)) and when < 1e9 else None


# Streams


def _memory(look: Look) -> Sighting | None:
    """A memory object stream is a queue with two ends. The ends' clones share one state."""
    stream = look.frame.local("self")
    state = stream.attr("_state") if stream is not None else None
    if state is None:
        return None
    receives = look.frame.name == "receive"
    size, senders, receivers = length(state, "buffer"), number(state, "open_send_channels"), number(state, "open_receive_channels")
    most = plain(state, "max_buffer_size")
    blocked = length(state, "waiting_senders")
    facts: dict[str, Plain] = {
        "size": size,
        "maxsize": most,
        "open senders": senders,
        "open receivers": receivers,
        "senders waiting": blocked,
    }
    ready = bool(size or blocked or senders == 0) if receives else receivers == 0
    kind = "queue-get" if receives else "queue-put"
    primitive = Primitive(look.desk.id_of(kind, state), kind, "anyio memory object stream", NAME, facts, ready=ready, in_use=size)
    return Sighting(primitive, look.frame.name)


def _socket(look: Look) -> Sighting | None:
    stream, desk = look.frame.local("self"), look.desk
    op = look.frame.name
    if stream is None or not any(name.startswith("anyio._backends._asyncio.") for name in stream.base_names):
        return None
    transport, raw = stream.attr("_transport"), stream.attr("_raw_socket")
    if op == "accept":
        return Sighting(Primitive(desk.id_of("peer", stream), "peer", "a new connection", NAME, patience_ns=FOREVER), op)
    if transport is None and raw is None:
        return None
    state = transport_state(transport)
    where = (peer_of(transport) if transport is not None else socket_peer(raw) if raw is not None else None) or state.get("address")
    if where:
        state["address"] = where
    buffered = length(stream.attr("_protocol"), "read_queue")
    if buffered is not None:
        state["buffered"] = buffered
    label = f"bytes from peer {where or ''}".strip() if op == "receive" else f"peer {where or ''} to read what was sent"
    ready = buffered > 0 if op == "receive" and buffered is not None else None
    return Sighting(Primitive(desk.id_of("peer", stream), "peer", label, NAME, state, ready=ready), op)


_SYNC = "anyio._core._synchronization"
_ASYNCIO = "anyio._backends._asyncio"
WAITS = (
    Spot(_CORE, "wait", _wait, target=f"{_SYNC}:Condition.wait"),
    Spot(_CORE, "acquire", _acquire, target=f"{_SYNC}:LockAdapter.acquire"),
    Spot(_CORE, "acquire_on_behalf_of", _acquire, target=f"{_SYNC}:CapacityLimiterAdapter.acquire_on_behalf_of"),
    Spot(_BACKEND, "wait", _wait, target=f"{_ASYNCIO}:Event.wait"),
    Spot(_BACKEND, "acquire", _acquire, target=f"{_ASYNCIO}:Lock.acquire"),
    Spot(_BACKEND, "acquire_on_behalf_of", _acquire, target=f"{_ASYNCIO}:CapacityLimiter.acquire_on_behalf_of"),
    Spot(_BACKEND, "__aexit__", _group_exit, target=f"{_ASYNCIO}:TaskGroup.__aexit__"),
    Spot(_BACKEND, "start", _group_start, target=f"{_ASYNCIO}:TaskGroup.start"),
    Spot(_BACKEND, "receive", _socket, target=f"{_ASYNCIO}:SocketStream.receive"),
    Spot(_BACKEND, "send", _socket, target=f"{_ASYNCIO}:SocketStream.send"),
    Spot(_BACKEND, "accept", _socket, target=f"{_ASYNCIO}:TCPSocketListener.accept"),
    Spot(_MEMORY, "receive", _memory, target="anyio.streams.memory:MemoryObjectReceiveStream.receive"),
    Spot(_MEMORY, "send", _memory, target="anyio.streams.memory:MemoryObjectSendStream.send"),
    Spot(_BACKEND, "run_sync_in_worker_thread", threads.job, target=f"{_ASYNCIO}:AsyncIOBackend.run_sync_in_worker_thread"),
    Spot(_BACKEND, "run", threads.idle_worker, target=f"{_ASYNCIO}:WorkerThread.run"),
    Spot(_BACKEND, "run_sync_from_thread", threads.call_into_loop, target=f"{_ASYNCIO}:AsyncIOBackend.run_sync_from_thread"),
    Spot(_PORTAL, "sleep_until_stopped", threads.portal_idle, target="anyio.from_thread:BlockingPortal.sleep_until_stopped"),
)

REQUESTS = (Spot(_PORTAL, "_call_func", threads.portal_call, target="anyio.from_thread:BlockingPortal._call_func"),)

HOLDS = {
    **dict.fromkeys(_LOCK, lock_primitive),
    **dict.fromkeys(_SEMAPHORE, semaphore_primitive),
    **dict.fromkeys(_CONDITION, condition_lock),
    "anyio._backends._asyncio.TaskGroup": _open_group,
}

DEADLINES = {"anyio._backends._asyncio.CancelScope": _deadline}
