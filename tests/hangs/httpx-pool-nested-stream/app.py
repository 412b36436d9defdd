import argparse
import contextlib
import os

import httpx
import uvicorn
from fastapi import FastAPI, Request

UPSTREAM = f"http://127.0.0.1:{os.environ.get('BACKEND_PORT', '9911')}"


@contextlib.asynccontextmanager
async def lifespan(app):
    limits = httpx.Limits(max_connections=2)
    async with httpx.AsyncClient(base_url=UPSTREAM, limits=limits, timeout=httpx.Timeout(5, pool=None)) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


async def fetch_part(client, name):
    reply = await client.get(f"/parts/{name}")
    return len(reply.content)


async def assemble(client, name):
    total = 0
    async with client.stream("GET", f"/index/{name}") as index:
        async for chunk in index.aiter_bytes(16384):
            total += await fetch_part(client, len(chunk))
    return total


@app.get("/albums/{name}")
async def album(name: str, request: Request):
    return {"bytes": await assemble(request.app.state.client, name)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
