import argparse
import contextlib
import os

import redis.asyncio as redis
import uvicorn
from fastapi import FastAPI, Request

PORT = int(os.environ.get("BACKEND_PORT", "6379"))


@contextlib.asynccontextmanager
async def lifespan(app):
    pool = redis.BlockingConnectionPool(host="127.0.0.1", port=PORT, max_connections=3, timeout=None)
    app.state.redis = redis.Redis(connection_pool=pool)
    app.state.followers = []
    yield


app = FastAPI(lifespan=lifespan)


async def follow(state, channel):
    pubsub = state.redis.pubsub()
    await pubsub.subscribe(channel)
    state.followers.append(pubsub)
    await pubsub.get_message(timeout=0.1)


async def count(state, page):
    return await state.redis.incr(f"hits:{page}")


@app.post("/follow/{channel}")
async def post_follow(channel: str, request: Request):
    await follow(request.app.state, channel)
    return {"following": channel}


@app.get("/pages/{page}")
async def page(page: str, request: Request):
    return {"hits": await count(request.app.state, page)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
