"""uvicorn: which request a task works for, what it waits for between the application and the client, every connection.

What is replaced in an agent is in `uvicorn_hooks`; here is only what frames and the server's own tables show, in any process.
"""

from __future__ import annotations

from hangwatch.integrations import uvicorn_http as http
from hangwatch.integrations import uvicorn_server as server
from hangwatch.integrations.base import Desk, Look, Spot
from hangwatch.reading.view import ObjectView, Reader, length, plain
from hangwatch.records import Primitive, Request

NAME = "uvicorn"
DISTRIBUTION = "uvicorn"
TESTED = ">=0.12.2,<1"

_CONNECTIONS_LIMIT = 20_000
_HTTP = ("h11_impl", "httptools_impl", "zttp_impl", "zttp_h2_impl")
_WEBSOCKETS = {
    "websockets_impl": ("WebSocketProtocol", "asgi_receive", "asgi_send"),
    "websockets_sansio_impl": ("WebSocketsSansIOProtocol", "receive", "send"),
    "wsproto_impl": ("WSProtocol", "receive", "send"),
}


def _run_asgi(look: Look) -> Request | None:
    cycle = look.frame.local("self")
    if cycle is None or not http.is_cycle(cycle):
        return None
    owner = http.protocol_of(cycle)
    if owner is not None and not plain(cycle, "response_complete"):
        server.notes(look.desk)["in_progress"][owner.id] = look.waiter_id
    return http.request_of(cycle, look.desk, look.waiter_id)


def _run_websocket(look: Look) -> Request | None:
    protocol = look.frame.local("self")
    return server.websocket_request(protocol, look.desk, look.waiter_id) if protocol is not None else None


def _of_cycle(look: Look) -> str | None:
    """A child task inside ``receive`` or ``send`` of a request works for that request."""
    cycle = look.frame.local("self")
    return look.desk.id_of("request", cycle) if cycle is not None and http.is_cycle(cycle) else None


def _http_spots() -> tuple[list[Spot], list[Spot]]:
    waits, requests = [], []
    for module in _HTTP:
        file, cycle = f"/uvicorn/protocols/http/{module}.py", f"uvicorn.protocols.http.{module}:RequestResponseCycle"
        waits += [Spot(file, "receive", http.receive, target=f"{cycle}.receive"), Spot(file, "send", http.send, target=f"{cycle}.send")]
        # Up to 0.16 flow control is in the same file.
        waits.append(Spot(file, "drain", http.drain))
        requests += [Spot(file, name, _of_cycle, target=f"{cycle}.{name}") for name in ("receive", "send")]
        requests.append(Spot(file, "run_asgi", _run_asgi, target=f"{cycle}.run_asgi"))
    return waits, requests


def _websocket_spots() -> tuple[list[Spot], list[Spot]]:
    waits, requests = [], []
    for module, (name, receive, send) in _WEBSOCKETS.items():
        file, protocol = f"/uvicorn/protocols/websockets/{module}.py", f"uvicorn.protocols.websockets.{module}:{name}"
        waits.append(Spot(file, receive, server.websocket_receive, target=f"{protocol}.{receive}"))
        waits.append(Spot(file, send, server.websocket_send, target=f"{protocol}.{send}"))
        requests.append(Spot(file, "run_asgi", _run_websocket, target=f"{protocol}.run_asgi"))
    file, protocol = "/uvicorn/protocols/websockets/websockets_impl.py", "uvicorn.protocols.websockets.websockets_impl:WebSocketProtocol"
    waits += [Spot(file, name, server.websocket_idle, target=f"{protocol}.{name}") for name in ("ws_handler", "process_request")]
    return waits, requests


def _server_spots() -> tuple[list[Spot], list[Spot]]:
    waits, requests = [], []
    # Server moved from main.py to server.py in 0.13; the older file is there without it.
    for file, target in (("/uvicorn/server.py", "uvicorn.server:Server"), ("/uvicorn/main.py", None)):
        waits.append(Spot(file, "main_loop", server.main_loop, target=target and f"{target}.main_loop"))
        waits.append(Spot(file, "shutdown", server.shutdown, target=target and f"{target}.shutdown"))
        requests.append(Spot(file, "serve", server.serving, target=target and f"{target}.serve"))
    waits.append(
        Spot("/uvicorn/server.py", "_wait_tasks_to_complete", server.shutdown, target="uvicorn.server:Server._wait_tasks_to_complete")
    )
    lifespan = "uvicorn.lifespan.on:LifespanOn"
    for name in ("startup", "shutdown"):
        waits.append(Spot("/uvicorn/lifespan/on.py", name, server.lifespan_wait, target=f"{lifespan}.{name}"))
    waits.append(Spot("/uvicorn/lifespan/on.py", "receive", server.lifespan_receive, target=f"{lifespan}.receive"))
    requests.append(Spot("/uvicorn/lifespan/on.py", "main", server.lifespan_runs, target=f"{lifespan}.main"))
    return waits, requests


_PARTS = (_http_spots(), _websocket_spots(), _server_spots())
WAITS = (
    *(spot for waits, _ in _PARTS for spot in waits),
    Spot("/uvicorn/protocols/http/flow_control.py", "drain", http.drain, target="uvicorn.protocols.http.flow_control:FlowControl.drain"),
)
REQUESTS = tuple(spot for _, requests in _PARTS for spot in requests)


def census(reader: Reader, desk: Desk) -> None:
    """Every connection, idle ones too, and the requests that were parsed and wait for their turn."""
    for found in server.notes(desk)["servers"].values():
        state = found.attr("server_state")
        connections = state.attr("connections") if state is not None else None
        for protocol in connections.items(_CONNECTIONS_LIMIT) if connections is not None else []:
            queued = _queued(protocol, desk)
            desk.add_connection(http.connection_of(protocol, desk, queued))
            reader.slice()


def _queued(protocol: ObjectView, desk: Desk) -> int:
    pipeline, current = protocol.attr("pipeline"), protocol.attr("cycle")
    cycles = [pair.items(1)[0] for pair in pipeline.items() if pair.length()] if pipeline is not None else []
    current_task = server.notes(desk)["in_progress"].get(protocol.id)
    running = (current_task,) if current_task else ()
    for cycle in cycles:
        request = http.request_of(cycle, desk, None, "queued")
        if request is None:
            continue
        desk.add_request(request)
        label = "its turn in the stream of requests of its connection"
        primitive = Primitive(desk.id_of("stream", protocol), "stream", label, NAME, {"queued": len(cycles)}, holders=running, ready=False)
        desk.add_primitive(primitive)
        desk.wait(request.id, primitive.id, "pipelined")
    return len(cycles) or _unparsed(protocol, current)


def _unparsed(protocol: ObjectView, cycle: ObjectView | None) -> int:
    """h11 does not parse ahead: what the client sent after a whole request lies in the parser's buffer."""
    buffer = protocol.attr("conn")
    held = length(buffer.attr("_receive_buffer"), "_data") if buffer is not None else None
    complete = plain(cycle, "more_body") is False and plain(cycle, "response_complete") is False
    return 1 if held and complete else 0
