import argparse
import asyncio

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()
camera = asyncio.Lock()  # one user at a time


async def frames():
    async with camera:
        for _ in range(2000):
            yield b"f" * 65536
            await asyncio.sleep(0)


@app.get("/video")
async def video():
    return StreamingResponse(frames(), media_type="video/mjpeg")


@app.get("/still")
async def still():
    async with camera:
        return {"still": True}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
