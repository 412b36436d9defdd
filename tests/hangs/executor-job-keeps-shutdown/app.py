import argparse
import asyncio
import queue

from aiohttp import web

mails = queue.Queue()
sent = []


def mailer():
    while True:
        sent.append(mails.get())


async def start(app):
    app["mailer"] = asyncio.create_task(asyncio.to_thread(mailer))


async def index(request):
    mails.put("hello")
    return web.json_response({"sent": len(sent)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    app = web.Application()
    app.on_startup.append(start)
    app.router.add_get("/", index)
    web.run_app(app, host="127.0.0.1", port=parser.parse_args().port, print=None)
