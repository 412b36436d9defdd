"""What hangs in a container: two tasks that take two locks in opposite order, and a thread that waits for a silent peer. A timer goes on."""

import asyncio
import json
import os
import socket
import threading


async def transfer(first, second):
    async with first:
        await asyncio.sleep(0.05)
        async with second:
            pass


def wait_for_peer(port):
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.recv(1)


async def silence(reader, writer):
    await asyncio.Event().wait()
    writer.close()


async def main():
    one, two = asyncio.Lock(), asyncio.Lock()
    silent = await asyncio.start_server(silence, "127.0.0.1", 8080)
    tasks = [asyncio.create_task(transfer(one, two), name="there"), asyncio.create_task(transfer(two, one), name="back")]
    threading.Thread(target=wait_for_peer, args=(8080,), name="patient", daemon=True).start()
    await asyncio.sleep(0.3)
    said = {"pid": os.getpid(), "uid": os.getuid(), "threads": {thread.name: thread.native_id for thread in threading.enumerate()}}
    print(json.dumps(said), flush=True)
    while silent and not all(task.done() for task in tasks):
        await asyncio.sleep(0.05)


asyncio.run(main())
