import argparse
import asyncio
import threading

import uvicorn
from fastapi import FastAPI

app = FastAPI()
worker_loop = asyncio.new_event_loop()
threading.Thread(target=worker_loop.run_forever, name="device-loop", daemon=True).start()
web_loop = None


async def user_name():
    return "ann"


async def on_device(command):
    await asyncio.sleep(0.05)
    name = asyncio.run_coroutine_threadsafe(user_name(), web_loop).result()
    return f"{command} by {name}"


def send(command):
    return asyncio.run_coroutine_threadsafe(on_device(command), worker_loop).result()


@app.post("/devices/{command}")
async def post_command(command: str):
    global web_loop
    web_loop = asyncio.get_running_loop()
    return {"done": send(command)}


@app.get("/")
async def index():
    return {"ok": True}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
