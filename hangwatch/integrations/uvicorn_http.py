"""uvicorn's HTTP requests: what a cycle waits for in ``receive`` and ``send``, and what its connection is.

A cycle (`RequestResponseCycle`) is one request; its protocol object is the connection. The classes differ between parsers, the
attributes that are read here do not, from 0.12.2 on.
"""

from __future__ import annotations

from hangwatch.integrations import asgi
from hangwatch.integrations.asyncio_streams import address_text, peer_of, unsent_bytes
from hangwatch.integrations.base import Desk, Look, Sighting
from hangwatch.reading.view import ObjectView, length, plain
from hangwatch.records import FOREVER, Connection, Plain, Primitive, Request

NAME = "uvicorn"
_PROTOCOLS = {
    "H11Protocol": "http/1.1 (h11)",
    "HttpToolsProtocol": "http/1.1 (httptools)",
    "ZttpProtocol": "http/1.1 (zttp)",
    "ZttpH2Protocol": "http/2 (zttp)",
    "WebSocketProtocol": "websocket (websockets)",
    "WebSocketsSansIOProtocol": "websocket (websockets-sansio)",
    "WSProtocol": "websocket (wsproto)",
}


def is_cycle(obj: ObjectView | None) -> bool:
    return obj is not None and any(name.endswith(".RequestResponseCycle") for name in obj.base_names)


def protocol_of(cycle: ObjectView) -> ObjectView | None:
    """The connection of a cycle: by the callback it will call at its end, or by its transport (uvloop's does not tell)."""
    callback = cycle.attr("on_response")
    owner = callback.attr("__self__") if callback is not None else None
    if owner is not None:
        return owner
    transport = cycle.attr("transport")
    return transport.attr("_protocol") if transport is not None else None


def client_of(protocol: ObjectView | None, cycle: ObjectView | None = None) -> str | None:
    client = protocol.attr("client") if protocol is not None else None
    found = address_text(client) if client is not None else None
    return found or (asgi.client_text(cycle.attr("scope")) if cycle is not None else None)


def phase_of(cycle: ObjectView) -> str:
    if plain(cycle, "response_complete"):
        return "background"
    if plain(cycle, "response_started"):
        return "responding"
    return "body" if plain(cycle, "more_body") else "app"


def request_of(cycle: ObjectView, desk: Desk, task_id: str | None, phase: str | None = None) -> Request | None:
    protocol = protocol_of(cycle)
    more = plain(cycle, "more_body")
    return asgi.request_of(
        desk.id_of("request", cycle),
        cycle.attr("scope"),
        phase or phase_of(cycle),
        desk.id_of("connection", protocol) if protocol is not None else None,
        task_id,
        None if more is None else not more,
    )


def connection_of(protocol: ObjectView, desk: Desk, queued: int = 0) -> Connection:
    transport, flow, cycle = protocol.attr("transport"), protocol.attr("flow"), protocol.attr("cycle")
    return Connection(
        id=desk.id_of("connection", protocol),
        protocol=next((text for name, text in _PROTOCOLS.items() if protocol.type_name.endswith(f".{name}")), protocol.type_name),
        client=client_of(protocol) or (peer_of(transport) if transport is not None else None),
        tls=plain(protocol, "scheme") in ("https", "wss"),
        read_paused=(plain(flow, "read_paused") if flow is not None else plain(protocol, "read_paused")) is True,
        write_paused=write_paused(protocol) is True,
        disconnected=plain(cycle, "disconnected") is True or plain(transport, "_closing") is True,
        unsent_bytes=unsent_bytes(transport) if transport is not None else None,
        queued=queued,
    )


def write_paused(protocol: ObjectView) -> bool | None:
    """By HTTP's flow control, or by the event that websocket protocols keep instead."""
    flow = protocol.attr("flow")
    if flow is not None:
        return plain(flow, "write_paused") is True
    writable = plain(protocol.attr("writable"), "_value")
    if writable is None:
        paused = plain(protocol, "_paused")  # of the websockets library's own protocol
        return paused if isinstance(paused, bool) else None
    return not writable


def client_primitive(owner: ObjectView, transport: ObjectView | None, client: str | None, desk: Desk, paused: bool | None) -> Primitive:
    """The client must read before more can be sent. ``ready``: sending is not paused (any more)."""
    state: dict[str, Plain] = {"address": client, "accepted": True, "write_paused": paused}
    if transport is not None:
        state["unsent"] = unsent_bytes(transport)
        state["closing"] = plain(transport, "_closing")
    label = f"client {client or '(unknown)'} to read what was sent"
    return Primitive(
        desk.id_of("client", transport or owner), "client", label, NAME, _known(state), ready=None if paused is None else not paused
    )


def receive(look: Look) -> Sighting | None:
    """``receive`` of a cycle: the request body, or, once that was handed over, the client's going away."""
    cycle = look.frame.local("self")
    if cycle is None or not is_cycle(cycle):
        return None
    state = _receive_state(cycle)
    over = bool(state["disconnected"] or state["response_complete"])
    meant = asgi.meant_for(look)
    undelivered = bool(state["body_bytes"]) or (meant == "body" and state["more_body"] is False)
    client = client_of(protocol_of(cycle), cycle) or "the client"
    if not over and (meant == "body" or undelivered or (state["more_body"] and meant is None)):
        ready = undelivered and state["message_event_set"] is False
        # Told apart only where it has done harm: on releases that share the event, every cycle's is shared.
        state["shared"] = True if ready and state["event_shared_with_protocol"] else None
        label = f"the request body of {client}"
        primitive = Primitive(look.desk.id_of("body", cycle), "body", label, NAME, _known(state), ready=ready)
    else:
        label = f"{client} to disconnect" if not over else "the message that its exchange is over (disconnect)"
        ready = over and state["message_event_set"] is False
        patience = None if over else FOREVER
        primitive = Primitive(
            look.desk.id_of("disconnect", cycle), "disconnect", label, NAME, _known(state), patience_ns=patience, ready=ready
        )
    return Sighting(primitive, "receive")


def _receive_state(cycle: ObjectView) -> dict[str, Plain]:
    event, protocol = cycle.attr("message_event"), protocol_of(cycle)
    common = protocol.attr("message_event") if protocol is not None else None
    flow = cycle.attr("flow")
    return {
        "message_event_set": plain(event, "_value"),
        "body_bytes": length(cycle, "body"),
        "more_body": plain(cycle, "more_body"),
        "event_shared_with_protocol": common is not None and event is not None and common.id == event.id,
        "response_started": plain(cycle, "response_started"),
        "response_complete": plain(cycle, "response_complete"),
        "disconnected": plain(cycle, "disconnected"),
        "waiting_for_100_continue": plain(cycle, "waiting_for_100_continue"),
        "read_paused": plain(flow, "read_paused"),
    }


def _known(state: dict[str, Plain]) -> dict[str, Plain]:
    return {name: value for name, value in state.items() if value is not None}


def send(look: Look) -> Sighting | None:
    """``send`` of a cycle blocks in flow control only."""
    cycle = look.frame.local("self")
    if cycle is None or not is_cycle(cycle):
        return None
    protocol, flow = protocol_of(cycle), cycle.attr("flow")
    paused = plain(flow, "write_paused")
    client = client_of(protocol, cycle)
    return Sighting(
        client_primitive(cycle, cycle.attr("transport"), client, look.desk, paused if isinstance(paused, bool) else None), "drain"
    )


def drain(look: Look) -> Sighting | None:
    """Flow control by itself, where the frame of ``send`` is not above it."""
    flow = look.frame.local("self")
    transport = flow.attr("_transport") if flow is not None else None
    if flow is None or not flow.type_name.endswith(".FlowControl"):
        return None
    paused = plain(flow, "write_paused")
    client = peer_of(transport) if transport is not None else None
    return Sighting(client_primitive(flow, transport, client, look.desk, paused if isinstance(paused, bool) else None), "drain")
