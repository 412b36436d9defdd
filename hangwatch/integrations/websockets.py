"""The websockets library: idle connections, peers that do not read, closing; its asyncio, legacy and threaded implementations."""

from __future__ import annotations

from hangwatch.integrations.asyncio_streams import transport_state
from hangwatch.integrations.base import Look, Sighting, Spot
from hangwatch.reading.view import ObjectView, plain
from hangwatch.records import FOREVER, Plain, Primitive, Request

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
        Primitive(look.desk.id_of("stream", connection), "stream", "a websocket's connection stream to end", NAME, patience_ns=FOREVER),
        "wait_closed",
    )


def _close(look: Look) -> Sighting | None:
    """The closing handshake, which has a time limit of its own."""
    connection = _connection(look)
    if connection is None:
        return None
    state: dict[str, Plain] = {"close_timeout": plain(connection, "close_timeout")}
    kind = "client" if _serves(connection) else "peer"
    return Sighting(Primitive(look.desk.id_of(kind, connection), kind, f"the {kind} to close its websocket", NAME, state), "close")


def _served(look: Look) -> Request | None:
    """The thread of one connection of the threading server. What it works on is the connection, for as long as that lives."""
    connection = look.frame.local("connection")
    if connection is None or not any(name.startswith("websockets.") for name in connection.base_names):
        return None
    _closes_unread(connection, look)
    path = plain(connection.attr("request"), "path")
    return Request(
        id=look.desk.id_of("request", connection),
        connection_id=look.desk.id_of("connection", connection),
        task_id=look.waiter_id,
        method="WEBSOCKET",
        route=path.partition("?")[0] if isinstance(path, str) else "",
        since_ns=None,
        phase="responding"
        if any(not frame.file.endswith("/websockets/sync/server.py") for frame in look.chain[look.index + 1 :])
        else "app",
    )


def _closes_unread(connection: ObjectView, look: Look) -> None:
    """This thread would have to fetch the message, and closes the connection instead."""
    assembler = connection.attr("recv_messages")
    event = assembler.attr("message_fetched") if assembler is not None else None
    if event is not None and any(frame.name == "send_context" and frame.file.endswith(_SYNC) for frame in look.chain):
        look.desk.add_primitive(Primitive(look.desk.id_of("thread-event", event), "thread-event", "", NAME, holders=(look.waiter_id,)))


def _unread(look: Look) -> Sighting | None:
    """The connection's own thread has a message, which the application has not fetched."""
    assembler = look.frame.local("self")
    event = assembler.attr("message_fetched") if assembler is not None else None
    if assembler is None or event is None:
        return None
    state: dict[str, Plain] = {"fetched": plain(event, "_flag")}
    return Sighting(
        Primitive(look.desk.id_of("thread-event", event), "thread-event", "the application to fetch a websocket's message", NAME, state),
        "put",
    )


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
    # Up to 13 the receiving thread waits until each message is fetched.
    Spot("/websockets/sync/messages.py", "put", _unread),
)

#: A function inside of ``serve``, whose name changed.
REQUESTS = tuple(
    Spot("/websockets/sync/server.py", name, _served, target="websockets.sync.server:serve") for name in ("conn_handler", "sock_handler")
)
