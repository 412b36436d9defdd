import argparse
import asyncio

from granian.constants import Interfaces
from granian.server.embed import Server

source, target = asyncio.Lock(), asyncio.Lock()


async def copy(first, second):
    async with first:
        await asyncio.sleep(0.2)
        async with second:
            return b"copied"


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b"hello"
    if scope["path"] == "/forth":
        body = await copy(source, target)
    if scope["path"] == "/back":
        body = await copy(target, source)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    asyncio.run(Server(app, address="127.0.0.1", port=parser.parse_args().port, interface=Interfaces.ASGI).serve())
