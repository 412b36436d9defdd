"""The target of bench_versions (argument: asyncio or uvloop). Two tasks wait for each other's lock, a hundred stand behind a third.

Runs on 3.9 and later; prints how many tasks there are once all of them are parked.
"""

import asyncio
import sys


async def transfers(first, second, ready):
    async with first:
        ready.set()
        await asyncio.sleep(0.05)
        async with second:
            pass


async def keeps(lock, never):
    async with lock:
        await never.wait()


async def main():
    left, right, kept, never = asyncio.Lock(), asyncio.Lock(), asyncio.Lock(), asyncio.Event()
    started = [asyncio.Event(), asyncio.Event()]
    tasks = [asyncio.create_task(transfers(left, right, started[0])), asyncio.create_task(transfers(right, left, started[1]))]
    tasks += [asyncio.create_task(keeps(kept, never)) for _ in range(100)]
    await asyncio.gather(*(event.wait() for event in started))
    await asyncio.sleep(0.2)
    print(len(asyncio.all_tasks()), flush=True)
    await asyncio.gather(*tasks)


if __name__ == "__main__":
    if sys.argv[1] == "uvloop":
        import uvloop

        uvloop.install()
    asyncio.run(main())
