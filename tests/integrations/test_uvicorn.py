"""A real uvicorn with each of its parsers: what requests wait for, which requests there are, who waits behind whom."""

from __future__ import annotations

import asyncio
import threading

import pytest

from hangwatch.graph import WaitGraph
from hangwatch.records import FOREVER
from tests.integrations.stage import client, look, loop_running, parked, uvicorn_running, when

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HEADERS = f"Host: t\r\ntraceparent: {TRACE}\r\n"


async def lifespan(receive, send):
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


async def read_body(receive):
    while (await receive()).get("more_body"):
        pass


async def wait_for_ever(receive):
    await asyncio.Event().wait()


async def answer_and_wait(send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})
    await asyncio.Event().wait()


async def pour(send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await asyncio.sleep(0)  # once the client is gone, send() comes back at once


async def talk(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def shout(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        await send({"type": "websocket.send", "bytes": b"x" * 65536})
        await asyncio.sleep(0)


async def app(scope, receive, send):
    path = scope.get("path")
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await (shout if path == "/shout" else talk)(receive, send)
    elif path == "/upload":
        await read_body(receive)
        await answer_and_wait(send)
    elif path == "/watch":
        await read_body(receive)
        await read_body(receive)
    elif path == "/pour":
        await pour(send)
    else:
        await (answer_and_wait(send) if path == "/background" else wait_for_ever(receive))


@pytest.fixture(params=["h11", "httptools", "zttp"])
def port(request):
    if request.param != "h11":
        pytest.importorskip(request.param)
    with uvicorn_running(app, http=request.param) as number:
        yield number


def http(method: str, path: str, headers: str = "", body: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\n{HEADERS}{headers}\r\n{body}".encode()


def test_upload_that_stops_half_way(port):
    with client(port, http("POST", "/upload?token=secret", "Content-Length: 10\r\n", "half")):
        seen = parked("read_body", "body")
        body = seen.awaited_by("read_body")
        assert body.ready is False
        assert (body.state["more_body"], body.state["body_bytes"], body.state["message_event_set"]) == (True, 0, False)
        assert "shared" not in body.state
        request = seen.request("/upload")
        assert (request.method, request.phase, request.body_complete, request.task_id) == ("POST", "body", False, seen.of("read_body").id)
        assert (request.trace_id, request.span_id, request.sampled) == (TRACE[3:35], TRACE[36:52], True)
        (connection,) = seen.taken.connections
        assert request.connection_id == connection.id
        assert connection.client.startswith("127.0.0.1:")
        assert not connection.disconnected


def test_waiting_for_the_client_to_go_may_last(port):
    with client(port, http("GET", "/watch")):
        gone = parked("read_body", "disconnect").awaited_by("read_body")
        assert (gone.patience_ns, gone.ready) == (FOREVER, False)


def test_client_that_does_not_read(port):
    with client(port, http("GET", "/pour"), small=True):
        seen = parked("pour", "client")
        slow = seen.awaited_by("pour")
        assert slow.state["write_paused"] is True
        assert slow.state["unsent"] > 0
        assert slow.ready is False
        (connection,) = seen.taken.connections
        assert connection.write_paused
        assert connection.unsent_bytes > 0
        assert seen.request("/pour").phase == "responding"


def test_background_of_an_answered_request(port):
    with client(port, http("GET", "/background")) as sock:
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
        request = parked("answer_and_wait", "event").request("/background")
        assert request.phase == "background"


def test_pipelined_request_waits_for_the_one_before(port, request):
    if "zttp" in request.node.name:
        pytest.skip("zttp keeps what comes early in memory of its own, which nobody can read")
    with client(port, http("GET", "/first") + http("GET", "/second")):
        seen = when(lambda now: now.request("/first") and now.taken.connections and now.taken.connections[0].queued)
        (connection,) = seen.taken.connections
        assert connection.queued == 1
        first, second = seen.request("/first"), seen.request("/second")
        if second is None:
            pytest.skip("this parser does not parse ahead")
        assert (second.phase, second.task_id, second.connection_id) == ("queued", None, connection.id)
        graph = WaitGraph(seen.taken)
        (turn,) = graph.waits_of(second.id)
        assert graph.holders(turn) == (first.task_id,)


def test_idle_server_has_only_patient_waits(port):
    seen = look()
    assert seen.kinds()
    patient = [seen.primitives[w.primitive_id].patience_ns == FOREVER for w in seen.taken.waits if w.task_id.startswith("task:")]
    assert all(patient)
    assert not seen.taken.requests, [r.route for r in seen.taken.requests]


@pytest.mark.parametrize("kind", ["websockets", "websockets-sansio", "wsproto"])
def test_websockets(kind):
    pytest.importorskip(kind.partition("-")[0])
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    with (
        uvicorn_running(app, ws=kind) as port,
        client(port, http("GET", "/talk", upgrade)) as talking,
        client(port, http("GET", "/shout", upgrade), small=True),
    ):
        assert talking.recv(100).startswith(b"HTTP/1.1 101")
        seen = when(
            lambda now: all(
                (found := now.awaited_by(name)) and found.kind == kind for name, kind in (("shout", "client"), ("talk", "peer"))
            )
        )
        idle = seen.awaited_by("talk")
        assert (idle.kind, idle.patience_ns, idle.state["accepted"]) == ("peer", FOREVER, True)
        assert seen.awaited_by("shout").state["write_paused"] is True
        assert seen.request("/talk").task_id == seen.of("talk").id
        assert {c.protocol for c in seen.taken.connections} == {f"websocket ({kind})"}


def test_start_up_that_does_not_end():
    import uvicorn

    async def stuck(scope, receive, send):
        await never_ready()

    async def never_ready():
        await asyncio.Event().wait()

    server = uvicorn.Server(uvicorn.Config(stuck, log_level="critical", lifespan="on", port=0))
    server.install_signal_handlers = lambda: None
    with loop_running(server.serve):
        seen = when(lambda now: (found := now.awaited_by("serve")) and found.holders)
        event = seen.awaited_by("serve")
        assert (event.kind, event.state["phase"], event.holders) == ("event", "startup", (seen.of("never_ready").id,))


def test_shutdown_waits_for_a_request():
    import uvicorn

    listener = __import__("socket").create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    server.install_signal_handlers = lambda: None
    with loop_running(lambda: server.serve(sockets=[listener])):
        when(lambda now: (found := now.awaited_by("serve")) and found.patience_ns == FOREVER)
        with client(listener.getsockname()[1], http("GET", "/stays")):
            parked("wait_for_ever", "event")
            server.should_exit = True
            seen = parked("serve", "server-close")
            closing = seen.awaited_by("serve")
            assert (closing.state["connections"], closing.state["tasks"]) == (1, 1)
            assert closing.holders == (seen.of("wait_for_ever").id,)
            assert closing.ready is False
        server.force_exit = True
    assert threading.active_count() < 50
