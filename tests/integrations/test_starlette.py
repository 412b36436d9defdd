"""Real Starlette and FastAPI applications under a real uvicorn: whose request a child task or thread works for."""

from __future__ import annotations

import asyncio
import threading

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from hangwatch.graph import WaitGraph
from hangwatch.records import FOREVER
from tests.integrations.stage import client, parked, uvicorn_running, when

release = threading.Event()


class Timing(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        return await call_next(request)


async def stuck(request):
    await asyncio.Event().wait()


async def below(request):
    await asyncio.Event().wait()


def in_thread(request):
    release.wait()
    return JSONResponse({})


async def upload(request):
    await request.body()
    return JSONResponse({})


async def background(request):
    return JSONResponse({}, background=BackgroundTask(afterwards))


async def afterwards():
    await asyncio.Event().wait()


async def stream(request):
    return StreamingResponse(rows())


async def rows():
    yield b"first"
    await asyncio.Event().wait()
    yield b"never"


ROUTES = [
    Route("/stuck/{number}", stuck),
    Route("/below", below),
    Route("/thread", in_thread),
    Route("/upload", upload, methods=["POST"]),
    Route("/background", background),
    Route("/stream", stream),
]
GET = "GET {} HTTP/1.1\r\nHost: t\r\n\r\n"


@pytest.fixture(scope="module")
def plain():
    with uvicorn_running(Starlette(routes=ROUTES)) as port:
        yield port
        release.set()


@pytest.fixture(scope="module")
def layered():
    with uvicorn_running(Starlette(routes=ROUTES, middleware=[Middleware(Timing)])) as port:
        yield port


def test_route_is_the_pattern(plain):
    with client(plain, GET.format("/stuck/7?who=me").encode()):
        request = parked("stuck", "event").taken.requests[0]
        assert request.route in ("/stuck/{number}", "/stuck/7")  # starlette tells its pattern from 1.0 on
        assert request.task_id


def test_thread_of_a_synchronous_endpoint(plain):
    with client(plain, GET.format("/thread").encode()):
        seen = when(lambda now: now.of("in_thread") and now.request("/thread") and now.of("in_thread").serves)
        thread, request = seen.of("in_thread"), seen.request("/thread")
        assert thread.serves == request.task_id
        job = seen.primitives[seen.tasks[request.task_id].waits_on]
        assert (job.kind, job.holders, job.state["function"]) == ("job", (thread.id,), "in_thread")
        release.set()


def test_body_through_starlette(plain):
    with client(plain, b"POST /upload HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nab"):
        body = parked("upload", "body").awaited_by("upload")
        assert body.ready is False


def test_streaming_child_task_works_for_the_request(plain):
    with client(plain, GET.format("/stream").encode()):
        seen = when(lambda now: (task := now.of("rows")) and task.request_id)
        request = seen.request("/stream")
        assert seen.of("rows").request_id == request.id
        listening = seen.of("listen_for_disconnect")
        if listening is not None:
            watched = seen.primitives[listening.waits_on]
            assert (watched.kind, watched.patience_ns) == ("disconnect", FOREVER)


def test_middleware_waits_for_the_task_below(layered):
    with client(layered, GET.format("/below").encode()):
        seen = when(lambda now: now.of("below") and (found := now.awaited_by("dispatch")) and found.holders)
        child, above = seen.of("below"), seen.of("dispatch")
        assert seen.awaited_by("dispatch").kind == "task"
        assert seen.awaited_by("dispatch").holders == (child.id,)
        assert child.parent_id == above.id
        assert child.request_id == above.request_id
        assert WaitGraph(seen.taken).final(above.id)[-1] == child.waits_on


def test_background_task_below_a_middleware(layered):
    with client(layered, GET.format("/background").encode()):
        # The request's own task has to come to rest as well: until then nothing says whose the background task is.
        seen = when(lambda now: (task := now.of("afterwards")) and task.request_id)
        of_the_task = seen.of("afterwards").request_id
        assert {request.route for request in seen.taken.requests if request.id == of_the_task} == {"/background"}


def test_fastapi_pattern_and_dependency_in_a_thread():
    fastapi = pytest.importorskip("fastapi")
    app = fastapi.FastAPI()
    held = threading.Event()

    def dependency():
        held.wait()
        yield 1

    @app.get("/orders/{number}")
    async def orders(number: int, connection=fastapi.Depends(dependency)):  # noqa: B008
        return {}

    with uvicorn_running(app) as port, client(port, GET.format("/orders/5").encode()):
        seen = when(lambda now: now.of("dependency") and now.of("dependency").serves)
        request = seen.request("/orders/{number}")
        assert seen.of("dependency").serves == request.task_id
        held.set()
