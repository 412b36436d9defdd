import argparse
import hashlib

import uvicorn
from fastapi import FastAPI

app = FastAPI()
ROUNDS = 40_000_000


def seal(password):
    return hashlib.pbkdf2_hmac("sha256", password.encode(), b"salt", ROUNDS).hex()


@app.post("/users/{name}")
async def add_user(name: str):
    return {"sealed": seal(name)}


@app.get("/")
async def index():
    return {"ok": True}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
