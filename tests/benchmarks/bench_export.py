"""A thousand incidents a minute exported: do requests feel it, and is every incident sent, kept or counted?

One uvicorn makes and keeps incidents at that rate all the time; in every other window it exports them too. A client asks for a small page
over and over meanwhile. So only the export differs. A window with export lasts until all of it has arrived, so that no part of the work
falls into the next one. Windows are compared in neighbouring pairs, in alternating order; what counts is the median of the pairs' ratios,
printed with its interval (90 %, by resampling pairs).

    python -m tests.benchmarks.bench_export [PAIRS]
"""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAIRS = 8
WINDOW_S = 15.0
#: All has arrived long before, or something is wrong.
DRAIN_S = 60.0
PAUSE_S = 0.001
SINK = """
import os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
os.nice(10)  # stands for another machine
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


@dataclass
class Window:
    """``took_ms`` of each request; CPU seconds of the service, and of the processes it started."""

    took_ms: list[float]
    cpu_s: float
    helpers_s: float

    @property
    def cpu_us(self) -> float:
        return self.cpu_s / len(self.took_ms) * 1e6


def requests_until(connection: http.client.HTTPConnection, enough: Callable[[float], bool]) -> list[float]:
    """Milliseconds of each request. ``enough`` is asked about twice a second, with the seconds since the start."""
    took: list[float] = []
    started = time.monotonic()
    look_at = 0.5
    while True:
        begun = time.perf_counter()
        ask(connection, "/")
        took.append((time.perf_counter() - begun) * 1e3)
        time.sleep(PAUSE_S)
        passed = time.monotonic() - started
        if passed >= look_at:
            look_at += 0.5
            if enough(passed):
                return took


def window(connection: http.client.HTTPConnection, exporting: bool) -> Window:
    before = json.loads(ask(connection, "/counts"))
    ask(connection, "/on" if exporting else "/off")
    took = requests_until(connection, lambda passed: passed >= WINDOW_S)
    ask(connection, "/off")
    if exporting:  # what is left of this window's work belongs to it
        took += requests_until(connection, lambda passed: not json.loads(ask(connection, "/counts"))["left"] or passed >= DRAIN_S)
    after = json.loads(ask(connection, "/counts"))
    return Window(took, after["cpu_s"] - before["cpu_s"], after["helpers_s"] - before["helpers_s"])


def measure(spool: Path, pairs: int) -> tuple[list[tuple[Window, Window]], dict[str, int], int]:
    """Pairs of windows (with, without), the exporters' counts at the end, what is left in the outbox."""
    port, sink_port = free_port(), free_port()
    command = [sys.executable, "-m", "tests.benchmarks.export_service", str(port), str(spool), f"http://127.0.0.1:{sink_port}"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "HANGWATCH_"))}
    sink = subprocess.Popen([sys.executable, "-c", SINK, str(sink_port)])
    service = subprocess.Popen(command, cwd=ROOT, env=environ)
    try:
        connection = connect(port)
        window(connection, True)  # OpenTelemetry is imported once, before anything is measured
        found = []
        for number in range(pairs):
            first, second = window(connection, number % 2 == 0), window(connection, number % 2 == 1)
            found.append((first, second) if number % 2 == 0 else (second, first))
        counts = json.loads(ask(connection, "/counts"))
        return found, counts, len([path for path in spool.glob("outbox/*/*") if path.name != "lock"])
    finally:
        for process in (service, sink):
            process.kill()
            process.wait()


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def interval(ratios: list[float]) -> tuple[float, float]:
    """Of the median, 90 %, by resampling."""
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(4000))
    return quantile(medians, 0.05), quantile(medians, 0.95)


def row(name: str, unit: str, pairs: list[tuple[Window, Window]], value: Callable[[Window], float], budget: float) -> dict[str, Any]:
    values = [(value(with_), value(without)) for with_, without in pairs]
    ratios = [a / b for a, b in values]
    ratio, (low, high) = statistics.median(ratios), interval(ratios)
    print(f"{name}: {ratio:.3f} [{low:.3f}, {high:.3f}] of {' '.join(f'{r:.3f}' for r in ratios)}", file=sys.stderr)
    return {
        "name": f"{name} [{low:.3f}, {high:.3f}]", "unit": unit,
        "with": statistics.median(a for a, _ in values), "without": statistics.median(b for _, b in values),
        "ratio": ratio, "budget": f"<= {budget:g}", "ok": ratio <= budget,
    }  # fmt: skip


def main(pairs: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        found, counts, left = measure(Path(folder), pairs)
    helpers = statistics.median(with_.helpers_s / len(with_.took_ms) * 1e6 for with_, _ in found)
    print(counts, f"couriers: {helpers:.1f} us of CPU a request, at the lowest priority", file=sys.stderr)
    told = sum(counts.get(f"traces_{what}", 0) for what in ("sent", "waiting", "dropped", "refused")) + counts["notes_dropped"]
    return [
        row("request while 1,000 incidents a minute are exported, median", "ms", found, lambda w: statistics.median(w.took_ms), 1.01),
        row("the same, p99", "ms", found, lambda w: quantile(w.took_ms, 0.99), 1.05),
        row("the same, CPU of the service per request", "us", found, lambda w: w.cpu_us, 1.05),
        {
            "name": "incidents of a minute: sent, kept or counted", "unit": "incidents", "with": told, "without": counts["offered"],
            "ratio": told / counts["offered"], "budget": "= 1, all sent", "ok": told == counts["offered"] == counts["traces_sent"] and left == 0,
        },
    ]  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS)))
