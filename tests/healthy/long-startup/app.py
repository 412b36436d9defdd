import argparse
import asyncio
import contextlib
import hashlib

import uvicorn
from fastapi import FastAPI


@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.shards = {}
    for shard in range(40):
        await asyncio.sleep(0.2)
        app.state.shards[shard] = hashlib.sha256(bytes(1_000_000)).hexdigest()
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def index():
    return {"shards": len(app.state.shards)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
