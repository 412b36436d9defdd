import argparse
import asyncio
import hashlib

import uvicorn
from fastapi import FastAPI

app = FastAPI()


def digest(n):
    total = hashlib.sha256()
    for part in range(120):
        total.update(bytes(400_000))
    return total.hexdigest()


@app.get("/digest/{n}")
async def get_digest(n: int):
    return {"digest": await asyncio.to_thread(digest, n)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
