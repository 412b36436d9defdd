"""Steady keep-alive load: arguments are a port, how many connections, and the most seconds. Ends earlier when its standard input is closed.

Prints at the end how many requests were sent, how many were answered rightly, and the longest any of them took (ms), as JSON.
"""

import asyncio
import json
import sys
import time

REQUEST = b"GET /work HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Count:
    sent = answered = 0
    worst_s = 0.0


async def connection(port, count, over):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while not over.is_set():
        began = time.perf_counter()
        count.sent += 1
        writer.write(REQUEST)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        body = await asyncio.wait_for(reader.readexactly(2), 60)
        count.answered += head.startswith(b"HTTP/1.1 200 ") and body == b"ok"
        count.worst_s = max(count.worst_s, time.perf_counter() - began)
        await asyncio.sleep(0.005)
    writer.close()


async def main():
    port, connections, seconds = (int(word) for word in sys.argv[1:4])
    count, over = Count(), asyncio.Event()
    running = [asyncio.ensure_future(connection(port, count, over)) for _ in range(connections)]
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await asyncio.wait([ended], timeout=seconds)
    over.set()
    failed = [repr(found) for found in await asyncio.gather(*running, return_exceptions=True) if found is not None]
    print(
        json.dumps({"sent": count.sent, "answered": count.answered, "worst_ms": round(count.worst_s * 1e3, 1), "failed": failed}),
        flush=True,
    )


asyncio.run(main())
