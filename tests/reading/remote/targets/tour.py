"""Tasks parked in every way a chain can take; prints, from inside, what a reader outside should find. Runs on 3.9 and later."""

import asyncio
import contextlib
import contextvars
import gc
import json
import sys
import threading
import time
import types

VARIABLE = contextvars.ContextVar("colour")
OTHERS = [contextvars.ContextVar(f"other{n}") for n in range(40)]
TRUTH = {}
THREAD_LOCK = threading.Lock()


class Awaitable:
    def __init__(self, event):
        self.event = event

    def __await__(self):
        return (yield from self.event.wait().__await__())


async def holds_two(lock, semaphore, event):
    async with lock:  # noqa: SIM117
        async with semaphore:
            await event.wait()


async def holds_in_one_statement(lock, semaphore, event):
    async with lock, semaphore:
        try:
            for _ in range(3):
                await event.wait()
        finally:
            pass


async def enters(lock):
    async with lock:
        pass


async def left(lock, event):
    async with lock:
        pass
    await event.wait()


@contextlib.asynccontextmanager
async def made(lock):
    async with lock:
        yield 1


async def holds_made(lock, event):
    async with made(lock):
        await event.wait()


async def awaits_object(event):
    await Awaitable(event)


async def generates(event):
    yield 1
    await event.wait()
    yield 2


async def iterates(event):
    async for _ in generates(event):
        pass


async def steps(event):
    steps_of = generates(event)
    await steps_of.__anext__()
    await steps_of.__anext__()


@types.coroutine
def old_style(event):
    yield from event.wait().__await__()


async def awaits_old_style(event):
    await old_style(event)


async def gathers(event):
    await asyncio.gather(event.wait(), event.wait())


async def awaits_task(event):
    await asyncio.ensure_future(event.wait())


async def in_thread():
    await asyncio.get_running_loop().run_in_executor(None, time.sleep, 1000)


async def coloured(event):
    for number, other in enumerate(OTHERS):
        other.set(number)
    VARIABLE.set("green")
    await event.wait()


async def deep(event, depth):
    if depth:
        await deep(event, depth - 1)
    else:
        await event.wait()


async def closes_over(event):
    kept = event

    async def inner():
        await kept.wait()

    await inner()


async def swallows(event):
    while True:
        try:
            await event.wait()
        except asyncio.CancelledError:
            continue


def keeps_thread_lock():
    with THREAD_LOCK:
        time.sleep(1000)


def wants_thread_lock():
    with THREAD_LOCK:
        pass


def behind(awaited):
    """The next link of a chain, by the garbage collector: another way than the reader's."""
    for name in ("cr_await", "gi_yieldfrom", "ag_await"):
        if hasattr(awaited, name):
            return getattr(awaited, name)
    for found in gc.get_referents(awaited):
        if hasattr(found, "cr_await") or hasattr(found, "gi_yieldfrom") or hasattr(found, "ag_await"):
            return found
    return None


def chain_of(coroutine):
    found = []
    while coroutine is not None:
        for name in ("cr_frame", "gi_frame", "ag_frame"):
            frame = getattr(coroutine, name, None)
            if frame is not None:
                found.append([frame.f_code.co_name, frame.f_code.co_filename, frame.f_lineno])
        coroutine = behind(coroutine)
    return found


async def main():
    event, lock, semaphore, outer = asyncio.Event(), asyncio.Lock(), asyncio.Semaphore(3), asyncio.Lock()
    threading.Thread(target=keeps_thread_lock, name="keeper", daemon=True).start()
    time.sleep(0.1)
    threading.Thread(target=wants_thread_lock, name="wanter", daemon=True).start()
    other = asyncio.Lock()
    made_lock = asyncio.Lock()
    cases = {
        "holds_two": (holds_two(lock, semaphore, event), [lock, semaphore]),
        "holds_in_one_statement": (holds_in_one_statement(outer, semaphore, event), [outer, semaphore]),
        "enters": (enters(lock), []),
        "left": (left(other, event), []),
        "holds_made": (holds_made(made_lock, event), [None, made_lock]),
        "awaits_object": (awaits_object(event), []),
        "iterates": (iterates(event), []),
        "steps": (steps(event), []),
        "awaits_old_style": (awaits_old_style(event), []),
        "gathers": (gathers(event), []),
        "awaits_task": (awaits_task(event), []),
        "in_thread": (in_thread(), []),
        "coloured": (coloured(event), []),
        "deep": (deep(event, 40), []),
        "closes_over": (closes_over(event), []),
        "swallows": (swallows(event), []),
    }
    tasks = {}
    for name, (coroutine, _) in cases.items():
        tasks[name] = asyncio.get_running_loop().create_task(coroutine)
        tasks[name].set_name(name)
    await asyncio.sleep(0.1)
    tasks["swallows"].cancel()
    await asyncio.sleep(0.1)
    for name, task in tasks.items():
        TRUTH[name] = {
            "id": id(task),
            "chain": chain_of(task.get_coro()),
            "holds": [id(held) if held is not None else None for held in cases[name][1]],
            "cancelling": task.cancelling() if hasattr(task, "cancelling") else 0,
        }
    TRUTH["loop"] = {
        "id": id(asyncio.get_running_loop()),
        "event": id(event),
        "lock": id(lock),
        "thread_lock": id(THREAD_LOCK),
        "ident": threading.get_ident(),
        "native_id": threading.get_native_id(),
        "total": len(asyncio.all_tasks()),
    }
    print(json.dumps(TRUTH), flush=True)
    await asyncio.sleep(1000)


if len(sys.argv) > 1 and sys.argv[1] == "uvloop":
    import uvloop

    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(main())
else:
    asyncio.run(main())
