"""Which span a stalled request of an instrumented application belongs to."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hangwatch.integrations.opentelemetry import active_span
from hangwatch.reading.live import LiveReader
from hangwatch.store import Store
from tests.tools import until

trace = pytest.importorskip("opentelemetry.sdk.trace")
ROOT = Path(__file__).resolve().parents[2]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def spans_of(*bodies, sampler=None):
    """What is active in a task that runs each of these, parked."""
    tracer = trace.TracerProvider(sampler=sampler).get_tracer("app")

    async def main():
        tasks = [asyncio.create_task(body(tracer), name=str(n)) for n, body in enumerate(bodies)]
        await asyncio.sleep(0)
        views = {view.name: view for view in LiveReader([asyncio.get_running_loop()]).tasks()}
        found = [active_span(views[str(n)]) for n in range(len(bodies))]
        for task in tasks:
            task.cancel()
        return found

    return asyncio.run(main())


def test_what_is_active_in_a_parked_task():
    seen = []

    async def inside(tracer):
        with tracer.start_as_current_span("GET /"), tracer.start_as_current_span("inner") as span:
            seen.append(span)
            await asyncio.Event().wait()

    async def outside(tracer):
        with tracer.start_as_current_span("over"):
            pass
        await asyncio.Event().wait()

    async def never(tracer):
        await asyncio.Event().wait()

    found, over, none = spans_of(inside, outside, never)
    (span,) = seen
    assert (found.trace_id, found.span_id) == (f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}")
    assert found.sampled and found.began_ns == span.start_time
    assert over is None and none is None


def test_ended_remote_and_unsampled_spans():
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

    async def ended(tracer):
        with tracer.start_as_current_span("GET /") as span:
            span.end()
            await asyncio.Event().wait()

    async def remote(tracer):
        with use_span(NonRecordingSpan(SpanContext(1, 2, True, TraceFlags(1)))):
            await asyncio.Event().wait()

    async def parked(tracer):
        with tracer.start_as_current_span("GET /"):
            await asyncio.Event().wait()

    assert spans_of(ended, remote) == [None, None]
    assert spans_of(parked, sampler=ALWAYS_OFF) == [None], "nothing records, so a back-end will have no such span"


SERVICE = """
import asyncio, json, os
import hangwatch, uvicorn
from opentelemetry import trace
from opentelemetry.propagate import extract
from opentelemetry.sdk.trace import TracerProvider
hangwatch.install(stall_after=0.8, pyspy=False)
tracer = TracerProvider().get_tracer("app")
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/bare":
        await asyncio.Event().wait()
    carrier = {name.decode(): value.decode() for name, value in scope["headers"]}
    with tracer.start_as_current_span("GET", context=extract(carrier)) as span:
        print(json.dumps({"path": scope["path"], "span": f"{span.context.span_id:016x}", "trace": f"{span.context.trace_id:032x}"}), flush=True)
        if scope["path"] == "/first":  # answered, and goes on
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})
            await asyncio.sleep(60)
        await asyncio.Event().wait()
uvicorn.run(app, port=int(os.environ["PORT"]), http=os.environ["HTTP"], log_level="error")
"""


class Service:
    def __init__(self, folder, http):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        environ = {**os.environ, "PORT": str(self.port), "HTTP": http, "HANGWATCH_SPOOL": str(folder), "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen([sys.executable, "-c", SERVICE], env=environ, stdout=subprocess.PIPE, text=True)
        self.store = Store(folder)

    def __enter__(self):
        self.client = until(lambda: socket.create_connection(("127.0.0.1", self.port)), "it did not start")
        return self

    def __exit__(self, *exc):
        self.client.close()
        self.process.kill()
        self.process.wait(10)
        self.process.stdout.close()

    def send(self, *paths, traced):
        header = f"traceparent: 00-{TRACE}-{PARENT}-01\r\n" if traced else ""
        self.client.sendall(b"".join(f"GET {path} HTTP/1.1\r\nhost: x\r\n{header}\r\n".encode() for path in paths))

    def said(self):
        return json.loads(self.process.stdout.readline())

    def request(self, path):
        """As the first incident knows it."""
        until(lambda: self.store.ids(), "no incident")
        return next(r for incident in self.store.list() for r in incident.snapshot.requests if r.route == path)


@pytest.mark.parametrize("traced", [True, False])
def test_the_stall_is_in_the_span_of_its_request(tmp_path, traced):
    with Service(tmp_path, "h11") as service:
        service.send("/second", traced=traced)
        span = service.said()
        request = service.request("/second")
    assert (request.trace_id, request.span_id, request.sampled) == (span["trace"], span["span"], True)
    assert (request.trace_id == TRACE) == traced


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_a_pipelined_request_is_not_in_the_span_of_the_one_before(tmp_path, http):
    """The first is answered, its span still open, when the second begins, in its context."""
    pytest.importorskip(http)
    with Service(tmp_path, http) as service:
        service.send("/first", "/bare", traced=True)
        request = service.request("/bare")
    assert (request.trace_id, request.span_id) == (TRACE, PARENT), "its caller's"
