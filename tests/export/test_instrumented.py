"""An application that OpenTelemetry's own instrumentation traces: the stall lies below the span of its request, in whatever trace that is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hangwatch import names
from tests.export.receiver import Receiver, values
from tests.tools import until

pytest.importorskip("opentelemetry.instrumentation.fastapi", reason="opentelemetry-instrumentation-fastapi is not installed")
ROOT = Path(__file__).resolve().parents[2]

SERVICE = """
import asyncio, os
import hangwatch
hangwatch.install(stall_after=1.0, pyspy=False)
import uvicorn
from fastapi import FastAPI
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(float(os.environ["RATIO"]))))
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
app, lock, go = FastAPI(), asyncio.Lock(), asyncio.Event()

@app.get("/orders/{number}")
async def orders(number: int):
    async with lock:
        await go.wait()

@app.get("/go")
async def release():
    go.set()

FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, exclude_spans=["send", "receive"])
uvicorn.run(app, port=int(os.environ["PORT"]), http=os.environ["HTTP"], loop=os.environ["LOOP"], log_level="error")
"""


class Service:
    def __init__(self, folder, url, http, loop, ratio):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        more = {
            "PORT": self.port,
            "HTTP": http,
            "LOOP": loop,
            "RATIO": ratio,
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_SERVICE_NAME": "shop",
        }
        environ = {
            **os.environ,
            **{name: str(value) for name, value in more.items()},
            "HANGWATCH_SPOOL": str(folder),
            "PYTHONPATH": str(ROOT),
        }
        self.process = subprocess.Popen([sys.executable, "-c", SERVICE], env=environ)
        self.clients = []

    def __enter__(self):
        self.clients.append(until(lambda: socket.create_connection(("127.0.0.1", self.port)), "it did not start"))
        return self

    def __exit__(self, *exc):
        for client in self.clients:
            client.close()
        self.process.kill()
        self.process.wait(10)

    def send(self, path, header=""):
        client = socket.create_connection(("127.0.0.1", self.port))
        client.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n{header}\r\n".encode())
        self.clients.append(client)


def stalls(receiver):
    return [span for span in receiver.spans() if names.STALL_LIMIT_MS in values(span.attributes)]


def ended(receiver):
    return [span for span in receiver.spans() if span.name == names.SPAN_ENDED]


@pytest.mark.parametrize(("http", "loop", "traced"), [("httptools", "uvloop", True), ("h11", "asyncio", False)])
def test_the_stall_is_below_the_span_of_the_instrumentation(tmp_path, http, loop, traced):
    """Told while that span is still open, and linked with those of the requests that wait behind it."""
    with Receiver() as receiver, Service(tmp_path, receiver.url, http, loop, 1.0) as service:
        for n in (1, 2, 3):
            service.send(f"/orders/{n}", f"traceparent: 00-{n:032x}-{n:016x}-01\r\n" if traced else "")
        receiver.wait(stalls, timeout=60)
        told_before = [span.name for span in receiver.spans()]
        service.send("/go")
        receiver.wait(lambda r: ended(r) and len([s for s in r.spans() if s.name == "GET /orders/{number}"]) == 3, timeout=60)
        found = {span.span_id: span for span in receiver.spans()}
    assert "GET /orders/{number}" not in told_before
    ours = [span for span in found.values() if span.name in (stalls(receiver)[0].name, names.SPAN_ENDED, f"{names.SPAN_VICTIM} lock")]
    assert len(ours) >= 4, [span.name for span in found.values()]
    for span in ours:
        parent = found[span.parent_span_id]
        assert (parent.name, parent.trace_id) == ("GET /orders/{number}", span.trace_id)
    if traced:
        assert {int(span.trace_id.hex(), 16) for span in ours} == {1, 2, 3}


def test_where_the_instrumentation_does_not_sample_it_has_a_trace_of_its_own(tmp_path):
    with Receiver() as receiver, Service(tmp_path, receiver.url, "h11", "asyncio", 0.0) as service:
        service.send("/orders/1")
        receiver.wait(stalls, timeout=60)
    (stall,) = stalls(receiver)
    assert stall.parent_span_id == b""
