import argparse
import os

import uvicorn
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

PORT = os.environ.get("BACKEND_PORT", "9911")
engine = create_async_engine(f"postgresql+asyncpg://postgres@127.0.0.1:{PORT}/postgres", pool_size=2, max_overflow=0, pool_timeout=3600)
Session = async_sessionmaker(engine)
app = FastAPI()
open_carts = {}


async def cart_of(user):
    session = open_carts.setdefault(user, Session())  # one unit of work for each cart
    return (await session.execute(text("select 1"))).scalar()


@app.get("/carts/{user}")
async def get_cart(user: str):
    return {"items": await cart_of(user)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
