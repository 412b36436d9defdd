import argparse
import asyncio

from websockets.asyncio.server import serve

viewers = set()
TICK = "x" * 60000


async def publish():
    while True:
        for viewer in list(viewers):
            await viewer.send(TICK)
        await asyncio.sleep(0.02)


async def viewer(connection):
    viewers.add(connection)
    try:
        await connection.wait_closed()
    finally:
        viewers.discard(connection)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    async with serve(viewer, "127.0.0.1", parser.parse_args().port, compression=None, ping_interval=None):
        await publish()


if __name__ == "__main__":
    asyncio.run(main())
