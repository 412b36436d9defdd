"""A real uvicorn of which a part stands still and a part never does. First line of output: its port.

``/hold`` takes the lock and waits for what nobody sets, ``/wait`` queues for the lock: they stay. ``/work`` hops through a few coroutines, in and out of
a lock of its own, with a child task now and then, while tasks that never rest spin beside it. ``/truth`` says what the parked ones are: their ids, chains, and the lock.
"""

import asyncio
import json
import random
import socket

import uvicorn

ledger = asyncio.Lock()
never = asyncio.Event()
parked = {}
spinning = []
SPINNERS = 6


async def hop(seconds):
    await asyncio.sleep(seconds)


async def inside(own):
    async with own:
        await hop(0)
        await hop(random.random() * 0.002)


async def work():
    await inside(asyncio.Lock())
    if random.random() < 0.3:
        await asyncio.ensure_future(hop(random.random() * 0.002))
    await hop(0)


async def spin():
    """Never at rest while it is awake: for a look that takes two moments for one."""
    own = asyncio.Lock()
    while True:
        for _ in range(100):
            async with own:
                await hop(0)
                await hop(0)
            await hop(0)
        await hop(0.001)


async def hold():
    async with ledger:
        await never.wait()


async def wait():
    async with ledger:
        pass


def chain(coroutine):
    while asyncio.iscoroutine(coroutine):
        yield [coroutine.cr_frame.f_code.co_filename, coroutine.cr_frame.f_lineno, coroutine.__qualname__]
        coroutine = coroutine.cr_await


def truth():
    tasks = {name: {"id": f"task:{id(task):x}", "chain": list(chain(task.get_coro()))} for name, task in parked.items()}
    return {"lock": f"lock:{id(ledger):x}", "event": f"event:{id(never):x}", "tasks": tasks}


async def app(scope, receive, send):
    if not spinning:
        spinning.extend(asyncio.ensure_future(spin()) for _ in range(SPINNERS))
    path = scope["path"][1:]
    body = b"ok"
    if path == "truth":
        body = json.dumps(truth()).encode()
    elif path == "work":
        await work()
    else:
        name = f"{path}-{len(parked)}"
        parked[name] = asyncio.current_task()
        parked[name].set_name(name)
        await {"hold": hold, "wait": wait}[path]()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off")).run(sockets=[listener])
