"""Real websockets of the websockets library."""

from __future__ import annotations

import asyncio

import pytest

from hangwatch.records import FOREVER
from tests.integrations.stage import client, loop_running, parked
from tests.processes import until

pytest.importorskip("websockets.asyncio.server")
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def server(handler):
    ports = []

    async def main():
        async with serve(handler, "127.0.0.1", 0, ping_interval=None) as running:
            ports.append(running.sockets[0].getsockname()[1])
            await asyncio.Event().wait()

    return main, ports


def test_idle_on_both_sides():
    async def listens(connection):
        await connection.recv()

    main, ports = server(listens)

    async def hears():
        async with connect(f"ws://127.0.0.1:{ports[0]}") as connection:
            await connection.recv()

    with loop_running(main):
        until(lambda: ports)
        with loop_running(hears):
            seen = parked("hears", "peer")
            assert seen.awaited_by("hears").patience_ns == FOREVER
            assert parked("listens", "peer").awaited_by("listens").patience_ns == FOREVER


def test_client_that_does_not_read():
    async def shouts(connection):
        while True:
            await connection.send(b"x" * 65536)

    main, ports = server(shouts)
    with loop_running(main):
        until(lambda: ports)
        with client(ports[0], UPGRADE, small=True):
            slow = parked("shouts", "client").awaited_by("shouts")
            assert slow.state["write_paused"] is True
            assert slow.ready is False
