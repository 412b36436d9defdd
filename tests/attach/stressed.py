"""A loop that computes and checks what it has computed: with live vector registers, in the allocator, in dicts. Tells once a second.

Each line: rounds, wrong results, threads, names of hangwatch in sys.modules, whether paths, finders and patched functions are as at the start.
"""

import asyncio
import json
import sys
import threading

NUMBERS = [0.1 * (number % 7) for number in range(100_000)]
TOTAL = sum(NUMBERS)
BLOCK = bytes(range(256)) * 6


def once():
    wrong = sum(NUMBERS) != TOTAL
    wrong += b"".join([BLOCK[1:]] * 50) != BLOCK[1:] * 50
    named = {number: str(number) for number in range(300)}
    return wrong + (len(named) != 300 or named[299] != "299")


def state():
    own = [name for name in list(sys.modules) if "hangwatch" in name]
    patched = asyncio.Event.wait, asyncio.Lock.acquire, asyncio.Queue.get
    return sys.path[:], sys.meta_path[:], own, sorted(vars(sys.modules["__main__"])), patched


async def main():
    idle = "idle" in sys.argv
    parked = [asyncio.ensure_future(asyncio.Event().wait()) for _ in range(20)]
    before, rounds, wrong, told = state(), 0, 0, -1.0
    loop = asyncio.get_running_loop()
    while True:
        wrong += once()
        rounds += 1
        if loop.time() - told > 0.2:
            told = loop.time()
            print(json.dumps([rounds, wrong, threading.active_count(), state() == before, len(parked)]), flush=True)
        await asyncio.sleep(0.05 if idle else 0)


asyncio.run(main())
