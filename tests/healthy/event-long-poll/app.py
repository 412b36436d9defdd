import argparse
import asyncio

import uvicorn
from fastapi import FastAPI

app = FastAPI()
changed = {}


@app.get("/changes/{doc}")
async def changes(doc: str):
    await changed.setdefault(doc, asyncio.Event()).wait()
    return {"changed": doc}


@app.post("/changes/{doc}")
async def change(doc: str):
    changed.pop(doc, asyncio.Event()).set()
    return {"told": True}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
