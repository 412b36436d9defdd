"""A thousand incidents a minute exported: do requests feel it, and is every incident sent, kept or counted?

Two uvicorns make and keep incidents at that rate; in each window one of them exports them too, the other one in the next. A client asks
both for a small page in turns, so that a pair of requests lies a millisecond apart, and whatever else the machine does hits both alike. Only
the export differs. A window lasts until all of it has arrived. What counts is the median of the windows' ratios, printed with its interval
(90 %, by resampling windows).

What the couriers' CPU time costs, beside the interpreter's, both feel; so it is printed too.

    python -m tests.benchmarks.bench_export [WINDOWS]
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
WINDOWS = 10
WINDOW_S = 12.0
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


class Twin:
    """A service with its spool; what it says of itself."""

    def __init__(self, folder: Path, sink_port: int) -> None:
        self.spool = folder
        port = free_port()
        command = [sys.executable, "-m", "tests.benchmarks.export_service", str(port), str(folder), f"http://127.0.0.1:{sink_port}"]
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "HANGWATCH_"))}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environ)
        self.connection = connect(port)

    def ask(self, path: str) -> bytes:
        return ask(self.connection, path)

    def counts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ask("/counts"))
        return found

    def left(self) -> int:
        return len([path for path in self.spool.glob("outbox/*/*") if path.name != "lock"])


def window(exporting: Twin, other: Twin) -> tuple[Window, Window]:
    """With and without."""
    twins = (exporting, other)
    before = [twin.counts() for twin in twins]
    took: list[list[float]] = [[], []]
    exporting.ask("/on")
    started, on, look_at = time.monotonic(), True, WINDOW_S
    while True:
        first = len(took[0]) % 2  # who goes first has the colder caches
        for n in (first, 1 - first):
            begun = time.perf_counter()
            twins[n].ask("/")
            took[n].append((time.perf_counter() - begun) * 1e3)
            time.sleep(PAUSE_S)
        passed = time.monotonic() - started
        if passed >= look_at:
            look_at = passed + 0.5
            if on:
                exporting.ask("/off")
                on = False
            if not exporting.counts()["left"] or passed >= WINDOW_S + DRAIN_S:
                break
    after = [twin.counts() for twin in twins]
    spent = [[late[what] - early[what] for what in ("cpu_s", "helpers_s")] for early, late in zip(before, after, strict=True)]
    return Window(took[0], *spent[0]), Window(took[1], *spent[1])


def measure(folder: Path, windows: int) -> tuple[list[tuple[Window, Window]], list[dict[str, Any]], int]:
    """Pairs of windows (with, without), both exporters' counts at the end, what is left in the outboxes."""
    sink_port = free_port()
    sink = subprocess.Popen([sys.executable, "-c", SINK, str(sink_port)])
    twins: list[Twin] = []
    try:
        twins += [Twin(folder / name, sink_port) for name in ("one", "two")]
        for twin in twins:
            window(twin, twins[twin is twins[0]])  # OpenTelemetry is imported once, before anything is measured
        found = [window(twins[number % 2], twins[1 - number % 2]) for number in range(windows)]
        return found, [twin.counts() for twin in twins], sum(twin.left() for twin in twins)
    finally:
        for process in (sink, *(twin.process for twin in twins)):
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


def main(windows: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        found, counts, left = measure(Path(folder), windows)
    helpers = statistics.median(with_.helpers_s / (len(with_.took_ms) * 2) * 1e6 for with_, _ in found)
    for of_twin in counts:
        print({name: n for name, n in of_twin.items() if n}, file=sys.stderr)
    print(f"couriers: {helpers:.1f} us of CPU for each request meanwhile, at the lowest priority", file=sys.stderr)
    offered, sent = (sum(of_twin[name] for of_twin in counts) for name in ("offered", "traces_sent"))
    told = sent + sum(of_twin[f"{name}_dropped"] for of_twin in counts for name in ("traces", "notes", "outbox"))
    return [
        row("request while 1,000 incidents a minute are exported, median", "ms", found, lambda w: statistics.median(w.took_ms), 1.01),
        row("the same, p99", "ms", found, lambda w: quantile(w.took_ms, 0.99), 1.05),
        row("the same, CPU of the service per request", "us", found, lambda w: w.cpu_us, 1.05),
        {
            "name": "incidents of a minute: sent, kept or counted", "unit": "incidents", "with": told, "without": offered,
            "ratio": told / offered, "budget": "= 1, all sent", "ok": told == offered == sent and left == 0,
        },
    ]  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else WINDOWS)))
