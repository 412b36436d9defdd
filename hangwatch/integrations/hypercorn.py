"""hypercorn on asyncio: requests and connections, what reading and writing tasks wait for, its lifespan.

``receive`` is a queue's ``get`` and nothing more, so what it waits for is told when the request's task is seen: by then known is
whether the client's message is complete.
"""

from __future__ import annotations

from hangwatch.integrations import asgi
from hangwatch.integrations.asyncio import event_primitive, queue_primitive
from hangwatch.integrations.asyncio_streams import address_text, transport_state
from hangwatch.integrations.base import Look, Sighting, Spot
from hangwatch.reading.view import ObjectView, is_a, length, plain
from hangwatch.records import FOREVER, Connection, Plain, Primitive, Request

NAME = "hypercorn"
DISTRIBUTION = "hypercorn"
TESTED = ">=0.14,<1"

_TCP = "/hypercorn/asyncio/tcp_server.py"
_LIFESPAN = "/hypercorn/asyncio/lifespan.py"


def _owner(method: ObjectView | None) -> ObjectView | None:
    return method.attr("__self__") if method is not None else None


def _client(stream: ObjectView | None) -> str | None:
    client = stream.attr("client") if stream is not None else None
    return address_text(client) if client is not None else None


def _body_complete(protocol: ObjectView | None) -> bool | None:
    """By the state of h11's connection; None for HTTP/2 and websockets."""
    connection = protocol.attr("connection") if protocol is not None else None
    cstate = connection.attr("_cstate") if connection is not None else None
    states = cstate.attr("states") if cstate is not None else None
    for role, state in states.pairs(4) if states is not None else []:
        if plain(role, "__name__") == "CLIENT":
            return plain(state, "__name__") not in ("IDLE", "SEND_BODY")
    return None


def _handle(look: Look) -> Request | None:
    """The task of one request."""
    stream = _owner(look.frame.local("send"))
    if stream is None:
        return None
    protocol = _owner(stream.attr("send"))
    complete = _body_complete(protocol)
    state = plain(stream.attr("state"), "_name_")
    phases = {"CONNECTED": "responding", "RESPONSE": "responding", "TRAILERS": "responding", "CLOSED": "background"}
    _receives(look, complete)
    return asgi.request_of(
        look.desk.id_of("request", stream),
        look.frame.local("scope"),
        phases.get(str(state), "app" if complete is not False else "body"),
        look.desk.id_of("connection", protocol) if protocol is not None else None,
        look.waiter_id,
        complete,
    )


def _receives(look: Look, complete: bool | None) -> None:
    """By the request's task or by a child that listens for it (Quart's): who waits for the queue is its own affair."""
    queue = _owner(look.frame.local("receive"))
    if queue is None or not length(queue, "_getters"):
        return
    known = queue_primitive(queue, look.desk, "queue-get")
    if complete is False:
        look.desk.add_primitive(Primitive(known.id, "queue-get", "", NAME, {"body_complete": False}))
    else:
        look.desk.add_primitive(Primitive(known.id, "queue-get", "", NAME, {"body_complete": complete}, patience_ns=FOREVER))


def _connection(look: Look) -> None:
    server = look.frame.local("self")
    wrapper = server.attr("protocol") if server is not None else None
    if server is None or wrapper is None or not is_a(server, "hypercorn.asyncio.tcp_server.TCPServer"):
        return
    protocol = wrapper.attr("protocol") or wrapper
    writer = server.attr("writer")
    transport = writer.attr("_transport") if writer is not None else None
    state = transport_state(transport)
    unsent, address = state.get("unsent"), state.get("address")
    look.desk.add_connection(
        Connection(
            id=look.desk.id_of("connection", protocol),
            protocol=protocol.type_name.rpartition(".")[2].removesuffix("Protocol").lower() + " (hypercorn)",
            client=address if isinstance(address, str) else None,
            disconnected=state.get("closing") is True,
            write_paused=bool(unsent) and plain(transport, "_protocol_paused") is True,
            unsent_bytes=unsent if isinstance(unsent, int) else None,
        )
    )


def _reading(look: Look) -> Sighting | None:
    """The connection's own reader: idle between requests, and behind a request that is being answered."""
    server = look.frame.local("self")
    inner = look.chain[look.index + 1 :]
    if server is None or not is_a(server, "hypercorn.asyncio.tcp_server.TCPServer") or not inner:
        return None
    reads = any(frame.file.endswith("/asyncio/streams.py") for frame in inner)
    behind = any(frame.name == "_handle_events" for frame in inner)
    if not reads and not behind:
        return None
    label = "the next bytes of a peer's connection" if reads else "the end of the request before, to read on from its peer"
    return Sighting(Primitive(look.desk.id_of("peer", server), "peer", label, NAME, {"accepted": True}, patience_ns=FOREVER), "read")


def _sending(look: Look) -> Sighting | None:
    server = look.frame.local("self")
    if server is None or not is_a(server, "hypercorn.asyncio.tcp_server.TCPServer"):
        return None
    inner = look.chain[look.index + 1 :]
    if not any(frame.name == "drain" for frame in inner):
        return None
    writer = server.attr("writer")
    state: dict[str, Plain] = dict(transport_state(writer.attr("_transport") if writer is not None else None))
    label = f"client {state.get('address') or '(unknown)'} to read what was sent"
    return Sighting(Primitive(look.desk.id_of("client", server), "client", label, NAME, state), "drain")


def _lifespan_waits(look: Look) -> Sighting | None:
    lifespan = look.frame.local("self")
    phase = look.frame.name.removeprefix("wait_for_")
    event = lifespan.attr(phase) if lifespan is not None else None
    if event is None or not is_a(event, "asyncio.locks.Event"):
        return None
    known = event_primitive(event, look.desk)
    label = f"the application's {'start-up' if phase == 'startup' else 'shutdown'} event"
    return Sighting(Primitive(known.id, "event", label, NAME, {**known.state, "phase": phase}, ready=known.ready), phase)


def _lifespan_runs(look: Look) -> None:
    lifespan = look.frame.local("self")
    for phase in ("startup", "shutdown"):
        event = lifespan.attr(phase) if lifespan is not None else None
        if event is not None and plain(event, "_value") is False and length(event, "_waiters"):
            known = event_primitive(event, look.desk)
            look.desk.add_primitive(Primitive(known.id, "event", "", NAME, {"phase": phase}, holders=(look.waiter_id,), ready=known.ready))


def _lifespan_idle(look: Look) -> Sighting | None:
    lifespan = look.frame.local("self")
    queue = lifespan.attr("app_queue") if lifespan is not None else None
    if queue is None:
        return None
    known = queue_primitive(queue, look.desk, "queue-get")
    label = "the server's next lifespan message"
    return Sighting(Primitive(known.id, "queue-get", label, NAME, known.state, patience_ns=FOREVER, ready=known.ready), "receive")


_SERVER = "hypercorn.asyncio.tcp_server:TCPServer"
_SPAN = "hypercorn.asyncio.lifespan:Lifespan"
WAITS = (
    Spot(_TCP, "_read_data", _reading, target=f"{_SERVER}._read_data"),
    Spot(_TCP, "protocol_send", _sending, target=f"{_SERVER}.protocol_send"),
    Spot(_LIFESPAN, "wait_for_startup", _lifespan_waits, target=f"{_SPAN}.wait_for_startup"),
    Spot(_LIFESPAN, "wait_for_shutdown", _lifespan_waits, target=f"{_SPAN}.wait_for_shutdown"),
    Spot(_LIFESPAN, "asgi_receive", _lifespan_idle, target=f"{_SPAN}.asgi_receive"),
)

REQUESTS = (
    Spot("/hypercorn/asyncio/task_group.py", "_handle", _handle, target="hypercorn.asyncio.task_group:_handle"),
    Spot(_TCP, "run", _connection, target=f"{_SERVER}.run"),
    Spot(_LIFESPAN, "handle_lifespan", _lifespan_runs, target=f"{_SPAN}.handle_lifespan"),
)
