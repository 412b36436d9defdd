import argparse
import asyncio

import uvicorn
from fastapi import FastAPI

app = FastAPI()
printer = asyncio.Lock()


@app.post("/print/{n}")
async def print_page(n: int):
    async with printer:
        await asyncio.sleep(0.7)
    return {"printed": n}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
