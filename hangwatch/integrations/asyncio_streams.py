"""asyncio's streams, sockets, subprocesses and servers: waits that somebody outside this process ends."""

from __future__ import annotations

from hangwatch.integrations import executors
from hangwatch.integrations.base import Desk, Look, Sighting, Spot
from hangwatch.reading.view import ObjectView, is_a, length, number, plain
from hangwatch.records import FOREVER, Plain, Primitive

NAME = "asyncio"
_STREAMS = "asyncio/streams.py"
_SUBPROCESS = "asyncio/subprocess.py"
_SELECTOR = "asyncio/selector_events.py"
_BASE = "asyncio/base_events.py"


def transport_state(transport: ObjectView | None) -> dict[str, Plain]:
    """Plain facts of a transport: its peer, whether we accepted it, whether it is closing, what is still unsent."""
    if transport is None:
        return {}
    state: dict[str, Plain] = {
        "address": peer_of(transport),
        "accepted": is_accepted(transport),
        "closing": plain(transport, "_closing") if transport.attr("_closing") is not None else None,
        "reading paused": plain(transport, "_paused"),
        "unsent": unsent_bytes(transport),
    }
    return {name: value for name, value in state.items() if value is not None}


def is_accepted(transport: ObjectView) -> bool | None:
    """Did a server of this process accept it? None where the transport does not tell (uvloop)."""
    server = transport.attr("_server")
    return None if server is None else server.value() is not None


def peer_of(transport: ObjectView) -> str | None:
    """``10.0.0.1:443`` of a transport, from what it noted when it connected, or from its socket."""
    extra = transport.attr("_extra")
    for key, value in extra.pairs(20) if extra is not None else []:
        if key.value() == "peername":
            return address_text(value)
    sock = transport.attr("_sock")
    return socket_peer(sock) if sock is not None else None


def socket_peer(sock: ObjectView) -> str | None:
    inner = sock.attr("_sock")  # asyncio.trsock.TransportSocket
    peer = plain(inner or sock, "peername")
    return peer if isinstance(peer, str) else None


def address_text(address: ObjectView) -> str | None:
    parts = [str(item.value()) for item in address.items(2)]
    if len(parts) == 2:
        return f"[{parts[0]}]:{parts[1]}" if ":" in parts[0] else f"{parts[0]}:{parts[1]}"
    whole = address.value()
    return whole if isinstance(whole, str) and whole else None


def unsent_bytes(transport: ObjectView) -> int | None:
    """Bytes in the transport's write buffer: one bytearray up to 3.11, a deque of pieces from 3.12 on."""
    buffer = transport.attr("_buffer")
    if buffer is None:
        return None
    if buffer.type_name == "bytearray":
        return buffer.length()
    return sum(piece.length() or 0 for piece in buffer.items(10_000))


def _read(look: Look) -> Sighting | None:
    reader = look.frame.local("self")
    if reader is None or not is_a(reader, "asyncio.streams.StreamReader"):
        return None
    transport = reader.attr("_transport")
    state: dict[str, Plain] = {"buffered": length(reader, "_buffer"), "eof": plain(reader, "_eof"), **transport_state(transport)}
    pipe = transport is not None and "Pipe" in transport.type_name
    ready = plain(reader, "_eof") is True or None
    where = state.get("address")
    label = "a pipe" if pipe else f"bytes from {where}" if where else "bytes from a peer"
    primitive = Primitive(look.desk.id_of("peer", reader), "pipe" if pipe else "peer", label, NAME, state, ready=ready)
    return Sighting(primitive, look.frame.name.lstrip("_"))


def _drain(look: Look) -> Sighting | None:
    protocol = look.frame.local("self")
    transport = protocol.attr("_transport") if protocol is not None else None
    if protocol is None or transport is None:
        return None
    return _write_wait(look, protocol, transport)


def _drain_helper(look: Look) -> Sighting | None:
    protocol = look.frame.local("self")
    if protocol is None or not is_a(protocol, "asyncio.streams.FlowControlMixin"):
        return None
    outer = look.chain[look.index - 1].local("self") if look.index else None
    transport = outer.attr("_transport") if outer is not None else None
    return _write_wait(look, protocol, transport)


def _write_wait(look: Look, owner: ObjectView, transport: ObjectView | None) -> Sighting:
    state = transport_state(transport)
    kind = "client" if state.get("accepted") else "peer"
    label = f"{state.get('address') or 'the other side'} to read what was sent"
    return Sighting(Primitive(look.desk.id_of(kind, transport or owner), kind, label, NAME, state), "drain")


def _closed(look: Look) -> Sighting | None:
    writer = look.frame.local("self")
    if writer is None or not is_a(writer, "asyncio.streams.StreamWriter"):
        return None
    transport = writer.attr("_transport")
    state = transport_state(transport)
    return Sighting(Primitive(look.desk.id_of("stream", writer), "stream", "a stream to close", NAME, state), "wait_closed")


def process_primitive(process: ObjectView, desk: Desk) -> Primitive:
    """A subprocess.Process, or its transport."""
    transport = process.attr("_transport") or process
    returned = number(transport, "_returncode")
    state: dict[str, Plain] = {"pid": number(transport, "_pid"), "returncode": returned}
    for name in ("stdout", "stderr"):
        reader = process.attr(name)
        # Paused: our side has read twice its limit ahead of a reader that never came, and leaves the rest in the pipe.
        if reader is not None and plain(reader, "_paused") is True:
            state[f"{name} unread"] = length(reader, "_buffer")
    label = f"process {state['pid']}" if state["pid"] else "a process"
    return Primitive(desk.id_of("process", transport), "process", label, NAME, state, ready=True if returned is not None else None)


def _process(look: Look) -> Sighting | None:
    process = look.frame.local("self")
    if not is_a(process, "asyncio.subprocess.Process", "asyncio.base_subprocess.BaseSubprocessTransport") or process is None:
        return None
    return Sighting(process_primitive(process, look.desk), look.frame.name.lstrip("_"))


def _socket(look: Look) -> Sighting | None:
    sock = look.frame.local("sock")
    if sock is None:
        return None
    op = look.frame.name.removeprefix("sock_")
    where = socket_peer(sock)
    accepting = op == "accept"
    label = "a new connection" if accepting else f"the peer {where}" if where else "a socket"
    state: dict[str, Plain] = {"address": where or _target(look)}
    patience = FOREVER if accepting else None
    return Sighting(Primitive(look.desk.id_of("peer", sock), "peer", label, NAME, state, patience_ns=patience), op)


def _target(look: Look) -> str | None:
    address = look.frame.local("address")
    return address_text(address) if address is not None else None


def _handshake(look: Look) -> Sighting | None:
    transport = look.frame.local("transport")
    if transport is None:
        return None
    state = transport_state(transport)
    label = f"{state.get('address') or 'the peer'} to finish connecting"
    return Sighting(Primitive(look.desk.id_of("peer", transport), "peer", label, NAME, state), "connect")


def _server_closed(look: Look) -> Sighting | None:
    server = look.frame.local("self")
    if server is None or not is_a(server, "asyncio.base_events.Server"):
        return None
    clients = server.attr("_clients")  # 3.13+; a count before
    count = len(clients.items(10_000)) if clients is not None else number(server, "_active_count")
    state: dict[str, Plain] = {"connections": count}
    ready = count == 0 if count is not None else None
    primitive = Primitive(look.desk.id_of("server-close", server), "server-close", "open connections to end", NAME, state, ready=ready)
    return Sighting(primitive, "wait_closed")


def _serve_forever(look: Look) -> Sighting | None:
    server = look.frame.local("self")
    if server is None or not is_a(server, "asyncio.base_events.Server"):
        return None
    primitive = Primitive(look.desk.id_of("other", server), "other", "serving until told to stop", NAME, patience_ns=FOREVER)
    return Sighting(primitive, "serve_forever")


def _lookup(look: Look) -> Sighting | None:
    """A name look-up is a job in the default thread pool, behind everything else that was put there."""
    from hangwatch.integrations.asyncio_tasks import awaited

    if look.awaited is None or look.index != len(look.chain) - 1:
        return None
    return Sighting(awaited(look.awaited, look.desk).primitive, look.frame.name)


def _executor_shutdown(look: Look) -> Sighting | None:
    loop = look.frame.local("self")
    executor = loop.attr("_default_executor") if loop is not None else None
    if executor is None:
        return None
    state: dict[str, Plain] = {"threads": length(executor, "_threads")}
    busy = tuple(f"thread:{native_id}" for native_id in executors.busy_in(executor, look.desk))
    label = "the default thread pool to finish"
    return Sighting(Primitive(look.desk.id_of("executor", executor), "executor", label, NAME, state, holders=busy), "shutdown")


_READS = ("read", "readline", "readuntil", "readexactly", "_wait_for_data")
_SOCKET_OPS = ("sock_recv", "sock_recv_into", "sock_sendall", "sock_connect", "sock_accept")
_DATAGRAM_OPS = ("sock_recvfrom", "sock_recvfrom_into", "sock_sendto")

WAITS = (
    *(Spot(_STREAMS, name, _read, target=f"asyncio.streams:StreamReader.{name}") for name in _READS),
    Spot(_STREAMS, "_drain_helper", _drain_helper, target="asyncio.streams:FlowControlMixin._drain_helper"),
    Spot(_STREAMS, "drain", _drain, target="asyncio.streams:StreamWriter.drain"),
    Spot(_STREAMS, "wait_closed", _closed, target="asyncio.streams:StreamWriter.wait_closed"),
    Spot(_SUBPROCESS, "wait", _process, target="asyncio.subprocess:Process.wait"),
    Spot(_SUBPROCESS, "communicate", _process, target="asyncio.subprocess:Process.communicate"),
    Spot("asyncio/base_subprocess.py", "_wait", _process, target="asyncio.base_subprocess:BaseSubprocessTransport._wait"),
    *(Spot(_SELECTOR, name, _socket, target=f"asyncio.selector_events:BaseSelectorEventLoop.{name}") for name in _SOCKET_OPS),
    *(
        Spot(_SELECTOR, name, _socket, target=f"asyncio.selector_events:BaseSelectorEventLoop.{name}", since="3.11")
        for name in _DATAGRAM_OPS
    ),
    Spot(_BASE, "_create_connection_transport", _handshake, target="asyncio.base_events:BaseEventLoop._create_connection_transport"),
    Spot(_BASE, "getaddrinfo", _lookup, target="asyncio.base_events:BaseEventLoop.getaddrinfo"),
    Spot(_BASE, "getnameinfo", _lookup, target="asyncio.base_events:BaseEventLoop.getnameinfo"),
    Spot(_BASE, "wait_closed", _server_closed, target="asyncio.base_events:Server.wait_closed"),
    Spot(_BASE, "serve_forever", _serve_forever, target="asyncio.base_events:Server.serve_forever"),
    Spot(_BASE, "shutdown_default_executor", _executor_shutdown, target="asyncio.base_events:BaseEventLoop.shutdown_default_executor"),
)
