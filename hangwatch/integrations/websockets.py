"""The websockets library: idle connections, peers that do not read, closing; its asyncio, legacy and threaded implementations."""

from __future__ import annotations

from hangwatch.integrations.asyncio_streams import transport_state
from hangwatch.integrations.base import Look, Sighting, Spot
from hangwatch.reading.view import ObjectView, plain
from hangwatch.records import FOREVER, Plain, Primitive

NAME = "websockets"
DISTRIBUTION = "websockets"
TESTED = ">=10,<18"

_NEW, _LEGACY, _SYNC = "/websockets/asyncio/connection.py", "/websockets/legacy/protocol.py", "/websockets/sync/connection.py"


def _connection(look: Look) -> ObjectView | None:
    found = look.frame.local("self")
    return found if found is not None and any(name.startswith("websockets.") for name in found.base_names) else None


def _serves(connection: ObjectView) -> bool:
    return any("Server" in name for name in connection.base_names)


def _message(look: Look) -> Sighting | None:
    """The next message may come late, or never."""
    connection = _connection(look)
    if connection is None:
        return None
    state: dict[str, Plain] = dict(transport_state(connection.attr("transport")))
    label = f"the next websocket message of peer {state.get('address') or ''}".strip()
    return Sighting(Primitive(look.desk.id_of("peer", connection), "peer", label, NAME, state, patience_ns=FOREVER), look.frame.name)


def _drain(look: Look) -> Sighting | None:
    connection = _connection(look)
    if connection is None:
        return None
    paused = plain(connection, "paused")
    if paused is None:
        paused = plain(connection, "_paused")
    state: dict[str, Plain] = {**transport_state(connection.attr("transport")), "write_paused": paused}
    kind = "client" if _serves(connection) else "peer"
    label = f"{kind} {state.get('address') or '(unknown)'} to read what was sent"
    ready = not paused if isinstance(paused, bool) else None
    return Sighting(Primitive(look.desk.id_of(kind, connection), kind, label, NAME, state, ready=ready), "drain")


def _end(look: Look) -> Sighting | None:
    """Somebody waits for a connection to end, whenever that may be."""
    connection = _connection(look)
    if connection is None:
        return None
    return Sighting(
        Primitive(look.desk.id_of("stream", connection), "stream", "a websocket's connection stream to end", NAME, patience_ns=FOREVER), "wait_closed"
    )


def _close(look: Look) -> Sighting | None:
    """The closing handshake, which has a time limit of its own."""
    connection = _connection(look)
    if connection is None:
        return None
    state: dict[str, Plain] = {"close_timeout": plain(connection, "close_timeout")}
    kind = "client" if _serves(connection) else "peer"
    return Sighting(Primitive(look.desk.id_of(kind, connection), kind, f"the {kind} to close its websocket", NAME, state), "close")


WAITS = (
    Spot(_NEW, "recv", _message, target="websockets.asyncio.connection:Connection.recv"),
    Spot(_NEW, "drain", _drain, target="websockets.asyncio.connection:Connection.drain"),
    Spot(_NEW, "close", _close, target="websockets.asyncio.connection:Connection.close"),
    Spot(_NEW, "wait_closed", _end, target="websockets.asyncio.connection:Connection.wait_closed"),
    Spot(_LEGACY, "recv", _message, target="websockets.legacy.protocol:WebSocketCommonProtocol.recv"),
    Spot(_LEGACY, "transfer_data", _message, target="websockets.legacy.protocol:WebSocketCommonProtocol.transfer_data"),
    Spot(_LEGACY, "_drain", _drain, target="websockets.legacy.protocol:WebSocketCommonProtocol._drain"),
    Spot(_LEGACY, "close_connection", _end, target="websockets.legacy.protocol:WebSocketCommonProtocol.close_connection"),
    Spot(_LEGACY, "wait_closed", _end, target="websockets.legacy.protocol:WebSocketCommonProtocol.wait_closed"),
    Spot(_SYNC, "recv", _message, target="websockets.sync.connection:Connection.recv"),
)
