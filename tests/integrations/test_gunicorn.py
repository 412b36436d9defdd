"""A real gunicorn with its own ASGI worker, which tells what it sees of itself."""

from __future__ import annotations

import json
import os
import socket
import sys
import urllib.request
from pathlib import Path

import pytest

from hangwatch.records import FOREVER, Snapshot, from_json
from tests.integrations.stage import Seen, client
from tests.processes import running, until

pytest.importorskip("gunicorn.asgi.protocol")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "-k",
        "asgi",
        "-b",
        f"127.0.0.1:{number}",
        "--log-level",
        "critical",
        "--graceful-timeout",
        "1",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with running([*command, "tests.integrations.gunicorn_service:app"], env=environment, cwd=ROOT) as child:
        until(lambda: answers(number))
        yield number
        child.terminate()
        child.wait(10)


def answers(port: int) -> bool:
    try:
        return bool(look(port))
    except OSError:
        return False


def look(port: int) -> Seen:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/look", timeout=20) as answer:
        return Seen(from_json(Snapshot, json.load(answer)))


def when(port: int, ready) -> Seen:
    found = []
    until(lambda: found.append(look(port)) or ready(found[-1]))
    return found[-1]


def test_request_and_connection(port):
    with client(
        port, b"GET /stuck?x=1 HTTP/1.1\r\nHost: t\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"
    ):
        seen = when(port, lambda now: now.of("stuck") and now.request("/stuck"))
        request = seen.request("/stuck")
        assert (request.method, request.phase, request.task_id) == ("GET", "app", seen.of("stuck").id)
        assert request.trace_id == "0af7651916cd43dd8448eb211c80319c"
        assert request.connection_id in {c.id for c in seen.taken.connections}
        assert not seen.taken.gaps


def test_body_that_stops_half_way(port):
    with client(port, b"POST /upload HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nhalf"):
        seen = when(port, lambda now: (found := now.awaited_by("read_body")) and found.kind == "body")
        body = seen.awaited_by("read_body")
        assert (body.ready, body.state["complete"]) == (False, False)
        assert seen.request("/upload").phase == "body"


def test_slow_client(port):
    with client(port, b"GET /pour HTTP/1.1\r\nHost: t\r\n\r\n", small=True):
        seen = when(port, lambda now: (found := now.awaited_by("pour")) and found.kind == "client")
        assert seen.awaited_by("pour").state["write_paused"] is True


def test_idle_connection_is_patient(port):
    with client(port):
        seen = when(port, lambda now: [p for p in now.primitives.values() if p.library == "gunicorn" and p.kind == "peer"])
        assert all(p.patience_ns == FOREVER for p in seen.primitives.values() if p.library == "gunicorn" and p.kind == "peer")
