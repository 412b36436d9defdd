import argparse
import asyncio

import uvicorn
from fastapi import FastAPI

app = FastAPI()
pollers = {}


async def poll(name):
    reads = 0
    while True:
        try:
            await asyncio.sleep(0.5)
            reads += 1
        except BaseException:
            continue  # a bad read must not end the poller


async def stop(name):
    poller = pollers.pop(name)
    poller.cancel()
    await asyncio.wait([poller])


@app.post("/pollers/{name}")
async def start_poller(name: str):
    pollers[name] = asyncio.create_task(poll(name), name=f"poller-{name}")
    return {"started": name}


@app.delete("/pollers/{name}")
async def stop_poller(name: str):
    await stop(name)
    return {"stopped": name}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
