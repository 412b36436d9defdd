import argparse
import threading
import time

from aiohttp import web

readings = []


def poll():
    while True:
        readings.append(time.time())
        time.sleep(0.5)


async def start(app):
    threading.Thread(target=poll, name="meter-poller").start()


async def index(request):
    return web.json_response({"readings": len(readings)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    app = web.Application()
    app.on_startup.append(start)
    app.router.add_get("/", index)
    web.run_app(app, host="127.0.0.1", port=parser.parse_args().port, print=None)
