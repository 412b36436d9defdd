"""httpcore, under httpx: its pool with the requests that have a connection, and who still keeps their responses."""

from __future__ import annotations

from hangwatch.integrations.base import Desk, Look, Sighting, Spot
from hangwatch.reading.view import ObjectView, is_a, length, number
from hangwatch.records import Primitive

NAME = "httpcore"
DISTRIBUTION = "httpcore"
TESTED = ">=0.14,<2"

_FILE = "/httpcore/_async/connection_pool.py"
#: httpcore and httpx rename the modules of what they export.
_POOLS = ("httpcore.AsyncConnectionPool", "httpcore._async.connection_pool.AsyncConnectionPool")
#: From a response to the pool's stream; clients and transports are everybody's.
_THROUGH = (
    "httpx.Response", "httpx._models.Response", "httpx._client.BoundAsyncStream", "httpx._transports.default.AsyncResponseStream",
    "httpcore.Response", "httpcore._models.Response", "httpcore._async.connection_pool.PoolByteStream",
    "httpcore._async.connection_pool.ConnectionPoolByteStream",
)  # fmt: skip
_LIMIT = 1000
#: ``max_connections=None`` is ``sys.maxsize`` there.
_NO_LIMIT = 2**62


def pool_primitive(pool: ObjectView, desk: Desk) -> Primitive:
    known = desk.known("pool", pool)
    if known is not None:
        return known
    capacity, connections = number(pool, "_max_connections"), length(pool, "_connections")
    requests = pool.attr("_requests")
    served = [request for request in (requests.items(_LIMIT) if requests is not None else []) if _has_connection(request)]
    waiting = (requests.length() or 0) - len(served) if requests is not None else None
    pool_id = desk.id_of("pool", pool)
    limited = capacity is not None and capacity < _NO_LIMIT
    primitive = Primitive(
        pool_id,
        "pool",
        f"httpcore.AsyncConnectionPool({capacity if limited else 'no limit'})",
        NAME,
        {"size": capacity if limited else None, "connections": connections, "in use": len(served), "waiting": waiting},
        ready=connections < capacity if capacity is not None and connections is not None else None,
        capacity=capacity if limited else None,
        in_use=len(served),
    )
    desk.add_primitive(primitive)
    for request in served:
        desk.lend(pool_id, request, _THROUGH)
    return primitive


def _has_connection(request: ObjectView) -> bool:
    connection = request.attr("connection")
    return connection is not None and connection.value() is not None


def _wait_for_connection(look: Look) -> Sighting | None:
    """The request's own frame does not know the pool; the frame that calls it is the pool's."""
    caller = look.chain[look.index - 1] if look.index else None
    pool = caller.local("self") if caller is not None else None
    if pool is None or not is_a(pool, *_POOLS):
        return None
    return Sighting(pool_primitive(pool, look.desk), "wait_for_connection")


WAITS = (
    Spot(_FILE, "wait_for_connection", _wait_for_connection, target="httpcore._async.connection_pool:AsyncPoolRequest.wait_for_connection"),
)
