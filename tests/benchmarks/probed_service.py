"""What `bench_attach` looks at: tasks that are parked, and one that notes every pause of the loop. Argument: how many are parked.

Each parked task stands in two frames, holds a lock of its own, and waits for an event that nobody sets. The probe wakes every millisecond. Who
sends a datagram to the port in the first line of output is told the longest gap (s) since the last datagram. Runs on CPython 3.9 and later.
"""

import asyncio
import socket
import sys
import time


class Probe(asyncio.DatagramProtocol):
    def __init__(self):
        self.worst = 0.0

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(str(self.worst).encode(), address)
        self.worst = 0.0

    async def beat(self):
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            self.worst, last = max(self.worst, now - last - 0.001), now


async def inner(lock, event):
    async with lock:
        await event.wait()


async def outer(lock, event):
    await inner(lock, event)


async def main():
    transport, probe = await asyncio.get_running_loop().create_datagram_endpoint(Probe, ("127.0.0.1", 0), family=socket.AF_INET)
    beating = asyncio.ensure_future(probe.beat())
    event = asyncio.Event()
    tasks = [asyncio.ensure_future(outer(asyncio.Lock(), event)) for _ in range(int(sys.argv[1]))]
    await asyncio.sleep(0.1)
    print(transport.get_extra_info("sockname")[1], flush=True)
    await asyncio.gather(beating, *tasks)


asyncio.run(main())
