import argparse
import contextlib
import os

import grpc
import uvicorn
from fastapi import FastAPI, Request


@contextlib.asynccontextmanager
async def lifespan(app):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{os.environ.get('BACKEND_PORT', '9911')}") as channel:
        app.state.quote = channel.unary_unary("/prices.Prices/Quote")
        yield


app = FastAPI(lifespan=lifespan)


async def price_of(quote, article):
    reply = await quote(article.encode())
    return float(reply)


@app.get("/prices/{article}")
async def get_price(article: str, request: Request):
    return {"price": await price_of(request.app.state.quote, article)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
