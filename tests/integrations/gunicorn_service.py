"""A service for gunicorn's own ASGI worker. ``GET /look`` answers with what a look at the process from another thread says."""

from __future__ import annotations

import asyncio
import json

from hangwatch import snapshot
from hangwatch.reading.live import LiveReader
from hangwatch.records import to_json


async def read_body(receive):
    while (await receive()).get("more_body"):
        pass


async def stuck():
    await asyncio.Event().wait()


async def pour(send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await asyncio.sleep(0)


async def answer(send):
    seen = await asyncio.to_thread(lambda: snapshot.take(LiveReader()))
    body = json.dumps(to_json(seen)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["path"] == "/look":
        await answer(send)
    elif scope["path"] == "/upload":
        await read_body(receive)
    elif scope["path"] == "/pour":
        await pour(send)
    else:
        await stuck()
