"""What the kernel's programs cost a uvicorn hello world (httptools, uvloop) under wrk, everybody else, and the watcher itself.

One wrk run; the programs are attached and detached in short windows of changing order, so that what else the machine does hits all alike.
The application counts its requests in shared memory; each round compares its windows with each other.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hangwatch.kernel.collectors import CannotCollect, ConnTime, LoopTime
from hangwatch.kernel.rows import SERVER, ConnectionRow
from hangwatch.watcher.loops import LoopWatch
from tests.benchmarks.bench_incident import connect, free_port

ROOT = Path(__file__).resolve().parents[2]
_ROUNDS = int(os.environ.get("BENCH_ROUNDS", "120"))
_WINDOW_S = 0.2
_LIMIT_NS = 500_000_000
_CALLS = 100_000
_CONNECTIONS = 10_000
_PACED_S = 12.0
_APP = """
import mmap, os, struct
count = mmap.mmap(os.open(os.environ["REQUESTS"], os.O_RDWR), 8)
served = 0
async def app(scope, receive, send):
    global served
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    served += 1
    count[:8] = struct.pack("<Q", served)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"12"), (b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello, world"})
"""


class Service:
    """A uvicorn that counts its requests."""

    def __init__(self, folder: Path) -> None:
        (folder / "hello.py").write_text(_APP)
        counter = folder / "requests"
        counter.write_bytes(bytes(8))
        self.port = free_port()
        command = [sys.executable, "-m", "uvicorn", "hello:app", "--port", str(self.port), "--loop", "uvloop", "--http", "httptools"]
        environ = {**os.environ, "REQUESTS": str(counter), "PYTHONPATH": str(folder)}
        self.process = subprocess.Popen([*command, "--no-access-log", "--log-level", "critical"], cwd=folder, env=environ)
        connect(self.port).close()
        self._count = mmap.mmap(os.open(counter, os.O_RDWR), 8)

    def served(self) -> int:
        return int(struct.unpack("<Q", self._count[:8])[0])

    def cpu_ns(self) -> int:
        return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{self.process.pid}/task").iterdir())

    def window(self) -> tuple[float, float]:
        """(requests/s, CPU microseconds a request)."""
        served, cpu, begun = self.served(), self.cpu_ns(), time.perf_counter()
        time.sleep(_WINDOW_S)
        requests, cpu, took = self.served() - served, self.cpu_ns() - cpu, time.perf_counter() - begun
        return requests / took, cpu / max(requests, 1) / 1e3


class Tiers:
    """The programs, attached by name: ``none``, ``epoll`` (with the closer looks that a saturated loop causes), ``full``, ``bystander``."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.loops = LoopTime(_LIMIT_NS)
        self.connections = ConnTime(_LIMIT_NS, self.loops.offsets, copy_heads=True)
        self.connections.watch(pid)
        self.watch = LoopWatch(_LIMIT_NS, self.loops)
        self.loops.collector.detach()

    @contextlib.contextmanager
    def on(self, name: str) -> Iterator[None]:
        ended = threading.Event()
        timer = threading.Thread(target=self._tick, args=(ended,))
        if name != "none":
            self.watch.add(os.getpid() if name == "bystander" else self.pid, ())
            self.loops.collector.attach("loop_switch", "loop_exit")
            timer.start()
        if name == "full":
            self.connections.attach()
        try:
            yield
        finally:
            ended.set()
            if name != "none":
                timer.join()
            self.connections.detach()
            self.loops.collector.detach()
            self.watch.drop(self.pid)
            self.watch.drop(os.getpid())

    def _tick(self, ended: threading.Event) -> None:
        while not ended.wait(self.watch.pause_s):
            self.watch.tick()

    def close(self) -> None:
        self.loops.close()
        self.connections.close()


def under_wrk() -> list[dict[str, object]]:
    names = ("none", "epoll", "full", "bystander")
    rounds: list[dict[str, tuple[float, float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder))
        tiers = Tiers(service.process.pid)
        length = int(_ROUNDS * len(names) * (_WINDOW_S + 0.15)) + 20
        wrk = subprocess.Popen(["wrk", "-t1", "-c16", f"-d{length}s", f"http://127.0.0.1:{service.port}/"], stdout=subprocess.DEVNULL)
        try:
            time.sleep(2)
            for _ in range(_ROUNDS):
                row = {}
                for name in random.sample(names, len(names)):
                    with tiers.on(name):
                        time.sleep(0.03)
                        row[name] = service.window()
                rounds.append(row)
        finally:
            wrk.kill()
            service.process.kill()
            tiers.close()
    found = []
    for name, rate_budget, cost_budget in (("epoll", 0.98, 1.0), ("full", 0.94, 4.0), ("bystander", 0.98, 1.0)):
        rates = [row[name][0] / row["none"][0] for row in rounds]
        extra = [row[name][1] - row["none"][1] for row in rounds]
        rate, cost = statistics.median(rates), statistics.median(extra)
        base = [statistics.median(row["none"][column] for row in rounds) for column in (0, 1)]
        low, high = interval(extra)
        found.append(
            row_of(
                f"{name} tier, hello world under wrk", "requests/s", base[0] * rate, base[0], rate, f">= {rate_budget}", rate >= rate_budget
            )
        )
        budget = f"at most +{cost_budget:g} (here {cost:+.2f}, 95 % {low:+.2f} to {high:+.2f})"
        found.append(
            row_of(f"{name} tier, CPU per request", "µs", base[1] + cost, base[1], 1 + cost / base[1], budget, cost <= cost_budget)
        )
    return found


def interval(values: list[float]) -> tuple[float, float]:
    """95 % of the medians of resamples (bootstrap)."""
    medians = sorted(statistics.median(random.choices(values, k=len(values))) for _ in range(400))
    return medians[10], medians[389]


def own_calls() -> dict[str, object]:
    """A system call of a process that is not watched, while the epoll tier is on: this one's own."""
    collector = LoopTime(_LIMIT_NS)
    collector.watch(1)
    try:
        with_ns, without_ns = [], []
        for _ in range(15):
            collector.collector.detach()
            without_ns.append(call_ns(os.getppid))
            collector.collector.attach("loop_switch", "loop_exit")
            with_ns.append(call_ns(os.getppid))
    finally:
        collector.close()
    extra = min(with_ns) - min(without_ns)
    return row_of(
        "epoll tier, a system call of others",
        "ns",
        min(with_ns),
        min(without_ns),
        min(with_ns) / min(without_ns),
        "at most +20",
        extra <= 20,
    )


def call_ns(call: Callable[[], object]) -> float:
    begun = time.thread_time_ns()
    for _ in range(_CALLS):
        call()
    return (time.thread_time_ns() - begun) / _CALLS


def scan() -> dict[str, object]:
    """Ten thousand tracked connections looked through, none of them in trouble."""
    collector = ConnTime(_LIMIT_NS)
    try:
        now = time.monotonic_ns()
        for fd in range(_CONNECTIONS):
            collector.seed(ConnectionRow(os.getpid(), fd, 1, SERVER, 0, 2, now, 0, now, now, 0, 100, 100, 100, 100, 1))
        took = []
        for _ in range(15):
            begun = time.perf_counter()
            assert not list(collector.overdue(time.monotonic_ns(), 60_000_000_000))
            took.append((time.perf_counter() - begun) * 1e3)
    finally:
        collector.close()
    return budget_row("a scan of 10,000 connections", "ms", statistics.median(took), 20.0)


def watcher_itself() -> list[dict[str, object]]:
    """`hangwatch watch` beside a service that answers 1,000 requests/s."""
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder))
        command = [sys.executable, "-m", "hangwatch", "watch", str(service.process.pid), "--spool", str(Path(folder) / "spool")]
        watcher = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            time.sleep(3)
            before = cpu_s(watcher.pid)
            load(service.port, 1000, _PACED_S)
            share = (cpu_s(watcher.pid) - before) / _PACED_S * 100
            rss_mb = int(Path(f"/proc/{watcher.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        finally:
            watcher.terminate()
            service.process.kill()
            watcher.wait()
    return [budget_row("the watcher at 1,000 requests/s", "% of a CPU", share, 1.0), budget_row("the watcher's memory", "MB", rss_mb, 45.0)]


def cpu_s(pid: int) -> float:
    columns = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(columns[11]) + int(columns[12])) / os.sysconf("SC_CLK_TCK")


def load(port: int, rate: int, seconds: float) -> None:
    """About ``rate`` requests a second over one connection, in bursts of ten."""
    with connect(port) as client:
        end = time.monotonic() + seconds
        due = time.monotonic()
        while due < end:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
            got = 0
            while got < 10:
                got += client.recv(65536).count(b"hello, world")
            due += 10 / rate
            time.sleep(max(0.0, due - time.monotonic()))


def to_the_line() -> dict[str, object]:
    """From the limit of a blocked loop to the incident's line, looked into and stored."""
    late = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "blocks.py").write_text(
            _APP.replace("served += 1", 'import time; scope["path"] == "/block" and time.sleep(1.5)\n    served += 1')
        )
        counter = Path(folder) / "requests"
        counter.write_bytes(bytes(8))
        port = free_port()
        environ = {**os.environ, "REQUESTS": str(counter), "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
        quiet = ["--log-level", "critical"]
        service = subprocess.Popen([sys.executable, "-m", "uvicorn", "blocks:app", "--port", str(port), *quiet], cwd=folder, env=environ)
        connect(port).close()
        command = [sys.executable, "-m", "hangwatch", "watch", str(service.pid), "--json", "--spool", str(Path(folder) / "spool")]
        try:
            for _ in range(5):
                # A new one each time: the same incident again would only be counted.
                watcher = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                time.sleep(2.5)
                with connect(port) as client:
                    client.sendall(b"GET /block HTTP/1.1\r\nHost: x\r\n\r\n")
                    assert watcher.stdout is not None
                    stall = json.loads(watcher.stdout.readline())["stall"]
                    late.append((time.monotonic_ns() - stall["since_ns"] - stall["limit_ns"]) / 1e6)
                    client.recv(1)
                watcher.terminate()
                watcher.wait()
        finally:
            service.kill()
            service.wait()
    return budget_row("from the limit to the incident's line", "ms", statistics.median(late), 250.0)


def budget_row(name: str, unit: str, value: float, most: float) -> dict[str, object]:
    return {
        "name": name,
        "unit": unit,
        "with": round(value, 2),
        "without": None,
        "ratio": None,
        "budget": f"<= {most:g}",
        "ok": value <= most,
    }


def row_of(name: str, unit: str, with_it: float, without: float, ratio: float, budget: str, ok: bool) -> dict[str, object]:
    return {
        "name": name,
        "unit": unit,
        "with": round(with_it, 1),
        "without": round(without, 1),
        "ratio": round(ratio, 3),
        "budget": budget,
        "ok": ok,
    }


def measure() -> list[dict[str, object]]:
    return [*under_wrk(), own_calls(), scan(), *watcher_itself(), to_the_line()]


def why_not() -> str:
    if shutil.which("wrk") is None:
        return "no wrk here"
    try:
        LoopTime(_LIMIT_NS).close()
    except CannotCollect as error:
        return str(error)
    return ""


if __name__ == "__main__":
    reason = why_not()
    print(json.dumps({"name": "ebpf", "skipped": reason} if reason else measure()))
