"""A loop that computes and checks what it has computed: with live vector registers, in the allocator, in dicts. Tells five times a second.

Each line: rounds, wrong results, threads beyond its own, whether what can be seen in here is as at the start (paths, finders, modules of
hangwatch's, names of ``__main__``, patched functions), descriptors. ``idle``: it sleeps in between. ``threads``: others compute and check
beside it, and some come and go.
"""

import asyncio
import contextlib
import json
import os
import sys
import threading

NUMBERS = [0.1 * (number % 7) for number in range(100_000)]
TOTAL = sum(NUMBERS)
BLOCK = bytes(range(256)) * 6
WRONG = []


def once():
    wrong = sum(NUMBERS) != TOTAL
    wrong += b"".join([BLOCK[1:]] * 50) != BLOCK[1:] * 50
    named = {number: str(number) for number in range(300)}
    return wrong + (len(named) != 300 or named[299] != "299")


def compute():
    while True:
        WRONG.extend([1] * once())


def come_and_go():
    while True:
        passing = threading.Thread(target=lambda: WRONG.extend([1] * once()))
        passing.start()
        passing.join()


def state():
    own = [name for name in list(sys.modules) if "hangwatch" in name]
    patched = asyncio.Event.wait, asyncio.Lock.acquire, asyncio.Queue.get
    return sys.path[:], sys.meta_path[:], own, sorted(vars(sys.modules["__main__"])), patched


def descriptors():
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return sorted(name for name in found if not name.endswith("/fd"))


async def main():
    idle = "idle" in sys.argv
    others = [compute, compute, come_and_go] if "threads" in sys.argv else []
    parked = [asyncio.ensure_future(asyncio.Event().wait()) for _ in range(20)]
    before, rounds, told = state(), 0, -1.0
    own = threading.active_count() + len(others)
    for other in others:
        threading.Thread(target=other, daemon=True).start()
    loop = asyncio.get_running_loop()
    while parked:
        WRONG.extend([1] * once())
        rounds += 1
        if loop.time() - told > 0.2:
            told = loop.time()
            passing = sum(thread.name.endswith("(<lambda>)") for thread in threading.enumerate())
            print(json.dumps([rounds, len(WRONG), threading.active_count() - own - passing, state() == before, descriptors()]), flush=True)
        await asyncio.sleep(0.05 if idle else 0)


asyncio.run(main())
