"""uvicorn's server: its main loop, its start-up and shutdown, the application's lifespan, and the websocket protocols."""

from __future__ import annotations

from typing import Any

from hangwatch.integrations import asgi, uvicorn_http
from hangwatch.integrations.asyncio import event_primitive, queue_primitive
from hangwatch.integrations.asyncio_tasks import is_task, task_id
from hangwatch.integrations.base import Desk, Look, Sighting
from hangwatch.reading.view import ObjectView, length, plain
from hangwatch.records import FOREVER, Plain, Primitive, Request

NAME = "uvicorn"
_TASKS_LIMIT = 10_000


def notes(desk: Desk) -> dict[str, Any]:
    """Servers, and the task of each connection's unanswered request, as the chains showed them; for the census."""
    found: dict[str, Any] = desk.memo.setdefault(__name__, {"servers": {}, "in_progress": {}})
    return found


def _is_server(obj: ObjectView | None) -> bool:
    return obj is not None and any(name in ("uvicorn.server.Server", "uvicorn.main.Server") for name in obj.base_names)


def serving(look: Look) -> None:
    """``Server.serve`` of any task: remembered, as its state names every connection and every request's task."""
    server = look.frame.local("self")
    if server is not None and _is_server(server):
        notes(look.desk)["servers"][server.id] = server


def main_loop(look: Look) -> Sighting | None:
    """The server's own tick sleeps again and again, for as long as it serves."""
    server = look.frame.local("self")
    if server is None or not _is_server(server):
        return None
    primitive = Primitive(look.desk.id_of("timer", server), "timer", "serving until told to stop", NAME, patience_ns=FOREVER)
    return Sighting(primitive, "main_loop")


def shutdown(look: Look) -> Sighting | None:
    """It polls until connections and tasks are gone (or awaits the listening sockets' end), then awaits the application's shutdown."""
    server = look.frame.local("self")
    inner = look.chain[look.index + 1 :]
    if server is None or not _is_server(server) or any(frame.file.endswith("/uvicorn/lifespan/on.py") for frame in inner):
        return None
    state = server.attr("server_state")
    tasks = state.attr("tasks") if state is not None else None
    connections = length(state, "connections")
    running = [task for task in tasks.items(_TASKS_LIMIT) if is_task(task)] if tasks is not None else []
    listening = any(frame.name == "wait_closed" for frame in inner)
    facts: dict[str, Plain] = {
        "connections": connections,
        "tasks": len(running),
        "waits_for_listening_sockets": listening,
        "timeout_graceful_shutdown": plain(server.attr("config"), "timeout_graceful_shutdown"),
    }
    facts = {name: value for name, value in facts.items() if value is not None}
    holders = tuple(task_id(task) for task in running)
    ready = connections == 0 and not running and not listening
    return Sighting(
        Primitive(look.desk.id_of("server-close", server), "server-close", "server-close", NAME, facts, holders=holders, ready=ready),
        "shutdown",
    )


def lifespan_wait(look: Look) -> Sighting | None:
    """The server waits for the application to say that it has started (or stopped)."""
    lifespan, phase = look.frame.local("self"), look.frame.name
    event = lifespan.attr(f"{phase}_event") if lifespan is not None else None
    if lifespan is None or event is None:
        return None
    known = event_primitive(event, look.desk)
    facts: dict[str, Plain] = {**known.state, "phase": phase, "failed": plain(lifespan, f"{phase}_failed")}
    facts = {name: value for name, value in facts.items() if value is not None}
    label = "the application's start-up event" if phase == "startup" else "the application's shutdown event"
    return Sighting(Primitive(known.id, "event", label, NAME, facts, ready=known.ready), phase)


def lifespan_runs(look: Look) -> None:
    """The task that runs the application's lifespan is the one to set the events of start-up and shutdown."""
    lifespan = look.frame.local("self")
    if lifespan is None or not lifespan.type_name.endswith(".LifespanOn"):
        return
    for name in ("startup_event", "shutdown_event"):
        event = lifespan.attr(name)
        if event is not None and plain(event, "_value") is False and length(event, "_waiters"):
            known = event_primitive(event, look.desk)
            label = f"the application's {'start-up' if name == 'startup_event' else 'shutdown'} event"
            look.desk.add_primitive(Primitive(known.id, "event", label, NAME, known.state, holders=(look.waiter_id,), ready=known.ready))


def lifespan_receive(look: Look) -> Sighting | None:
    """Started, the application's lifespan sleeps until the server stops."""
    lifespan = look.frame.local("self")
    queue = lifespan.attr("receive_queue") if lifespan is not None else None
    if queue is None:
        return None
    known = queue_primitive(queue, look.desk, "queue-get")
    return Sighting(
        Primitive(known.id, "queue-get", "the server's next lifespan message", NAME, known.state, patience_ns=FOREVER, ready=known.ready),
        "receive",
    )


# Websockets


def _is_websocket(obj: ObjectView | None) -> bool:
    endings = (".WebSocketProtocol", ".WebSocketsSansIOProtocol", ".WSProtocol")
    return obj is not None and any(name.startswith("uvicorn.") and name.endswith(endings) for name in obj.base_names)


def websocket_request(protocol: ObjectView, desk: Desk, waiter_id: str | None) -> Request | None:
    phase = "responding" if _accepted(protocol) else "app"
    return asgi.request_of(
        desk.id_of("request", protocol), protocol.attr("scope"), phase, desk.id_of("connection", protocol), waiter_id, body_complete=None
    )


def _accepted(protocol: ObjectView) -> bool:
    event = protocol.attr("handshake_completed_event")
    return bool(plain(event, "_value") if event is not None else plain(protocol, "handshake_complete"))


def websocket_receive(look: Look) -> Sighting | None:
    """The client's next message may come late, or never."""
    protocol = look.frame.local("self")
    if protocol is None or not _is_websocket(protocol):
        return None
    queue = protocol.attr("queue")
    client = uvicorn_http.client_of(protocol)
    state: dict[str, Plain] = {"accepted": True, "handshake": _accepted(protocol), "address": client}
    size = length(queue, "_queue") if queue is not None else None
    if size is not None:
        state["queued"] = size
    primitive = Primitive(
        look.desk.id_of("peer", protocol),
        "peer",
        f"the next websocket message of peer {client or '(unknown)'}",
        NAME,
        {name: value for name, value in state.items() if value is not None},
        patience_ns=FOREVER,
        ready=size > 0 if size is not None else None,
    )
    return Sighting(primitive, "receive")


def websocket_send(look: Look) -> Sighting | None:
    """Sending blocks while the client does not read."""
    protocol = look.frame.local("self")
    if protocol is None or not _is_websocket(protocol) or not _accepted(protocol):
        return None
    paused = uvicorn_http.write_paused(protocol)
    transport, client = protocol.attr("transport"), uvicorn_http.client_of(protocol)
    return Sighting(uvicorn_http.client_primitive(protocol, transport, client, look.desk, paused), "send")


def websocket_idle(look: Look) -> Sighting | None:
    """The websockets library's own task of a connection: there until the connection ends."""
    protocol = look.frame.local("self")
    if protocol is None or not _is_websocket(protocol):
        return None
    label = f"the end of the websocket of {uvicorn_http.client_of(protocol) or '(unknown)'}"
    return Sighting(Primitive(look.desk.id_of("other", protocol), "other", label, NAME, patience_ns=FOREVER), look.frame.name)
