import argparse
import asyncio
import queue
import threading

from aiohttp import web


class Broker:
    """A client with a network thread of its own; replies come by callback, in that thread."""

    def __init__(self):
        self.outbox = queue.Queue()
        self.waiting = {}
        threading.Thread(target=self.network, name="broker-network", daemon=True).start()

    def network(self):
        while True:
            topic, event = self.outbox.get()
            event.wait(0.3)
            self.on_message(topic, f"reply to {topic}")

    def on_message(self, topic, payload):
        future = self.waiting.pop(topic)
        future.set_result(payload)


broker = Broker()


async def request_reply(topic):
    future = asyncio.get_running_loop().create_future()
    broker.waiting[topic] = future
    broker.outbox.put((topic, threading.Event()))
    return await future


async def call(request):
    return web.json_response({"reply": await request_reply(request.match_info["topic"])})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    app = web.Application()
    app.router.add_get("/call/{topic}", call)
    web.run_app(app, host="127.0.0.1", port=parser.parse_args().port, print=None)
