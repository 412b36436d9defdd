"""A process with a large heap and a loop, whose collector is kept busy as the first argument says; ``rarely``: it has next to nothing to do."""

import asyncio
import gc
import json
import os
import sys
import threading

gc.disable()
HEAP = [[[number], [number + 1], [number + 2]] for number in range(500_000)]
gc.enable()


def explicit():
    while True:
        gc.collect()


def automatic():
    gc.set_threshold(700, 1, 1)
    kept = []
    while True:
        kept.append([[]])


def computes():
    """Allocates, as code does, beside the collector's own pace."""
    gc.freeze()
    while True:
        [[number] for number in range(1000)]


async def another_thread():
    threading.Thread(target=explicit, daemon=True).start()
    while True:
        await asyncio.sleep(0.001)


async def bad():
    await asyncio.sleep(0.05)
    print(json.dumps({"pid": os.getpid()}), flush=True)
    done = globals()[sys.argv[1]]()
    if done is not None:
        await done


asyncio.run(bad())
