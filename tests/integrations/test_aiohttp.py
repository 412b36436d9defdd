"""A real aiohttp server and client: requests, bodies, slow readers, the connector's limit."""

from __future__ import annotations

import asyncio
import socket

import pytest

from hangwatch.records import FOREVER
from tests.integrations.stage import client, look, loop_running, parked, when

aiohttp = pytest.importorskip("aiohttp")
web = aiohttp.web if hasattr(aiohttp, "web") else pytest.importorskip("aiohttp.web")


async def stuck(request):
    await asyncio.Event().wait()


async def upload(request):
    await request.read()
    return web.Response()


async def pour(request):
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x" * 65536)


async def chat(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    await ws.receive()


async def serve(listener):
    app = web.Application()
    app.router.add_get("/stuck/{number}", stuck)
    app.router.add_post("/upload", upload)
    app.router.add_get("/pour", pour)
    app.router.add_get("/chat", chat)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    await asyncio.Event().wait()


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as listener, loop_running(lambda: serve(listener)):
        yield listener.getsockname()[1]


def get(path: str, more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: t\r\n{more}\r\n".encode()


def test_request_and_connection(port):
    with client(port, get("/stuck/7?secret=1")):
        seen = parked("stuck", "event")
        (request,) = seen.taken.requests
        (connection,) = seen.taken.connections
        assert (request.method, request.route, request.phase) == ("GET", "/stuck/{number}", "app")
        assert request.connection_id == connection.id
        assert seen.of("stuck").request_id == request.id
        assert connection.client.startswith("127.0.0.1:")


def test_body_that_stops_half_way(port):
    with client(port, b"POST /upload HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nhalf"):
        seen = parked("upload", "body")
        body = seen.awaited_by("upload")
        assert (body.ready, body.state["eof"]) == (False, False)
        assert seen.request("/upload").phase == "body"


def test_slow_client(port):
    with client(port, get("/pour"), small=True):
        slow = parked("pour", "client").awaited_by("pour")
        assert slow.state["write_paused"] is True
        assert slow.state["unsent"] > 0


def test_keep_alive_is_patient(port):
    with client(port):
        seen = when(lambda now: now.taken.connections)
        idle = [p for p in seen.primitives.values() if p.library == "aiohttp"]
        assert idle
        assert all(p.patience_ns == FOREVER for p in idle)
        assert not seen.taken.requests


def test_websocket_is_patient(port):
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    with client(port, get("/chat", upgrade)):
        assert parked("chat", "peer").awaited_by("chat").patience_ns == FOREVER


def test_connector_limit(port):
    async def main():
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
            await asyncio.gather(asks(session), wants(session))

    async def asks(session):
        async with session.get(f"http://127.0.0.1:{port}/pour") as response:
            await hold(response)

    async def hold(response):
        await asyncio.Event().wait()

    async def wants(session):
        await asyncio.sleep(0.2)
        await session.get(f"http://127.0.0.1:{port}/stuck/1")

    with loop_running(main):
        seen = parked("wants", "pool")
        pool = seen.awaited_by("wants")
        assert (pool.capacity, pool.in_use, pool.ready) == (1, 1, False)
        assert pool.holders == (seen.of("hold").id,)


def test_answer_that_does_not_come(port):
    async def asks():
        async with aiohttp.ClientSession() as session:
            await session.get(f"http://127.0.0.1:{port}/stuck/1")

    with loop_running(asks):
        seen = parked("asks", "peer")
        assert seen.awaited_by("asks").state["host"] == f"127.0.0.1:{port}"
        assert not look().taken.gaps
