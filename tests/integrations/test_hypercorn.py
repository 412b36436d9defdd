"""A real hypercorn in a loop of this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from hangwatch.records import FOREVER
from tests.integrations.stage import client, loop_running, parked, when
from tests.processes import until

hypercorn = pytest.importorskip("hypercorn.asyncio")
from hypercorn.config import Config  # noqa: E402


async def read_body(receive):
    while (await receive()).get("more_body"):
        pass


async def watch(receive):
    await read_body(receive)
    await next_message(receive)


async def next_message(receive):
    await receive()


async def stuck():
    await asyncio.Event().wait()


async def pour(send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await asyncio.sleep(0)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
    elif scope["path"] == "/upload":
        await read_body(receive)
    elif scope["path"] == "/watch":
        await watch(receive)
    elif scope["path"] == "/pour":
        await pour(send)
    else:
        await stuck()


@contextlib.contextmanager
def running(application):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = Config()
    config.bind, config.errorlog, config.accesslog = [f"127.0.0.1:{port}"], None, None

    async def serve():
        await hypercorn.serve(application, config, shutdown_trigger=asyncio.Event().wait)

    with loop_running(serve):
        yield port


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def port():
    with running(app) as number:
        until(lambda: listens(number))
        yield number


def test_request_and_connection(port):
    with client(
        port, b"GET /stuck?x=1 HTTP/1.1\r\nHost: t\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"
    ):
        seen = parked("stuck", "event")
        request = seen.request("/stuck")
        assert (request.method, request.phase, request.task_id) == ("GET", "app", seen.of("stuck").id)
        assert request.trace_id == "0af7651916cd43dd8448eb211c80319c"
        assert request.connection_id in {c.id for c in seen.taken.connections}


def test_body_and_disconnect(port):
    with (
        client(port, b"POST /upload HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nhalf"),
        client(port, b"GET /watch HTTP/1.1\r\nHost: t\r\n\r\n"),
    ):
        seen = when(
            lambda now: (
                now.of("next_message")
                and (found := now.awaited_by("next_message"))
                and found.patience_ns == FOREVER
                and now.of("read_body")
            )
        )
        assert seen.awaited_by("read_body").patience_ns is None
        assert seen.awaited_by("read_body").state["body_complete"] is False
        assert seen.request("/upload").phase == "body"


def test_slow_client(port):
    with client(port, b"GET /pour HTTP/1.1\r\nHost: t\r\n\r\n", small=True):
        slow = parked("pour", "client").awaited_by("pour")
        assert slow.state["unsent"] > 0


def test_idle_is_patient(port):
    with client(port):
        seen = when(lambda now: now.taken.connections)
        idle = [p for p in seen.primitives.values() if p.library == "hypercorn"]
        assert idle
        assert all(p.patience_ns == FOREVER for p in idle)


def test_start_up_that_does_not_end():
    async def never(scope, receive, send):
        await stuck()

    with running(never):
        seen = when(lambda now: (found := now.awaited_by("wait_for_startup")) and found.holders)
        assert seen.awaited_by("wait_for_startup").holders == (seen.of("stuck").id,)
