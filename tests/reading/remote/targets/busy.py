"""Tasks that never stand still, each in one of few possible chains, holding only its own lock while it is in ``inside``."""

import asyncio
import json
import threading

MINE = {}


async def hop(name):
    await asyncio.sleep(0)


async def inside(name):
    await hop(name)
    await hop(name)


async def works(name):
    lock = MINE[name]
    while True:
        async with lock:
            await inside(name)
        await hop(name)


async def makes(name):
    """Tasks that come and go."""
    while True:
        await asyncio.ensure_future(hop(name))


async def main():
    for number in range(20):
        name = f"worker{number}"
        MINE[name] = asyncio.Lock()
        asyncio.ensure_future(works(name)).set_name(name)
    for number in range(5):
        asyncio.ensure_future(makes(f"maker{number}")).set_name(f"maker{number}")
    parked = asyncio.ensure_future(asyncio.Event().wait())
    parked.set_name("parked")
    print(json.dumps({"locks": {name: id(lock) for name, lock in MINE.items()}, "ident": threading.get_ident()}), flush=True)
    await parked


asyncio.run(main())
