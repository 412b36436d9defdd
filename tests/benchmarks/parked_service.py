"""The service under the benchmarks (arguments: a port, and ``agent`` to install it): /parked waits for an event that nobody sets, while some healthy tasks sleep beside it."""

from __future__ import annotations

import asyncio
import sys

never = asyncio.Event()


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        sleepers.extend(asyncio.ensure_future(asyncio.sleep(3600)) for _ in range(100))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/parked":
        await never.wait()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


sleepers: list[asyncio.Future] = []

if __name__ == "__main__":
    import uvicorn

    if "agent" in sys.argv:
        import hangwatch

        hangwatch.install()
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
