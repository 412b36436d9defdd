"""SQLAlchemy's pools, synchronous and under asyncio: how much is out, and which tasks and threads have it.

A QueuePool counts what is out and does not list it. So, when somebody waits for one, every frame is searched for sessions and
connections, also behind contextlib's exit stacks (FastAPI keeps the generators of dependencies there), and what they have checked out
is counted. Under asyncio the synchronous half runs in a greenlet, whose frames are in no await chain; what was handed to it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from hangwatch.integrations.base import Desk, Look, Sighting, Spot
from hangwatch.reading.view import FrameView, ObjectView, Reader, TaskView, ThreadView, is_a, length, number, plain
from hangwatch.records import Frame, Primitive

NAME = "sqlalchemy"
DISTRIBUTION = "sqlalchemy"
TESTED = ">=1.4,<3"

_POOLS = "/sqlalchemy/pool/impl.py"
_TYPES = ("sqlalchemy.pool.impl.QueuePool",)
_FAIRY = "sqlalchemy.pool.base._ConnectionFairy"
_STARTS = ("sqlalchemy.", "contextlib.")
_THROUGH = frozenset({"list", "dict", "tuple", "set", "collections.deque", "method", "cell", "generator", "async_generator", "frame"})
#: Session, transaction, dict, tuple, connection, fairy; some more for an exit stack and two generators before it.
_STEPS = 14
_OBJECTS = 400
_TIME_LIMIT_NS = 300_000_000


def pool_primitive(pool: ObjectView, desk: Desk) -> Primitive:
    known = desk.known("pool", pool)
    if known is not None:
        return known
    queue = pool.attr("_pool")
    size, overflow, most = number(queue, "maxsize"), number(pool, "_overflow"), number(pool, "_max_overflow")
    idle = length(queue, "queue")
    inner = queue.attr("_queue") if queue is not None and idle is None else None
    if inner is not None:
        idle = length(inner, "_queue")
    out = size + overflow - (idle or 0) if size is not None and overflow is not None else None
    capacity = size + most if size and most is not None and most >= 0 else None
    primitive = Primitive(
        desk.id_of("pool", pool),
        "pool",
        f"SQLAlchemy {pool.type_name.rpartition('.')[2]} pool",
        NAME,
        {"size": size, "overflow": overflow, "max overflow": most, "idle": idle, "checked out": out, "timeout": plain(pool, "_timeout")},
        ready=idle > 0 or (capacity is not None and out is not None and out < capacity) if idle is not None else None,
        capacity=capacity,
        in_use=out,
    )
    desk.add_primitive(primitive)
    _waited(desk)[pool.id] = primitive.id
    return primitive


def _waited(desk: Desk) -> dict[int, str]:
    found: dict[int, str] = desk.memo.setdefault(__name__, {})
    return found


def _get(look: Look) -> Sighting | None:
    """Waits for a connection to come back, and not for a new one to be made."""
    pool = look.frame.local("self")
    if (
        not is_a(pool, *_TYPES)
        or pool is None
        or not any(frame.file.endswith("/sqlalchemy/util/queue.py") for frame in look.chain[look.index :])
    ):
        return None
    timeout = plain(pool, "_timeout")
    since = None
    for frame in look.chain[look.index :]:
        end = frame.local("endtime")
        value = end.value() if end is not None else None
        if isinstance(value, (int, float)) and isinstance(timeout, (int, float)):
            # Kept in time.time(); what matters is how far off it is.
            since = look.desk.now_ns + int((value - time.time()) * 1e9)
    return Sighting(pool_primitive(pool, look.desk), "checkout", deadline_ns=since)


def _in_greenlet(look: Look) -> Sighting | None:
    """``greenlet_spawn`` awaits a queue's ``get``: the pool whose queue that is, found behind what was handed to the greenlet."""
    inner = look.chain[look.index + 1 :]
    limited = next((frame.local("fut") for frame in inner if frame.name == "wait_for" and frame.file.endswith("/asyncio/tasks.py")), None)
    coroutine = limited.attr("_coro") if limited is not None else None
    if coroutine is not None:  # before 3.11 the time limit puts the queue's ``get`` into a task of its own
        inner = [*inner, *look.desk.reader.suspended(coroutine)]
    getting = next((frame for frame in inner if frame.name == "get" and frame.file.endswith("/asyncio/queues.py")), None)
    queue = getting.local("self") if getting is not None else None
    if queue is None:
        return None
    starts = [view for name in ("fn", "args") if (view := look.frame.local(name)) is not None]
    for found in _walk(starts, lambda view: is_a(view, *_TYPES)):
        adapted = found.attr("_pool")
        own = adapted.attr("_queue") if adapted is not None else None
        if own is not None and own.id == queue.id:
            return Sighting(pool_primitive(found, look.desk), "checkout")
    return None


def _walk(starts: list[ObjectView], wanted: Callable[[ObjectView], bool]) -> list[ObjectView]:
    """Breadth first through SQLAlchemy's and contextlib's objects to those for which ``wanted(view)``."""
    found, seen, todo = [], {view.id for view in starts}, list(starts)
    for _ in range(_STEPS):
        following: list[ObjectView] = []
        for view in todo:
            if wanted(view):
                found.append(view)
                continue
            for part in view.parts():
                if part.id not in seen and len(seen) < _OBJECTS and (part.type_name.startswith(_STARTS) or part.type_name in _THROUGH):
                    seen.add(part.id)
                    following.append(part)
        todo = following
    return found


def _is_out(view: ObjectView) -> bool:
    return is_a(view, _FAIRY)


def _note(owner_id: str, frames: list[FrameView], waited: dict[int, str], desk: Desk, found: dict[int, set[int]]) -> None:
    for frame in frames:
        starts = [view for view in frame.references() if view.type_name.startswith(_STARTS)]
        for fairy in _walk(starts, _is_out) if starts else []:
            pool, inside = fairy.attr("_pool"), fairy.attr("dbapi_connection")
            if pool is not None and pool.id in waited and inside is not None and inside.value() is not None:
                found.setdefault(pool.id, set()).add(fairy.id)
                desk.hold(owner_id, waited[pool.id], Frame(frame.file, frame.line, frame.function))


def census(reader: Reader, desk: Desk) -> None:
    """Who has what is out of the pools that somebody waits for."""
    waited = _waited(desk)
    if not waited:
        return
    began, found = time.perf_counter_ns(), dict[int, set[int]]()
    owners: list[tuple[str, TaskView | ThreadView]] = [(f"task:{task.id:x}", task) for task in desk.reader.tasks()]
    owners += [(f"thread:{thread.native_id}", thread) for thread in desk.reader.threads()]
    for owner_id, owner in owners:
        if time.perf_counter_ns() - began > _TIME_LIMIT_NS:
            desk.gap("not every task was searched for what it has checked out of SQLAlchemy's pools")
            return
        _note(owner_id, owner.frames(), waited, desk, found)
        desk.reader.slice()
    for pool_id, primitive_id in waited.items():
        desk.add_primitive(Primitive(primitive_id, "pool", "", NAME, {"out with the living": len(found.get(pool_id, ()))}))


WAITS = (
    Spot(_POOLS, "_do_get", _get, target="sqlalchemy.pool.impl:QueuePool._do_get"),
    Spot("/sqlalchemy/util/concurrency.py", "greenlet_spawn", _in_greenlet, target="sqlalchemy.util.concurrency:greenlet_spawn"),
    # Up to 2.0 it is in a file of its own.
    Spot("/sqlalchemy/util/_concurrency_py3k.py", "greenlet_spawn", _in_greenlet),
)
