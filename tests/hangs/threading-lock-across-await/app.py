import argparse
import asyncio
import threading

import uvicorn
from fastapi import FastAPI

app = FastAPI()
guard = threading.Lock()
balance = {"ann": 10}


async def book(user):
    with guard:
        before = balance.get(user, 0)
        await asyncio.sleep(0.2)
        balance[user] = before + 1
    return balance[user]


@app.post("/book/{user}")
async def post_book(user: str):
    return {"balance": await book(user)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
