"""aiohttp, server and client: requests and their bodies, connections, the connector's limit, answers that do not come."""

from __future__ import annotations

from hangwatch.integrations.asyncio_streams import peer_of, transport_state
from hangwatch.integrations.asyncio_tasks import task_primitive
from hangwatch.integrations.base import Desk, Look, Sighting, Spot
from hangwatch.reading.view import ObjectView, is_a, length, number, plain
from hangwatch.records import FOREVER, Connection, Plain, Primitive, Request

NAME = "aiohttp"
DISTRIBUTION = "aiohttp"
TESTED = ">=3.8,<4"

_SERVER = "/aiohttp/web_protocol.py"
_CONNECTOR = "/aiohttp/connector.py"
_LIMIT = 1000
#: What may stand between a local and a connection that is out. Not the session nor the connector: everybody has those.
_THROUGH = ("aiohttp.client_reqrep.", "aiohttp.client._", "aiohttp.connector.Connection", "aiohttp.client_proto.")


def _known(state: dict[str, Plain]) -> dict[str, Plain]:
    return {name: value for name, value in state.items() if value is not None}


# Server


def _is_handler(obj: ObjectView | None) -> bool:
    return is_a(obj, "aiohttp.web_protocol.RequestHandler")


def route_of(request: ObjectView) -> str:
    """The pattern of its route, else its path."""
    match = request.attr("_match_info")
    route = match.attr("_route") if match is not None else None
    resource = route.attr("_resource") if route is not None else None
    for name in ("_path", "_formatter"):
        pattern = plain(resource, name)
        if isinstance(pattern, str):
            return pattern
    url = request.attr("_rel_url")
    path = plain(url, "_path")
    if isinstance(path, str):
        return path
    parts = url.attr("_val") if url is not None else None
    fields = parts.items(5) if parts is not None else []
    value = fields[2].value() if len(fields) > 2 else None
    return value if isinstance(value, str) else ""


def _request(request: ObjectView, handler: ObjectView, desk: Desk, task_id: str | None) -> Request:
    payload = request.attr("_payload")
    complete = plain(payload, "_eof") if payload is not None and "Empty" not in payload.type_name else True
    method = plain(request, "_method")
    # What reads the frames of a websocket is set when its handshake is done.
    parser = handler.attr("_payload_parser")
    upgraded = parser is not None and "WebSocketReader" in parser.type_name
    return Request(
        id=desk.id_of("request", request),
        connection_id=desk.id_of("connection", handler),
        task_id=task_id,
        method="WEBSOCKET" if upgraded else method if isinstance(method, str) else "",
        route=route_of(request),
        since_ns=None,
        phase="responding" if upgraded else "app" if complete is not False else "body",
        body_complete=complete if isinstance(complete, bool) else None,
    )


def _connection(handler: ObjectView, desk: Desk) -> Connection:
    transport = handler.attr("transport")
    state = transport_state(transport)
    unsent = state.get("unsent")
    return Connection(
        id=desk.id_of("connection", handler),
        protocol="http/1.1 (aiohttp)",
        client=peer_of(transport) if transport is not None else None,
        tls=transport is not None and "ssl" in transport.type_name.lower(),
        read_paused=plain(handler, "_reading_paused") is True,
        write_paused=plain(handler, "_paused") is True,
        disconnected=transport is None or state.get("closing") is True,
        unsent_bytes=unsent if isinstance(unsent, int) else None,
        queued=length(handler, "_messages") or 0,
    )


def _start(look: Look) -> Request | None:
    """One task for each connection; it takes its requests one after the other."""
    handler = look.frame.local("self")
    if handler is None or not _is_handler(handler):
        return None
    look.desk.add_connection(_connection(handler, look.desk))
    current = handler.attr("_current_request")
    return _request(current, handler, look.desk, look.waiter_id) if is_a(current, "aiohttp.web_request.BaseRequest") and current else None


def _handle(look: Look) -> Request | None:
    """The task in which the application's handler runs, which some releases make for each request."""
    handler, request = look.frame.local("self"), look.frame.local("request")
    if handler is None or request is None or not _is_handler(handler) or not is_a(request, "aiohttp.web_request.BaseRequest"):
        return None
    return _request(request, handler, look.desk, look.waiter_id)


def _between_requests(look: Look) -> Sighting | None:
    handler, awaited = look.frame.local("self"), look.awaited
    if handler is None or awaited is None or not _is_handler(handler) or look.index != len(look.chain) - 1:
        return None
    idle = handler.attr("_waiter")
    if idle is None or idle.id != awaited.id:
        is_task = is_a(awaited, "_asyncio.Task", "asyncio.tasks.Task")
        return Sighting(task_primitive(awaited, look.desk), "handle") if is_task else None
    queued = length(handler, "_messages")
    label = "the next request of a peer's connection"
    return Sighting(
        Primitive(
            look.desk.id_of("peer", handler),
            "peer",
            label,
            NAME,
            {"accepted": True, "queued": queued},
            patience_ns=FOREVER,
            ready=bool(queued),
        ),
        "start",
    )


# Bodies, of requests that we serve and of answers that we get


def _parser_of(protocol: ObjectView) -> ObjectView | None:
    for name in ("_request_parser", "_parser"):
        parser = protocol.attr(name)
        payload = parser.attr("_payload_parser") if parser is not None else None
        if payload is not None and payload.value() is not None:
            return payload
    return None


def _read(look: Look) -> Sighting | None:
    stream, desk = look.frame.local("self"), look.desk
    if stream is None or not is_a(stream, "aiohttp.streams.StreamReader"):
        return None
    protocol = stream.attr("_protocol")
    serves = _is_handler(protocol)
    transport = protocol.attr("transport") if protocol is not None else None
    state = {**transport_state(transport), "size": number(stream, "_size"), "eof": plain(stream, "_eof")}
    parser = _parser_of(protocol) if protocol is not None else None
    tail = (length(parser, "_chunk_tail") or 0) + (length(parser, "_tail") or 0) if parser is not None else 0
    if tail:
        state.update(chunk_tail=True, unparsed_bytes=tail)
    kind = "body" if serves else "peer"
    where = state.get("address") or "(unknown)"
    label = f"the request body of {where}" if serves else f"the answer's body from peer {where}"
    size = state["size"]
    ready = bool(size) or state["eof"] is True if size is not None else None
    return Sighting(Primitive(desk.id_of(kind, stream), kind, label, NAME, _known(state), ready=ready), look.frame.name.lstrip("_"))


def _drain(look: Look) -> Sighting | None:
    protocol = look.frame.local("self")
    if protocol is None or not is_a(protocol, "aiohttp.base_protocol.BaseProtocol"):
        return None
    transport = protocol.attr("transport")
    state: dict[str, Plain] = {**transport_state(transport), "write_paused": plain(protocol, "_paused")}
    kind = "client" if _is_handler(protocol) else "peer"
    label = f"{kind} {state.get('address') or '(unknown)'} to read what was sent"
    return Sighting(Primitive(look.desk.id_of(kind, protocol), kind, label, NAME, _known(state)), "drain")


def _websocket(look: Look) -> Sighting | None:
    """The next message may come late, or never."""
    socket = look.frame.local("self")
    if socket is None or not is_a(socket, "aiohttp.web_ws.WebSocketResponse", "aiohttp.client_ws.ClientWebSocketResponse"):
        return None
    label = "the next websocket message of a peer"
    return Sighting(Primitive(look.desk.id_of("peer", socket), "peer", label, NAME, patience_ns=FOREVER), "receive")


# Client


def _answer(look: Look) -> Sighting | None:
    response, connection = look.frame.local("self"), look.frame.local("connection")
    if response is None or not is_a(response, "aiohttp.client_reqrep.ClientResponse"):
        return None
    key = connection.attr("_key") if connection is not None else None
    where = ":".join(str(part.value()) for part in key.items(2)) if key is not None else None
    protocol = response.attr("_protocol")
    state = transport_state(protocol.attr("transport") if protocol is not None else None)
    label = f"the answer of peer {where or state.get('address') or '(unknown)'}"
    return Sighting(
        Primitive(look.desk.id_of("peer", response), "peer", label, NAME, _known({**state, "host": where, "limit_s": _limit_s(look)})),
        "start",
    )


def _limit_s(look: Look) -> float | int | None:
    """The client's own limit for the whole exchange; 300 s where nobody chose one."""
    outer = next(
        (frame for frame in reversed(look.chain[: look.index]) if frame.name == "_request" and frame.file.endswith("/aiohttp/client.py")),
        None,
    )
    limits = outer.local("real_timeout") if outer is not None else None
    total = plain(limits, "total")
    return total if isinstance(total, (int, float)) else None


def connector_primitive(connector: ObjectView, desk: Desk) -> Primitive:
    known = desk.known("pool", connector)
    if known is not None:
        return known
    limit, acquired = number(connector, "_limit"), connector.attr("_acquired")
    out = acquired.items(_LIMIT) if acquired is not None else []
    per_host = number(connector, "_limit_per_host") or None
    waiters = connector.attr("_waiters")
    waiting = sum(queue.length() or 0 for queue in waiters.items(_LIMIT)) if waiters is not None else None
    state: dict[str, Plain] = {"limit": limit, "limit per host": per_host, "acquired": len(out), "waiting": waiting}
    full = bool(limit) and len(out) >= (limit or 0)
    primitive = Primitive(
        desk.id_of("pool", connector),
        "pool",
        f"aiohttp connection pool ({connector.type_name.rpartition('.')[2]})",
        NAME,
        _known(state),
        ready=None if per_host and out else not full,
        capacity=limit or per_host,
        in_use=len(out),
    )
    desk.add_primitive(primitive)
    for protocol in out:
        desk.lend(primitive.id, protocol, _THROUGH)
    return primitive


def _connect(look: Look) -> Sighting | None:
    """Waits for a free slot, and not for the network."""
    connector = look.frame.local("self")
    inner = look.chain[look.index + 1 :]
    if connector is None or not is_a(connector, "aiohttp.connector.BaseConnector"):
        return None
    if inner and inner[0].name != "_wait_for_available_connection":
        return None
    return Sighting(connector_primitive(connector, look.desk), "connect")


WAITS = (
    Spot(_SERVER, "start", _between_requests, target="aiohttp.web_protocol:RequestHandler.start"),
    Spot("/aiohttp/streams.py", "_wait", _read, target="aiohttp.streams:StreamReader._wait"),
    Spot("/aiohttp/streams.py", "wait_eof", _read, target="aiohttp.streams:StreamReader.wait_eof"),
    Spot("/aiohttp/base_protocol.py", "_drain_helper", _drain, target="aiohttp.base_protocol:BaseProtocol._drain_helper"),
    Spot("/aiohttp/web_ws.py", "receive", _websocket, target="aiohttp.web_ws:WebSocketResponse.receive"),
    Spot("/aiohttp/client_ws.py", "receive", _websocket, target="aiohttp.client_ws:ClientWebSocketResponse.receive"),
    Spot("/aiohttp/client_reqrep.py", "start", _answer, target="aiohttp.client_reqrep:ClientResponse.start"),
    Spot(_CONNECTOR, "connect", _connect, target="aiohttp.connector:BaseConnector.connect"),
    Spot(_CONNECTOR, "_wait_for_available_connection", _connect, target="aiohttp.connector:BaseConnector._wait_for_available_connection"),
)

REQUESTS = (
    Spot(_SERVER, "start", _start, target="aiohttp.web_protocol:RequestHandler.start"),
    Spot(_SERVER, "_handle_request", _handle, target="aiohttp.web_protocol:RequestHandler._handle_request"),
)
