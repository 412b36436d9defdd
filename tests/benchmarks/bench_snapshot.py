"""What a snapshot of many parked tasks costs: how long it takes, and the loop's longest pause meanwhile. Prints JSON.

    python tests/benchmarks/bench_snapshot.py [TASKS]

The loop's pause is measured by a task that wakes every millisecond and notes the longest gap; the same without a snapshot is given
beside it, because a busy machine has gaps of its own.
"""

from __future__ import annotations

import asyncio
import gc
import json
import platform
import sys
import time

from hangwatch.reading.live import LiveReader
from hangwatch.snapshot import take


class Service:
    """A service whose requests wait three frames deep: for a lock, an event, a queue, a timer, each its own or shared."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.queue: asyncio.Queue[int] = asyncio.Queue()
        self.never = asyncio.Event()

    async def handle(self, number: int) -> None:
        await self.work(number)

    async def work(self, number: int) -> None:
        if number % 4 == 0:
            async with self.lock:
                await self.never.wait()
        elif number % 4 == 1:
            await asyncio.Event().wait()
        elif number % 4 == 2:
            await self.queue.get()
        else:
            await asyncio.sleep(3600)


async def pulse(gaps: list[float], stop: asyncio.Event) -> None:
    last = time.perf_counter()
    while not stop.is_set():
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        gaps.append((now - last) * 1e3)
        last = now


async def measure(count: int) -> dict[str, object]:
    service = Service()
    tasks = [asyncio.create_task(service.handle(number)) for number in range(count)]
    await asyncio.sleep(0.5)
    gc.collect()
    quiet, during, took = [], [], []
    for _ in range(5):
        for gaps, look in ((quiet, False), (during, True)):
            stop = asyncio.Event()
            beat = asyncio.create_task(pulse(gaps, stop))
            await asyncio.sleep(0.05)
            if look:
                snapshot = await asyncio.to_thread(take, LiveReader([asyncio.get_running_loop()]))
                took.append(snapshot.took_ms)
                seen = len(snapshot.tasks)
                del snapshot
            else:
                await asyncio.sleep(0.3)
            stop.set()
            await beat
    for task in tasks:
        task.cancel()
    return {
        "python": platform.python_version(),
        "tasks": count,
        "tasks_seen": seen,
        "took_ms": [round(ms) for ms in took],
        "loop_pause_ms": round(max(during), 1),
        "loop_pause_quiet_ms": round(max(quiet), 1),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))))
