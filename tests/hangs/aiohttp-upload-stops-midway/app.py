import argparse
import asyncio

from aiohttp import web

slot = asyncio.Semaphore(1)


async def store(request):
    size = 0
    async with slot:
        async for chunk in request.content.iter_chunked(4096):
            size += len(chunk)
    return size


async def upload(request):
    return web.json_response({"size": await store(request)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    app = web.Application(client_max_size=0)
    app.router.add_post("/upload", upload)
    web.run_app(app, host="127.0.0.1", port=parser.parse_args().port, print=None)
