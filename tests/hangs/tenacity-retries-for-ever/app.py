import argparse

import httpx
import uvicorn
from fastapi import FastAPI
from tenacity import retry, wait_fixed

app = FastAPI()


@retry(wait=wait_fixed(0.25))
async def load_profile(user):
    async with httpx.AsyncClient() as client:
        reply = await client.get(f"http://127.0.0.1:9/profiles/{user}")
        return reply.json()


@app.get("/profiles/{user}")
async def profile(user: str):
    return await load_profile(user)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
