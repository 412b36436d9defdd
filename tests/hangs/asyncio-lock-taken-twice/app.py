import argparse
import asyncio

import uvicorn
from fastapi import FastAPI

app = FastAPI()


class Journal:
    def __init__(self):
        self.lock = asyncio.Lock()
        self.lines, self.flushed = [], 0

    async def append(self, line):
        async with self.lock:
            self.lines.append(line)
            if len(self.lines) >= 3:
                await self.flush()

    async def flush(self):
        async with self.lock:
            self.flushed += len(self.lines)
            self.lines.clear()


journal = Journal()


@app.post("/journal/{line}")
async def post_line(line: str):
    await journal.append(line)
    return {"flushed": journal.flushed}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")
