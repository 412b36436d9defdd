import argparse
import os

import uvicorn
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

engine = create_async_engine(f"postgresql+psycopg://postgres@127.0.0.1:{os.environ.get('BACKEND_PORT', '9911')}/postgres", pool_size=4)
app = FastAPI()


@app.get("/report")
async def report():
    async with engine.connect() as conn:
        return {"rows": (await conn.execute(text("select count(*) from pg_sleep(8)"))).scalar()}


@app.get("/")
async def index():
    async with engine.connect() as conn:
        return {"ok": (await conn.execute(text("select 1"))).scalar()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
