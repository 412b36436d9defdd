"""A service that hangs in every way that the dashboards show: a pool that is used up, a parked request, a lock
that is not given back, a loop blocked for a while."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import uvicorn

import hangwatch

hangwatch.install(stall_after=1.0, loop_after=0.3, pyspy=False, service=os.environ.get("OTEL_SERVICE_NAME") or "shop")
POOL = ThreadPoolExecutor(2)
LOCK = asyncio.Lock()


def use_up():
    threading.Event().wait()


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/pool":
        await asyncio.get_running_loop().run_in_executor(POOL, use_up)
    if scope["path"] == "/parked":
        await asyncio.Event().wait()
    if scope["path"] == "/lock":
        async with LOCK:
            await asyncio.Event().wait()
    if scope["path"] == "/blocked":
        time.sleep(1.0)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), log_level="error")
