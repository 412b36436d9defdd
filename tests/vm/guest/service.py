"""An ASGI service that hangs in every way that is looked at, by path. Runs on every Python from 3.9 on; no package but the server's."""

import asyncio
import contextlib
import ctypes
import signal
import threading
import time

OK = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
LOCKS = {}


def lock(name):
    return LOCKS.setdefault(name, asyncio.Lock())


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    path, _, seconds = scope["path"].partition(":")
    if seconds:
        await BLOCKS[path](float(seconds))
    await PATHS.get(path, answer)(receive, send)


async def answer(receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": OK})
    await send({"type": "http.response.body", "body": b"ok"})


class Ended(Exception):
    pass


def end(*_):
    raise Ended


# The checks need not wait until a long sleep is over.
signal.signal(signal.SIGUSR1, end)


async def sleeps(seconds):
    with contextlib.suppress(Ended):
        time.sleep(seconds)


async def spins(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def keeps_gil(seconds):
    native = ctypes.PyDLL(None)
    threading.Thread(target=native.usleep, args=(int(seconds * 1e6),)).start()


async def parks(receive, send):
    await asyncio.Event().wait()


async def pours(receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/octet-stream")]})
    for _ in range(2000):
        await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})


async def holds(receive, send):
    async with lock("one"):
        await never_told()


async def never_told():
    await asyncio.Event().wait()


async def queues(receive, send):
    async with lock("one"):
        await answer(receive, send)


async def crosses_left(receive, send):
    await crosses("left", "right")


async def crosses_right(receive, send):
    await crosses("right", "left")


async def crosses(first, second):
    async with lock(first):
        await asyncio.sleep(1)
        async with lock(second):
            pass


BLOCKS = {"/sleeps": sleeps, "/spins": spins, "/keeps-gil": keeps_gil}
PATHS = {
    "/parks": parks, "/pours": pours, "/holds": holds, "/queues": queues,
    "/left": crosses_left, "/right": crosses_right,
}  # fmt: skip
