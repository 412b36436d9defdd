"""Two tasks that take two locks in opposite order; with ``healthy`` as argument, in the same order."""

import asyncio
import json
import os
import sys


async def transfer(first, second):
    async with first:
        await asyncio.sleep(0.05)
        async with second:
            pass


async def idles(queue):
    await queue.get()


async def main():
    one, two = asyncio.Lock(), asyncio.Lock()
    pairs = [(one, two), (one, two) if sys.argv[1:] == ["healthy"] else (two, one)]
    tasks = [asyncio.ensure_future(transfer(*pair)) for pair in pairs]
    await asyncio.sleep(0.3)
    print(json.dumps({"pid": os.getpid()}), flush=True)
    await asyncio.gather(*tasks)
    await asyncio.sleep(1000)


asyncio.run(main())
