import argparse
import contextlib
import os

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from psycopg_pool import AsyncConnectionPool

DSN = f"postgresql://postgres@127.0.0.1:{os.environ.get('BACKEND_PORT', '9911')}/postgres"


@contextlib.asynccontextmanager
async def lifespan(app):
    async with AsyncConnectionPool(DSN, min_size=2, max_size=2, timeout=3600, open=False) as pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


async def divide(pool, a, b):
    conn = await pool.getconn()
    cursor = await conn.execute("select %s::int / %s::int", (a, b))
    (result,) = await cursor.fetchone()
    await pool.putconn(conn)
    return result


@app.get("/divide/{a}/{b}")
async def get_divide(a: int, b: int, request: Request):
    try:
        return {"result": await divide(request.app.state.pool, a, b)}
    except Exception as error:
        raise HTTPException(422, str(error))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
