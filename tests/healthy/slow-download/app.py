import argparse

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()


async def pieces():
    for _ in range(4000):
        yield b"z" * 16384


@app.get("/archive")
async def archive():
    return StreamingResponse(pieces())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
