import argparse
import concurrent.futures
import os
import urllib.request

import uvicorn
from fastapi import FastAPI

URL = f"http://127.0.0.1:{os.environ.get('BACKEND_PORT', '9911')}"
pool = concurrent.futures.ThreadPoolExecutor(4, thread_name_prefix="fetch")
app = FastAPI()


def fetch(path):
    with urllib.request.urlopen(URL + path) as reply:
        return len(reply.read())


def total(paths):
    return sum(job.result() for job in [pool.submit(fetch, path) for path in paths])


@app.get("/total")
async def get_total():
    return {"bytes": total(["/a", "/b"])}


@app.get("/")
async def index():
    return {"ok": True}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
