import argparse
import asyncio
import contextlib

import uvicorn
from fastapi import FastAPI, Request

sizes = []


async def indexer(inbox):
    while True:
        document = await inbox.get()
        sizes.append(len(document["text"]))
        inbox.task_done()


@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.inbox = asyncio.Queue(maxsize=2)
    app.state.indexer = asyncio.create_task(indexer(app.state.inbox), name="indexer")
    yield
    app.state.indexer.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/documents")
async def add(request: Request):
    await request.app.state.inbox.put(await request.json())
    return {"accepted": True}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
