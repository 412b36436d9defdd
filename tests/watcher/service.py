"""An ASGI service that hangs in every way there is, and in none, by path. The port of a silent peer is in SILENT."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import hashlib
import os
import threading
import time

#: How long the loop is blocked: many times what it takes to tell it, so that "while it lasts" also means something on a busy machine.
BLOCK_S = 3.0
OK = [(b"content-type", b"text/plain"), (b"content-length", b"2")]


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    await PATHS.get(scope["path"], answer)(receive, send)


async def answer(receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": OK})
    await send({"type": "http.response.body", "body": b"ok"})


async def sleeps(receive, send):
    time.sleep(BLOCK_S)
    await answer(receive, send)


async def computes(receive, send):
    end = time.monotonic() + BLOCK_S
    while time.monotonic() < end:
        hashlib.sha256(b"x" * 1000).digest()
    await answer(receive, send)


async def locks(receive, send):
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=BLOCK_S)
    await answer(receive, send)


async def holds(receive, send):
    """Native code in another thread, with the GIL."""
    await asyncio.to_thread(ctypes.PyDLL(None).usleep, int(BLOCK_S * 1e6))
    await answer(receive, send)


def many_objects(number):
    gc.disable()
    heap = [[[n], [n + 1], [n + 2]] for n in range(number)]
    gc.enable()
    return heap


async def collects(receive, send):
    heap = many_objects(200_000)
    end = time.monotonic() + BLOCK_S
    while time.monotonic() < end:
        gc.collect()
    del heap
    await answer(receive, send)


async def rests(receive, send):
    await asyncio.sleep(1)
    await answer(receive, send)


async def parks(receive, send):
    await asyncio.Event().wait()


async def asks(receive, send):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ["SILENT"]))
    writer.write(b"PING\r\n")
    await reader.read(1)


async def pours(receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/octet-stream")]})
    for _ in range(2000):  # more than any buffer holds; to a client that has gone it goes at once
        await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})


async def stops_half_way(receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b'{"half":', "more_body": True})
    await asyncio.Event().wait()


async def chunks(receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"ok", "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def streams(receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    while True:
        await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
        await asyncio.sleep(30)


async def uploads(receive, send):
    while (await receive()).get("more_body"):
        pass
    await answer(receive, send)


async def leaves_a_child(receive, send):
    """A fork of the serving process, which ends a moment later."""
    child = os.fork()
    if not child:
        time.sleep(0.5)
        os._exit(0)
    await asyncio.to_thread(os.waitpid, child, 0)
    await answer(receive, send)


PATHS = {
    # Control characters in a path reach the application percent-encoded, and it decodes them.
    "/\x1b[2Jparks": parks, "/forks": leaves_a_child,
    "/sleeps": sleeps, "/computes": computes, "/locks": locks, "/holds": holds, "/collects": collects, "/rests": rests, "/parks": parks, "/asks": asks, "/pours": pours,
    "/half": stops_half_way, "/chunks": chunks, "/streams": streams, "/uploads": uploads,
}  # fmt: skip
