"""A thousand incidents a minute exported: do requests feel it, and is every incident sent, kept or counted?

One uvicorn makes and keeps incidents at that rate all the time; every other turn it exports them too. A client asks for a small page
over and over meanwhile. So only the export differs, and what the machine does besides hits both.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TURNS = 12
TURN_S = 10.0
PAUSE_S = 0.001
SINK = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Sink(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *args):
        pass
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Sink).serve_forever()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def connect(port: int) -> http.client.HTTPConnection:
    end = time.monotonic() + 60
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def ask(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    return connection.getresponse().read()


def turn(connection: http.client.HTTPConnection, seconds: float) -> list[float]:
    """Milliseconds of each request."""
    took = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.perf_counter()
        ask(connection, "/")
        took.append((time.perf_counter() - begun) * 1e3)
        time.sleep(PAUSE_S)
    return took


def measure(spool: Path) -> tuple[dict[str, list[list[float]]], dict[str, int], int]:
    """Latencies by turn, the exporters' counts at the end, parcels left in the outbox."""
    port, sink_port = free_port(), free_port()
    command = [sys.executable, "-m", "tests.benchmarks.export_service", str(port), str(spool), f"http://127.0.0.1:{sink_port}"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "HANGWATCH_"))}
    sink = subprocess.Popen([sys.executable, "-c", SINK, str(sink_port)])
    service = subprocess.Popen(command, cwd=ROOT, env=environ)
    try:
        connection = connect(port)
        ask(connection, "/on")  # OpenTelemetry is imported once, before anything is measured
        turn(connection, 3.0)
        took: dict[str, list[list[float]]] = {"with": [], "without": []}
        for number in range(TURNS):
            which = "without" if number % 2 else "with"
            ask(connection, "/on" if which == "with" else "/off")
            turn(connection, 0.3)
            took[which].append(turn(connection, TURN_S))
        ask(connection, "/off")
        time.sleep(2.0)
        counts = json.loads(ask(connection, "/counts"))
        return took, counts, len(list(spool.glob("outbox/*/*.json")))
    finally:
        for process in (service, sink):
            process.kill()
            process.wait()


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def row(name: str, took: dict[str, list[list[float]]], share: float, budget: float) -> dict[str, Any]:
    """The median over the turns, so that one bad moment of the machine does not decide."""
    found = {which: statistics.median(quantile(values, share) for values in turns) for which, turns in took.items()}
    ratio = found["with"] / found["without"]
    return {"name": name, "unit": "ms", **found, "ratio": ratio, "budget": f"<= {budget:g}", "ok": ratio <= budget}


def main() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        took, counts, left = measure(Path(folder))
    print(counts, {which: [round(max(values), 1) for values in turns] for which, turns in took.items()}, file=sys.stderr)
    told = sum(counts[f"traces_{what}"] for what in ("sent", "waiting", "dropped", "refused"))
    return [
        row("request while 1,000 incidents a minute are exported, median", took, 0.5, 1.10),
        row("the same, p99", took, 0.99, 1.5),
        {
            "name": "incidents of a minute: sent, kept or counted", "unit": "incidents", "with": told, "without": counts["offered"],
            "ratio": told / counts["offered"], "budget": "= 1, all sent", "ok": told == counts["offered"] == counts["traces_sent"] and left == 0,
        },
    ]  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main()))
