"""A loop that is blocked in the way its first argument says, by its task ``bad``; with uvloop when that is the second."""

import asyncio
import ctypes
import json
import os
import re
import socket
import sys
import threading
import time

LOCK = threading.Lock()


def sleep():
    time.sleep(1000)


def spin():
    number = 0
    while True:
        number += 1


def native():
    ctypes.PyDLL(None).usleep(1_000_000_000)


def regex():
    re.match("(a+)+b", "a" * 64)


def recv():
    here, there = socket.socketpair()
    here.recv(1)
    there.close()


def keep():
    with LOCK:
        time.sleep(1000)


def lock():
    threading.Thread(target=keep, name="keeper", daemon=True).start()
    time.sleep(0.1)
    LOCK.acquire()


async def bad():
    await asyncio.sleep(0.05)
    print(json.dumps({"pid": os.getpid()}), flush=True)
    globals()[sys.argv[1]]()


async def main():
    asyncio.ensure_future(asyncio.sleep(1000)).set_name("other")
    task = asyncio.ensure_future(bad())
    task.set_name("bad")
    await task


if len(sys.argv) > 2:
    import uvloop

    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(main())
else:
    asyncio.run(main())
