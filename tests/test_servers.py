"""Real servers other than uvicorn under the agent: what they are told of by themselves, with no hook in the way of their requests."""

from __future__ import annotations

import sys
import time

import pytest

from tests.services import running

THREADS = """
import threading, time
one, other = threading.Lock(), threading.Lock()
ways = {"/a": (one, other), "/b": (other, one)}
def app(environ, start_response):
    if environ["PATH_INFO"] in ways:
        transfer(*ways[environ["PATH_INFO"]])
    if environ["PATH_INFO"] == "/never":
        wait_for_nobody()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
def wait_for_nobody():
    threading.Event().wait()
def transfer(first, second):
    with first:
        time.sleep(0.3)
        with second:
            pass
"""

DEVICES = """
import sys, threading
from websockets.sync.server import serve
lock = threading.Lock()
def handler(connection):
    connection.recv()
    with lock:
        connection.recv()
with serve(handler, "127.0.0.1", int(sys.argv[1])) as server:
    server.serve_forever()
"""

#: By each server: a websocket that takes a lock for as long as the other one likes.
AIOHTTP = """
import asyncio, sys
from aiohttp import web
lock = asyncio.Lock()
async def chat(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    await ws.receive()
    async with lock:
        await ws.receive()
    return ws
app = web.Application()
app.add_routes([web.get("/chat", chat)])
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
"""
ASGI = """
import asyncio
lock = asyncio.Lock()
async def app(scope, receive, send):
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    await receive()
    async with lock:
        await receive()
"""
CHATS = {
    "aiohttp": (AIOHTTP, lambda port: [sys.executable, "served.py", str(port)]),
    "hypercorn": (ASGI, lambda port: [sys.executable, "-m", "hypercorn", "-b", f"127.0.0.1:{port}", "served:app"]),
    "uvicorn": (ASGI, lambda port: [sys.executable, "-m", "uvicorn", "--port", str(port), "--ws", "websockets-sansio", "served:app"]),
}

CLEANUP = """
import asyncio, sys
from aiohttp import web
async def ends(app):
    await asyncio.Event().wait()
async def answer(request):
    return web.Response(text="ok")
async def main():
    app = web.Application()
    app.add_routes([web.get("/", answer)])
    if "stuck-start" in sys.argv:
        app.on_startup.append(ends)
    app.on_cleanup.append(ends)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1])).start()
    await asyncio.sleep(1.5)
    await runner.cleanup()
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("worker", "paths", "cause", "function"),
    [("gthread", ("/a", "/b"), "deadlock", "transfer"), ("sync", ("/never",), "never-set", "wait_for_nobody")],
)
def test_gunicorns_threads(tmp_path, worker, paths, cause, function):
    pytest.importorskip("gunicorn")
    (tmp_path / "served.py").write_text(THREADS)
    command = [sys.executable, "-m", "gunicorn", "-k", worker, *(["--threads", "4"] if worker == "gthread" else []), "-b"]
    with running(tmp_path, lambda port: [*command, f"127.0.0.1:{port}", "served:app"]) as service:
        stuck = [service.open(path) for path in paths]
        told = service.until(lambda found: any(i["findings"] for i in found))[0]
        assert told["stall"]["kind"] == "request"
        assert {r["route"] for r in told["snapshot"]["requests"]} == set(paths)
        assert told["findings"][0]["cause"] == cause
        assert told["findings"][0]["culprit"][0]["function"] == function
        for one in stuck:
            one.close()


def test_websockets_threads_that_wait_for_a_lock(tmp_path):
    client = pytest.importorskip("websockets.sync.client")
    (tmp_path / "served.py").write_text(DEVICES)
    with running(tmp_path, lambda port: [sys.executable, "served.py", str(port)]) as service:
        url = f"ws://127.0.0.1:{service.port}"
        with client.connect(url) as first, client.connect(url) as second:
            first.send("hello")
            second.send("hello")
            (told,) = service.until(lambda found: bool(found))
            (request,) = [r for r in told["snapshot"]["requests"] if r["id"] == told["stall"]["subject_id"]]
            assert (request["method"], request["task_id"].split(":")[0]) == ("WEBSOCKET", "thread")
            assert "handler" in str(told["findings"][0]["culprit"])
            for one in (first, second):  # whichever has it
                one.send("bye")
            service.until(lambda found: found[0]["closed_at"] is not None)


@pytest.mark.parametrize("server", CHATS)
def test_websockets_may_be_idle_but_not_wait_for_a_lock(tmp_path, server):
    client = pytest.importorskip("websockets.sync.client")
    pytest.importorskip(server)
    source, command = CHATS[server]
    (tmp_path / "served.py").write_text(source)
    with running(tmp_path, command) as service:
        url = f"ws://127.0.0.1:{service.port}/chat"
        with client.connect(url) as first, client.connect(url) as second:
            time.sleep(2.5)
            assert service.incidents() == []
            first.send("hello")
            second.send("hello")
            (told,) = service.until(lambda found: bool(found))
            (request,) = [r for r in told["snapshot"]["requests"] if r["id"] == told["stall"]["subject_id"]]
            assert (request["method"], request["route"]) == ("WEBSOCKET", "/chat")
            assert told["findings"][0]["cause"] == "holder-stuck"
            for one in (first, second):  # whichever has it
                one.send("bye")
            service.until(lambda found: found[0]["closed_at"] is not None)


@pytest.mark.parametrize(("argument", "kind"), [("", "shutdown"), ("stuck-start", "startup")])
def test_aiohttp_that_does_not_start_or_stop(tmp_path, argument, kind):
    pytest.importorskip("aiohttp")
    (tmp_path / "served.py").write_text(CLEANUP)
    with running(tmp_path, lambda port: [sys.executable, "served.py", str(port), argument], listens=kind == "shutdown") as service:
        (told,) = service.until(lambda found: bool(found))
        assert told["stall"]["kind"] == kind
        assert told["findings"][0]["cause"] == f"stuck-{kind}"
        assert told["findings"][0]["culprit"][0]["function"] == "ends"


def test_a_task_that_is_lost(tmp_path):
    (tmp_path / "served.py").write_text(
        "import asyncio, gc\n"
        "ready = asyncio.Event()\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'lifespan':\n"
        "        return\n"
        "    if scope['path'] == '/stuck':\n"
        "        asyncio.ensure_future(work(ready))\n"
        "        await asyncio.sleep(0.1)\n"
        "        gc.collect()\n"
        "        await ready.wait()\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': b'ok'})\n"
        "async def work(ready):\n"
        "    await asyncio.get_running_loop().create_future()\n"
        "    ready.set()\n"
    )
    with running(tmp_path, lambda port: [sys.executable, "-m", "uvicorn", "--port", str(port), "served:app"]) as service:
        stuck = service.open("/stuck")
        (told,) = service.until(lambda found: bool(found))
        assert told["findings"][0]["cause"] == "task-lost"
        assert [frame["function"] for frame in told["findings"][0]["culprit"]][:2] == ["work", "app"]
        stuck.close()
