"""Runs real tasks until they are parked, looks at them from another thread, and takes them down again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from hangwatch.reading.live import LiveReader
from hangwatch.records import Primitive, Snapshot, Task, Thread
from hangwatch.snapshot import take

Made = dict[str, Coroutine[Any, Any, Any]]


def look_at(make: Callable[[], Made], at: Callable[[LiveReader], Any] = take, settle_s: float = 0.05, new_loop: Any = None) -> Any:
    """What ``at`` gives (a Snapshot by default) for the named coroutines that ``make`` returns, each a task, all parked.

    ``make`` runs inside the loop. The look is taken by a thread of its own, while the loop sleeps.
    """

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        tasks = []
        for name, coroutine in make().items():
            tasks.append(loop.create_task(coroutine, name=name))
            await asyncio.sleep(0)
        await asyncio.sleep(settle_s)
        try:
            return await in_thread(lambda: at(LiveReader([loop])))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    runner = (new_loop or asyncio.new_event_loop)()
    try:
        return runner.run_until_complete(asyncio.wait_for(main(), 30))
    finally:
        runner.run_until_complete(runner.shutdown_default_executor())
        runner.close()


async def in_thread(work: Callable[[], Any]) -> Any:
    """``work`` in a fresh thread, after the loop had time to fall asleep."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def run() -> None:
        threading.Event().wait(0.02)
        try:
            outcome: Any = work()
        except BaseException as error:
            loop.call_soon_threadsafe(future.set_exception, error)
        else:
            loop.call_soon_threadsafe(future.set_result, outcome)

    threading.Thread(target=run, name="looker", daemon=True).start()
    return await future


def task(snapshot: Snapshot, name: str) -> Task:
    return next(task for task in snapshot.tasks if task.name == name)


def thread(snapshot: Snapshot, name: str) -> Thread:
    return next(thread for thread in snapshot.threads if thread.name == name)


def awaited(snapshot: Snapshot, waiter: Task | Thread) -> Primitive:
    """What a task or thread waits on."""
    return next(primitive for primitive in snapshot.primitives if primitive.id == waiter.waits_on)


def waits_of(snapshot: Snapshot, name: str) -> Primitive:
    return awaited(snapshot, task(snapshot, name))


def held(snapshot: Snapshot, waiter: Task | Thread) -> list[str]:
    """Kinds of what a task or thread holds."""
    kinds = {primitive.id: primitive.kind for primitive in snapshot.primitives}
    return [kinds[hold.primitive_id] for hold in waiter.holds]


def functions(waiter: Task | Thread) -> list[str]:
    """Plain names of its frames, outermost first."""
    return [frame.function.rpartition(".")[2] for frame in waiter.frames]
