"""asyncpg: its pool with what is out and with whom, and queries that wait for PostgreSQL."""

from __future__ import annotations

from hangwatch.integrations.asyncio_streams import address_text
from hangwatch.integrations.base import Desk, Look, Sighting, Spot
from hangwatch.reading.view import ObjectView, is_a, number
from hangwatch.records import Primitive

NAME = "asyncpg"
DISTRIBUTION = "asyncpg"
TESTED = ">=0.25,<1"

_POOL = "/asyncpg/pool.py"
_CONNECTION = "/asyncpg/connection.py"
#: What is made of one connection and keeps it; the pool and its slots are everybody's.
_THROUGH = ("asyncpg.pool.PoolConnectionProxy", "asyncpg.transaction.", "asyncpg.cursor.", "asyncpg.prepared_stmt.")
_LIMIT = 1000


def pool_primitive(pool: ObjectView, desk: Desk) -> Primitive:
    known = desk.known("pool", pool)
    if known is not None:
        return known
    capacity, queue, slots = number(pool, "_maxsize"), pool.attr("_queue"), pool.attr("_holders")
    out = [slot for slot in (slots.items(_LIMIT) if slots is not None else []) if _is_out(slot)]
    waiting = queue.attr("_getters") if queue is not None else None
    free = queue.attr("_queue") if queue is not None else None
    left = free.length() if free is not None else None
    pool_id = desk.id_of("pool", pool)
    primitive = Primitive(
        pool_id,
        "pool",
        f"asyncpg.Pool({capacity})",
        NAME,
        {"size": capacity, "in use": len(out), "waiting": waiting.length() if waiting is not None else None},
        ready=left > 0 if left is not None else None,
        capacity=capacity,
        in_use=len(out),
    )
    desk.add_primitive(primitive)
    for slot in out:
        for name in ("_proxy", "_con"):
            lent = slot.attr(name)
            if lent is not None and lent.value() is not None:
                desk.lend(pool_id, lent, _THROUGH)
                break
    return primitive


def _is_out(slot: ObjectView) -> bool:
    in_use = slot.attr("_in_use")
    return in_use is not None and in_use.value() is not None


def _acquire(look: Look) -> Sighting | None:
    pool = look.frame.local("self")
    if pool is None or not is_a(pool, "asyncpg.pool.Pool"):
        return None
    return Sighting(pool_primitive(pool, look.desk), "acquire")


def _query(look: Look) -> Sighting | None:
    connection = look.frame.local("self")
    if connection is None or not is_a(connection, "asyncpg.connection.Connection"):
        return None
    address = connection.attr("_addr")
    where = (address_text(address) if address is not None else None) or "PostgreSQL"
    label = f"PostgreSQL {where}" if where != "PostgreSQL" else where
    return Sighting(Primitive(look.desk.id_of("peer", connection), "peer", label, NAME, {"address": where}), look.frame.name)


def _held_context(context: ObjectView, desk: Desk) -> Primitive | None:
    """``async with pool.acquire()``: entered once it has its connection."""
    pool, connection = context.attr("pool"), context.attr("connection")
    if pool is None or connection is None or connection.value() is None:
        return None
    return pool_primitive(pool, desk)


WAITS = (
    Spot(_POOL, "_acquire", _acquire, target="asyncpg.pool:Pool._acquire"),
    Spot(_POOL, "_acquire_impl", _acquire),
    *(
        Spot(_CONNECTION, name, _query, target=f"asyncpg.connection:Connection.{name}")
        for name in ("execute", "executemany", "_execute", "_executemany", "_do_execute", "_get_statement")
    ),
)

HOLDS = {"asyncpg.pool.PoolAcquireContext": _held_context}
