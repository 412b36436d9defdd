"""gunicorn's own ASGI worker (25 and later): requests, their bodies, clients that do not read, idle connections.

Of its synchronous and its threaded worker: which request a thread works on. Its master has nothing to park.
"""

from __future__ import annotations

from hangwatch.integrations import asgi
from hangwatch.integrations.asyncio_streams import peer_of, transport_state
from hangwatch.integrations.asyncio_tasks import is_pending, is_task, task_id
from hangwatch.integrations.base import Look, Sighting, Spot
from hangwatch.reading.view import ObjectView, is_a, length, plain
from hangwatch.records import FOREVER, Connection, Plain, Primitive, Request

NAME = "gunicorn"
DISTRIBUTION = "gunicorn"
TESTED = ">=25,<28"

_FILE = "/gunicorn/asgi/protocol.py"
_MODULE = "gunicorn.asgi.protocol"
_PROTOCOL = f"{_MODULE}.ASGIProtocol"


def _known(state: dict[str, Plain]) -> dict[str, Plain]:
    return {name: value for name, value in state.items() if value is not None}


def _client(protocol: ObjectView | None) -> str:
    transport = protocol.attr("transport") if protocol is not None else None
    return (peer_of(transport) if transport is not None else None) or "(unknown)"


def _connection(look: Look) -> None:
    protocol = look.frame.local("self")
    if protocol is None or not is_a(protocol, _PROTOCOL):
        return
    state = transport_state(protocol.attr("transport"))
    flow, unsent = protocol.attr("_flow_control"), state.get("unsent")
    look.desk.add_connection(
        Connection(
            id=look.desk.id_of("connection", protocol),
            protocol="http/1.1 (gunicorn)",
            client=_client(protocol),
            tls=plain(protocol, "_is_ssl") is True,
            read_paused=plain(protocol, "_reading_paused") is True,
            write_paused=plain(flow, "write_paused") is True,
            disconnected=plain(protocol, "_closed") is True,
            unsent_bytes=unsent if isinstance(unsent, int) else None,
        )
    )


def _request(look: Look) -> Request | None:
    protocol, request = look.frame.local("self"), look.frame.local("request")
    if protocol is None or request is None or not is_a(protocol, _PROTOCOL):
        return None
    body = look.frame.local("body_receiver") or protocol.attr("_body_receiver")
    complete = plain(body, "_complete")
    phase = "responding" if _local(look, "response_started") else "app" if complete is not False else "body"
    return asgi.request_of(
        look.desk.id_of("request", request),
        look.frame.local("scope"),
        "background" if _local(look, "response_complete") else phase,
        look.desk.id_of("connection", protocol),
        look.waiter_id,
        complete if isinstance(complete, bool) else None,
    )


def _thread_request(look: Look) -> Request | None:
    request, connection = look.frame.local("req"), look.frame.local("conn") or look.frame.local("client")
    method, path = plain(request, "method"), plain(request, "path")
    if request is None or not isinstance(method, str) or not isinstance(path, str):
        return None
    return Request(
        id=look.desk.id_of("request", request),
        connection_id=look.desk.id_of("connection", connection) if connection is not None else None,
        task_id=look.waiter_id,
        method=method,
        route=path,
        since_ns=None,
        phase="app",
    )


def _local(look: Look, name: str) -> bool:
    found = look.frame.local(name)
    return found is not None and found.value() is True


def _body(look: Look) -> Sighting | None:
    receiver = look.frame.local("self")
    if receiver is None or not is_a(receiver, f"{_MODULE}.BodyReceiver"):
        return None
    protocol, chunks = receiver.attr("protocol"), length(receiver, "_chunks")
    complete = plain(receiver, "_complete")
    state: dict[str, Plain] = {
        "chunks": chunks,
        "complete": complete,
        "closed": plain(receiver, "_closed"),
        "expects_100_continue": _expects(receiver.attr("request")),
    }
    label = f"the request body of {_client(protocol)}"
    ready = bool(chunks) or complete is True
    return Sighting(Primitive(look.desk.id_of("body", receiver), "body", label, NAME, _known(state), ready=ready), "receive")


def _expects(request: ObjectView | None) -> bool | None:
    """The client said that it sends its body only after ``100 Continue``."""
    headers = request.attr("headers") if request is not None else None
    for pair in headers.items(200) if headers is not None else []:
        parts = [part.value() for part in pair.items(2)]
        words = [part.decode("ascii", "replace") if isinstance(part, bytes) else str(part) for part in parts]
        if len(words) == 2 and words[0].lower() == "expect" and words[1].lower() == "100-continue":
            return True
    return None


def _gone(look: Look) -> Sighting | None:
    receiver = look.frame.local("self")
    if receiver is None or not is_a(receiver, f"{_MODULE}.BodyReceiver"):
        return None
    label = f"{_client(receiver.attr('protocol'))} to disconnect"
    return Sighting(
        Primitive(
            look.desk.id_of("disconnect", receiver),
            "disconnect",
            label,
            NAME,
            patience_ns=FOREVER,
            ready=plain(receiver, "_closed") is True,
        ),
        "receive",
    )


def _drain(look: Look) -> Sighting | None:
    flow = look.frame.local("self")
    if flow is None or not is_a(flow, f"{_MODULE}.FlowControl"):
        return None
    transport = flow.attr("_transport")
    paused = plain(flow, "write_paused")
    state: dict[str, Plain] = {**transport_state(transport), "write_paused": paused}
    label = f"client {state.get('address') or '(unknown)'} to read what was sent"
    ready = None if paused is None else not paused
    return Sighting(Primitive(look.desk.id_of("client", flow), "client", label, NAME, _known(state), ready=ready), "drain")


def _idle(look: Look) -> Sighting | None:
    """A connection between two requests."""
    protocol = look.frame.local("self")
    inner = look.chain[look.index + 1 :]
    if protocol is None or not is_a(protocol, _PROTOCOL) or not inner or inner[0].name not in ("wait", "parse"):
        return None
    connection_id = look.desk.id_of("connection", protocol)
    if any(request.connection_id == connection_id for request in look.desk.known_requests()):
        return _without_end(protocol, look)
    label = f"the next request of peer {_client(protocol)}"
    return Sighting(Primitive(look.desk.id_of("peer", protocol), "peer", label, NAME, {"accepted": True}, patience_ns=FOREVER), "idle")


def _without_end(protocol: ObjectView, look: Look) -> Sighting:
    """No request is in progress, and yet one has no answer: the response's end was told by nothing (`gunicorn_hooks`)."""
    label = f"the end of its response, which peer {_client(protocol)} cannot see"
    state: dict[str, Plain] = {"response_framed": False}
    return Sighting(Primitive(look.desk.id_of("stream", protocol), "stream", label, NAME, state, ready=False), "idle")


def _serve(look: Look) -> Sighting | None:
    """Newer releases run each request in a task of its own, beside the connection's."""
    task, desk = look.frame.local("task"), look.desk
    if task is None or not is_task(task) or look.index != len(look.chain) - 1:
        return None
    pending = is_pending(task)
    holders = (task_id(task),) if pending else ()
    return Sighting(
        Primitive(desk.id_of("future", task), "task", "the task of a request", NAME, holders=holders, ready=not pending), "serve"
    )


WAITS = (
    Spot(_FILE, "_wait_for_data", _body, target=f"{_MODULE}:BodyReceiver._wait_for_data"),
    Spot(_FILE, "_wait_for_disconnect", _gone, target=f"{_MODULE}:BodyReceiver._wait_for_disconnect"),
    Spot(_FILE, "drain", _drain, target=f"{_MODULE}:FlowControl.drain"),
    Spot(_FILE, "_handle_connection", _idle, target=f"{_MODULE}:ASGIProtocol._handle_connection"),
    Spot(_FILE, "_serve_http_request", _serve, target=f"{_MODULE}:ASGIProtocol._serve_http_request"),
)

REQUESTS = (
    Spot(_FILE, "_handle_connection", _connection, target=f"{_MODULE}:ASGIProtocol._handle_connection"),
    Spot(_FILE, "_handle_http_request", _request, target=f"{_MODULE}:ASGIProtocol._handle_http_request"),
    Spot("/gunicorn/workers/gthread.py", "handle_request", _thread_request, target="gunicorn.workers.gthread:ThreadWorker.handle_request"),
    Spot("/gunicorn/workers/sync.py", "handle_request", _thread_request, target="gunicorn.workers.sync:SyncWorker.handle_request"),
)
