"""A real uvicorn service with the agent inside: it hangs, and the receiver and the scraper see it; it is killed, and the next one tells."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from hangwatch import names
from tests.export.incidents import TRACE
from tests.export.receiver import Receiver, values

ROOT = Path(__file__).resolve().parents[2]
SERVICE = """
import asyncio, os, time
import hangwatch, uvicorn
hangwatch.install(spool=os.environ["SPOOL"], otlp=os.environ["URL"], stall_after=1.5, loop_after=0.3, pyspy=False, service="shop",
                  metrics_port=int(os.environ["METRICS"]), metrics_otlp=False)
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/parked":
        await asyncio.Event().wait()
    if scope["path"] == "/blocked":
        time.sleep(3)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
uvicorn.run(app, port=int(os.environ["PORT"]), log_level="error")
"""


def free():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Service:
    def __init__(self, spool, url):
        self.port, self.metrics = free(), free()
        env = {**os.environ, "SPOOL": str(spool), "URL": url, "PORT": str(self.port), "METRICS": str(self.metrics), "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen([sys.executable, "-c", SERVICE], env=env)
        self.sockets = []

    def __enter__(self):
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                assert time.monotonic() < deadline and self.process.poll() is None
                time.sleep(0.05)

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait(10)
        for connection in self.sockets:
            connection.close()

    def send(self, path, traceparent=""):
        connection = socket.create_connection(("127.0.0.1", self.port), 10)
        extra = f"traceparent: {traceparent}\r\n" if traceparent else ""
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n{extra}\r\n".encode())
        self.sockets.append(connection)
        return connection

    def scrape(self):
        request = urllib.request.Request(f"http://127.0.0.1:{self.metrics}/metrics", headers={"accept": "application/openmetrics-text"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read().decode()

    def scrape_until(self, *words):
        deadline = time.monotonic() + 30
        while True:
            text = self.scrape()
            if all(word in text for word in words):
                return text
            assert time.monotonic() < deadline, text
            time.sleep(0.1)


def stalls(receiver):
    return [span for span in receiver.spans() if " stall " in span.name]


def test_a_parked_request_is_in_its_own_trace_and_on_the_dashboard(tmp_path):
    with Receiver() as receiver, Service(tmp_path, receiver.url) as service:
        service.send("/parked", f"00-{TRACE}-00f067aa0ba902b7-01")
        receiver.wait(lambda r: stalls(r), timeout=40)
        (stall,) = stalls(receiver)
        assert (stall.trace_id.hex(), stall.parent_span_id.hex()) == (TRACE, "00f067aa0ba902b7")
        attributes = values(stall.attributes)
        assert (attributes["url.path"], attributes["http.request.method"], attributes["error.type"]) == ("/parked", "GET", "request")
        assert any(span.name.startswith("waits for") for span in receiver.spans())
        cause = attributes[names.CAUSE]
        text = service.scrape_until(
            f'hangwatch_incidents_open{{hangwatch_cause="{cause}"}} 1.0', 'hangwatch_requests_stalled{http_route="/parked"} 1.0'
        )
        assert f'trace_id="{TRACE}"' in text, "the exemplar leads to the trace"


def test_metrics_are_readable_while_the_loop_is_blocked(tmp_path):
    with Receiver() as receiver, Service(tmp_path, receiver.url) as service:
        service.scrape_until('hangwatch_loop_utilization_ratio{hangwatch_loop="0"}')  # it has served for a second
        client = service.send("/blocked")
        service.scrape_until('hangwatch_incidents_open{hangwatch_cause="blocked-loop')
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)  # the loop is blocked still
        receiver.wait(lambda r: any(span.name == "stall ended" for span in r.spans()), timeout=40)
        (stall,) = stalls(receiver)
        assert stall.name.startswith("event loop stall")
        service.scrape_until("hangwatch_stall_duration_seconds_count{")


def test_a_killed_workers_stalls_are_told_as_ended_by_the_next(tmp_path):
    with Receiver() as receiver:
        with Service(tmp_path, receiver.url) as service:
            service.send("/parked")
            receiver.wait(lambda r: stalls(r), timeout=40)
        (stall,) = stalls(receiver)
        with Service(tmp_path, receiver.url):
            receiver.wait(lambda r: any(span.name == "stall ended" for span in r.spans()), timeout=40)
        (ended,) = [span for span in receiver.spans() if span.name == "stall ended"]
        assert values(ended.attributes)[names.ENDED_BY] == "killed"
        assert ended.trace_id == stall.trace_id
        assert ended.links[0].span_id == stall.span_id
