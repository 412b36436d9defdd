"""A uvicorn hello world (httptools, uvloop) under wrk, with the agent and without: requests/s and CPU per request.

Both services run at the same time and are loaded in turn, in short windows of changing order, so that what else the machine does
hits both alike. The ratio is the median over pairs of neighbouring windows.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.bench_incident import connect, free_port

_PAIRS = int(os.environ.get("BENCH_PAIRS", "24"))
_WINDOW_S = 1
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_APP = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"12"), (b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello, world"})
"""


def start(folder: Path, port: int, agent: bool) -> subprocess.Popen[bytes]:
    root = Path(__file__).resolve().parents[2]
    uvicorn = [
        sys.executable,
        "-m",
        "uvicorn",
        "hello:app",
        "--port",
        str(port),
        "--loop",
        "uvloop",
        "--http",
        "httptools",
        "--no-access-log",
    ]
    command = [sys.executable, "-m", "hangwatch", "run", "--spool", str(folder / "spool"), "--", *uvicorn] if agent else uvicorn
    environ = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{folder}"}
    server = subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    connect(port).close()
    return server


def cpu_ns(pid: int) -> int:
    """All its threads' time on a CPU, in ns."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total


def window(pid: int, port: int) -> tuple[float, float]:
    """(requests/s, CPU microseconds per request) of one window."""
    before = cpu_ns(pid)
    said = subprocess.run(
        ["wrk", "-t1", "-c16", f"-d{_WINDOW_S}s", f"http://127.0.0.1:{port}/"], capture_output=True, text=True, check=True
    ).stdout
    spent = cpu_ns(pid) - before
    requests = int(re.search(r"(\d+) requests in", said)[1])  # type: ignore[index]
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])  # type: ignore[index]
    return rate, spent / requests / 1e3


def measure() -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "hello.py").write_text(_APP)
        ports = {True: free_port(), False: free_port()}
        servers = {agent: start(folder, port, agent) for agent, port in ports.items()}
        try:
            time.sleep(2)
            for agent in ports:
                window(servers[agent].pid, ports[agent])
            rates: list[float] = []
            costs: list[float] = []
            seen: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
            for _ in range(_PAIRS):
                pair = {agent: window(servers[agent].pid, ports[agent]) for agent in random.sample([True, False], 2)}
                for agent, values in pair.items():
                    seen[agent].append(values)
                rates.append(pair[True][0] / pair[False][0])
                costs.append(pair[True][1] / pair[False][1])
        finally:
            for server in servers.values():
                server.kill()
                server.wait()
    rate, cost = statistics.median(rates), statistics.median(costs)
    middle = {agent: [statistics.median(column) for column in zip(*values, strict=True)] for agent, values in seen.items()}
    return [
        row("hello world under wrk", "requests/s", middle[True][0], middle[False][0], rate, ">= 0.98", rate >= 0.98),
        row("CPU per request", "µs", middle[True][1], middle[False][1], cost, "<= 1.02", cost <= 1.02),
    ]


def row(name: str, unit: str, with_agent: float, without: float, ratio: float, budget: str, ok: bool) -> dict[str, object]:
    return {
        "name": name, "unit": unit, "with": round(with_agent, 1), "without": round(without, 1), "ratio": round(ratio, 3), "budget": budget, "ok": ok,
    }  # fmt: skip


if __name__ == "__main__":
    missing = [tool for tool in ("wrk",) if shutil.which(tool) is None]
    print(json.dumps({"name": "requests", "skipped": f"no {missing[0]} here"} if missing else measure()))
