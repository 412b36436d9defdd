"""redis-py on asyncio: its connection pools with what is out and with whom, and replies that a server owes."""

from __future__ import annotations

from hangwatch.integrations.base import Desk, Look, Sighting, Spot
from hangwatch.reading.view import ObjectView, is_a, number, plain
from hangwatch.records import FOREVER, Plain, Primitive

NAME = "redis"
DISTRIBUTION = "redis"
TESTED = ">=4.2,<9"

_CONNECTION = "/redis/asyncio/connection.py"
_CLIENT = "/redis/asyncio/client.py"
#: Commands for which the server may keep its answer back until there is something to tell.
_BLOCKING = frozenset({
    "BLPOP", "BRPOP", "BRPOPLPUSH", "BLMOVE", "BLMPOP", "BZPOPMIN", "BZPOPMAX", "BZMPOP", "XREAD", "XREADGROUP", "SUBSCRIBE", "PSUBSCRIBE", "MONITOR",
})  # fmt: skip
_POOL = "redis.asyncio.connection.ConnectionPool"
#: What is made for one user and keeps a connection; the client and its pool are everybody's.
_THROUGH = (
    "redis.asyncio.client.Pipeline",
    "redis.asyncio.client.PubSub",
    "redis.asyncio.client.Monitor",
    "redis.asyncio.cluster.ClusterPipeline",
)
_LIMIT = 1000


def pool_primitive(pool: ObjectView, desk: Desk) -> Primitive:
    known = desk.known("pool", pool)
    if known is not None:
        return known
    capacity, out, free = number(pool, "max_connections"), pool.attr("_in_use_connections"), pool.attr("_available_connections")
    lent = out.items(_LIMIT) if out is not None else []
    left = free.length() if free is not None else None
    settings = pool.attr("connection_kwargs")
    port = next((value.value() for key, value in settings.pairs(50) if key.value() == "port"), None) if settings is not None else None
    pool_id = desk.id_of("pool", pool)
    state: dict[str, Plain] = {
        "size": capacity,
        "in use": len(lent),
        "available": left,
        "server port": port if isinstance(port, int) else None,
    }
    primitive = Primitive(
        pool_id,
        "pool",
        f"{pool.type_name.rpartition('.')[2]}({capacity})",
        NAME,
        state,
        ready=bool(left) or len(lent) < capacity if capacity is not None else None,
        capacity=capacity,
        in_use=len(lent),
    )
    desk.add_primitive(primitive)
    for connection in lent:
        desk.lend(pool_id, connection, _THROUGH)
    return primitive


def _get_connection(look: Look) -> Sighting | None:
    """The pool's own wait: what it does with a connection that it has (connect, health check) is a wait for the server."""
    pool = look.frame.local("self")
    deeper = {frame.name for frame in look.chain[look.index + 1 :]}
    if pool is None or not is_a(pool, _POOL) or deeper & {"connect", "ensure_connection", "read_response", "check_health"}:
        return None
    return Sighting(pool_primitive(pool, look.desk), "get_connection")


def _reply(look: Look) -> Sighting | None:
    connection = look.frame.local("self")
    if connection is None or not is_a(connection, "redis.asyncio.connection.AbstractConnection"):
        return None
    host, port = plain(connection, "host"), plain(connection, "port")
    where = f"{host}:{port}" if host else str(plain(connection, "path") or "")
    patience = FOREVER if look.frame.name == "read_response" and _may_last(look) else None
    primitive = Primitive(
        look.desk.id_of("peer", connection), "peer", f"Redis {where}".strip(), NAME, {"address": where}, patience_ns=patience
    )
    return Sighting(primitive, look.frame.name)


def _may_last(look: Look) -> bool:
    """A subscription waits for whatever is published, a command like BLPOP for whatever is pushed: both may rightly take for ever."""
    for frame in look.chain[: look.index]:
        if not frame.file.endswith(_CLIENT):
            continue
        client = frame.local("self")
        if client is not None and is_a(client, "redis.asyncio.client.PubSub", "redis.asyncio.client.Monitor"):
            return True
        name = frame.local("command_name")
        command = name.value() if name is not None else None
        if isinstance(command, bytes):
            command = command.decode("ascii", "replace")
        if isinstance(command, str) and command.split(" ")[0].upper() in _BLOCKING:
            return True
    return False


WAITS = (
    Spot(_CONNECTION, "get_connection", _get_connection, target="redis.asyncio.connection:BlockingConnectionPool.get_connection"),
    Spot(_CONNECTION, "read_response", _reply, target="redis.asyncio.connection:AbstractConnection.read_response"),
    Spot(_CONNECTION, "connect", _reply, target="redis.asyncio.connection:AbstractConnection.connect"),
)
