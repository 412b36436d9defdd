"""psycopg 3 and psycopg_pool: queries that wait for PostgreSQL, pools with what is out and with whom."""

from __future__ import annotations

import time

from hangwatch.integrations.base import Desk, Look, Sighting, Spot
from hangwatch.reading.view import ObjectView, Reader, TaskView, ThreadView, is_a, length, number, plain
from hangwatch.records import Frame, Primitive

NAME = "psycopg"
DISTRIBUTION = "psycopg"
TESTED = ">=3.1,<4"

_CONNECTIONS = (
    "psycopg.AsyncConnection",
    "psycopg.Connection",
    "psycopg.connection_async.AsyncConnection",
    "psycopg.connection.Connection",
)
_TIME_LIMIT_NS = 200_000_000
_POOL_TYPES = ("psycopg_pool.base.BasePool",)


def pool_primitive(pool: ObjectView, desk: Desk) -> Primitive:
    known = desk.known("pool", pool)
    if known is not None:
        return known
    idle, made, most = length(pool, "_pool"), number(pool, "_nconns"), number(pool, "_max_size")
    out = made - idle if made is not None and idle is not None else None
    primitive = Primitive(
        desk.id_of("pool", pool),
        "pool",
        f"psycopg pool {plain(pool, 'name') or ''}".strip(),
        NAME,
        {"size": made, "max size": most, "idle": idle, "out": out, "waiting": length(pool, "_waiting")},
        ready=idle > 0 if idle is not None else None,
        capacity=most,
        in_use=out,
    )
    _waited(desk)[pool.id] = primitive.id
    return primitive


def _waited(desk: Desk) -> dict[int, str]:
    """Ids of the pools met in this snapshot, by address."""
    found: dict[int, str] = desk.memo.setdefault(__name__, {})
    return found


def _getconn(look: Look) -> Sighting | None:
    pool = look.frame.local("self")
    inner = look.chain[look.index + 1 :]
    if pool is None or not is_a(pool, *_POOL_TYPES) or not any(frame.name == "wait" for frame in inner):
        return None
    return Sighting(pool_primitive(pool, look.desk), "getconn")


def _query(look: Look) -> Sighting | None:
    connection = look.frame.local("self")
    if connection is None or not any(name.startswith("psycopg.") for name in connection.base_names):
        return None
    return Sighting(Primitive(look.desk.id_of("peer", connection), "peer", "PostgreSQL", NAME), "query")


def _held(connection: ObjectView, desk: Desk) -> Primitive | None:
    """``async with pool.connection()`` enters the connection itself, which knows its pool while it is out."""
    pool = connection.attr("_pool")
    return pool_primitive(pool, desk) if pool is not None and is_a(pool, *_POOL_TYPES) else None


def census(reader: Reader, desk: Desk) -> None:
    """A pool does not list what is out; a connection that is out knows its pool, and whoever has it has it in a local."""
    waited, began = _waited(desk), time.perf_counter_ns()
    if not waited:
        return
    owners: list[tuple[str, TaskView | ThreadView]] = [(f"task:{task.id:x}", task) for task in reader.tasks()]
    owners += [(f"thread:{thread.native_id}", thread) for thread in reader.threads()]
    for owner_id, owner in owners:
        if time.perf_counter_ns() - began > _TIME_LIMIT_NS:
            desk.gap("not every task was searched for what it has out of psycopg's pools")
            return
        for frame in owner.frames():
            for view in frame.references():
                pool = view.attr("_pool") if is_a(view, *_CONNECTIONS) else None
                if pool is not None and pool.id in waited:
                    desk.hold(owner_id, waited[pool.id], Frame(frame.file, frame.line, frame.function))
        reader.slice()


WAITS = (
    Spot("/psycopg_pool/pool_async.py", "getconn", _getconn, target="psycopg_pool.pool_async:AsyncConnectionPool.getconn"),
    Spot("/psycopg_pool/pool.py", "getconn", _getconn, target="psycopg_pool.pool:ConnectionPool.getconn"),
    Spot("/psycopg/connection_async.py", "wait", _query, target="psycopg.connection_async:AsyncConnection.wait"),
    Spot("/psycopg/connection.py", "wait", _query, target="psycopg.connection:Connection.wait"),
)

HOLDS = dict.fromkeys(_CONNECTIONS, _held)
