import argparse
import asyncio
import sys

import uvicorn
from fastapi import FastAPI

app = FastAPI()
SCRIPT = "for n in range(40000): print('row', n)"


async def dump(table):
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SCRIPT, stdout=asyncio.subprocess.PIPE)
    code = await process.wait()
    rows = (await process.stdout.read()).count(b"\n")
    return code, rows


@app.post("/dump/{table}")
async def post_dump(table: str):
    code, rows = await dump(table)
    return {"code": code, "rows": rows}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
