import argparse
import asyncio
import contextlib
import os
import time

import redis.asyncio as redis
import uvicorn
from fastapi import FastAPI, WebSocket

PORT = int(os.environ.get("BACKEND_PORT", "6379"))


async def mailer(client):
    while True:
        await client.blpop("mails", 0)


async def listener(client):
    async with client.pubsub() as pubsub:
        await pubsub.subscribe("news")
        async for message in pubsub.listen():
            print(message)


async def worker(inbox):
    while True:
        await inbox.get()


async def ticker(state):
    while True:
        state.tick = time.time()
        await asyncio.sleep(1)


@contextlib.asynccontextmanager
async def lifespan(app):
    client = redis.Redis(host="127.0.0.1", port=PORT)
    app.state.inbox = asyncio.Queue()
    jobs = [asyncio.create_task(j) for j in (mailer(client), listener(client), worker(app.state.inbox), ticker(app.state))]
    yield
    for job in jobs:
        job.cancel()


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def index():
    return {"tick": app.state.tick}


@app.websocket("/ws")
async def chat(ws: WebSocket):
    await ws.accept()
    while True:
        await ws.send_text(await ws.receive_text())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
