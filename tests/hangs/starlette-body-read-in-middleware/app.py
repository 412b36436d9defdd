import argparse
import hashlib

import uvicorn
from fastapi import FastAPI, Request

app = FastAPI()


@app.middleware("http")
async def audit(request: Request, call_next):
    digest = hashlib.sha256(await request.body()).hexdigest()[:12]
    response = await call_next(request)
    response.headers["X-Body-Digest"] = digest
    return response


@app.post("/orders")
async def order(request: Request):
    payload = await request.json()
    return {"items": len(payload)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
