"""Healthy services of every kind beside two watchers, for ten minutes: nothing may be told.

    python -m tests.watcher.soak [--seconds 600] [--saturated 100] [--limit 3]

One uvicorn on asyncio, one on uvloop; each with idle keep-alive connections, event streams slower than the limit, websockets whose server is
silent, uploads that trickle, readers that are slow, handlers that take long, clients that come and go, a steady load, and for some of the time
as many requests as it can answer. One watcher as it runs by default (``--all``), one that follows every call (``--full --heads``).
Prints what was told, and what the watchers cost. Exit status 1 when something was told of these services, or was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.watcher.watched import ROOT, Client, uvicorn

#: Of each kind, for each service.
IDLE, STREAMS, WEBSOCKETS, UPLOADS, READERS, STEADY = 20, 5, 6, 3, 2, 4
STEADY_RATE = 25.0
SATURATED_S = 25.0
EVERY_S = 5.0


class Watching:
    """A ``hangwatch watch`` of its own, what it told, and what it took."""

    def __init__(self, name: str, spool: Path, arguments: list[str]) -> None:
        self.name = name
        self.told: list[dict] = []
        self.shares: list[float] = []
        self.rss_mb: list[float] = []
        self.descriptors: list[int] = []
        command = [sys.executable, "-m", "hangwatch", "watch", "--json", "--spool", str(spool), *arguments]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()
        self.begun, self._cpu_s = time.monotonic(), 0.0
        self._at = self.begun

    def _read(self) -> None:
        for line in self.process.stdout:
            self.told.append(json.loads(line))

    def measure(self) -> None:
        now, cpu_s = time.monotonic(), cpu_of(self.process.pid)
        self.shares.append((cpu_s - self._cpu_s) / (now - self._at))
        self._cpu_s, self._at = cpu_s, now
        self.rss_mb.append(int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6)
        self.descriptors.append(len(os.listdir(f"/proc/{self.process.pid}/fd")))

    def end(self, pids: set[int]) -> dict:
        peak = next(line for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
        share = cpu_of(self.process.pid) / (time.monotonic() - self.begun)
        self.process.terminate()
        _, notes = self.process.communicate(timeout=30)
        ours = [incident for incident in self.told if incident["snapshot"]["pid"] in pids]
        # Its machine may really keep it from a CPU for so long; that is told as such.
        own = [incident for incident in ours if [finding["cause"] for finding in incident["findings"][:1]] != ["cpu-starved"]]
        return {
            "watcher": self.name,
            "told": [f"{i['stall']['kind']}: {(i['findings'] or [{'title': 'no cause'}])[0]['title']}" for i in own],
            "told to be without CPU": len(ours) - len(own),
            "told of others": len(self.told) - len(ours),
            "cpu_percent": round(share * 100, 2),
            "cpu_percent_after_the_start": round(100 * sum(self.shares[2:]) / max(1, len(self.shares) - 2), 2),
            "cpu_percent_most": round(100 * max(self.shares[2:], default=0), 2),
            "rss_mb": round(self.rss_mb[-1], 1),
            "rss_mb_after_a_minute": round(self.rss_mb[min(len(self.rss_mb) - 1, 12)], 1),
            "rss_mb_peak": round(int(peak.split()[1]) * 1024 / 1e6, 1),
            "descriptors": self.descriptors[-1],
            "descriptors_most": max(self.descriptors),
            "lost": sum(int(line.rpartition(":")[2]) for line in notes.splitlines() if "kernel events" in line),
            "notes": notes.strip().splitlines(),
        }


def cpu_of(pid: int) -> float:
    columns = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(columns[11]) + int(columns[12])) / os.sysconf("SC_CLK_TCK")


class Clients:
    """Everybody who talks to one service."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.kept = [Client(port).ask("/") for _ in range(IDLE)]
        for client in self.kept:
            client.answer()
        self.kept += [Client(port) for _ in range(3)]  # connected, nothing said
        self.kept += [Client(port).ask("/streams") for _ in range(STREAMS)]
        sockets = [Client(port).websocket() for _ in range(WEBSOCKETS)]
        self.talking, self.quiet = sockets[::2], sockets[1::2]
        self.uploads = [Client(port).ask("/uploads", "POST", ["Content-Length: 1000000"]) for _ in range(UPLOADS)]
        self.readers = [Client(port, window=65536).ask("/pours") for _ in range(READERS)]
        self.answered = 0

    async def run(self, until: float) -> None:
        await asyncio.gather(*(self.steady(until) for _ in range(STEADY)), self.come_and_go(until), self.long(until))

    async def trickle(self) -> None:
        """Those who talk or read all the time; to the very end, as one that stops would be a stall."""
        while True:
            for client in self.talking:
                client.say()
            for client in self.uploads:
                client.socket.sendall(b"x")
            self.readers = [self.read(client) for client in self.readers]
            await asyncio.sleep(0.5)

    def read(self, client: Client) -> Client:
        client.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            if client.socket.recv(1 << 17) == b"":
                client.close()
                return Client(self.port, window=65536).ask("/pours")
        return client

    async def steady(self, until: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while time.monotonic() < until:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" if random.random() < 0.95 else b"GET /rests HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"\r\n\r\nok")
            self.answered += 1
            await asyncio.sleep(random.expovariate(STEADY_RATE))
        writer.close()

    async def come_and_go(self, until: float) -> None:
        while time.monotonic() < until:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            await reader.read()
            writer.close()
            await asyncio.sleep(0.3)

    async def long(self, until: float) -> None:
        while time.monotonic() < until:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(b"GET /rests HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"\r\n\r\nok")
            await asyncio.sleep(5 * random.random())
            writer.close()


async def saturate(ports: list[int], seconds: float, until: float, done: dict[str, float]) -> None:
    """In turn, spread over the time."""
    if shutil.which("wrk") is None or seconds <= 0:
        return
    turns = max(2, round(seconds / SATURATED_S))
    length, pause = seconds / turns, (until - time.monotonic() - seconds) / (turns + 1)
    for turn in range(turns):
        await asyncio.sleep(max(0.0, pause))
        command = ["wrk", "-t1", "-c64", f"-d{length:.0f}s", f"http://127.0.0.1:{ports[turn % len(ports)]}/"]
        wrk = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        said, _ = await wrk.communicate()
        rate = next((line.split()[1] for line in said.decode().splitlines() if line.startswith("Requests/sec")), "0")
        done[f"turn {turn + 1}"] = float(rate)


async def measure(watchers: list[Watching], until: float) -> None:
    while time.monotonic() < until:
        await asyncio.sleep(EVERY_S)
        for watcher in watchers:
            watcher.measure()


async def everybody(clients: list[Clients], watchers: list[Watching], given: argparse.Namespace) -> dict[str, float]:
    until, done = time.monotonic() + given.seconds, {}
    ports = [client.port for client in clients]
    talking = asyncio.gather(*(client.trickle() for client in clients))
    await asyncio.gather(
        *(client.run(until) for client in clients), measure(watchers, until), saturate(ports, given.saturated, until, done)
    )
    assert not talking.done(), "one who talks or reads all the time has ended"
    talking.cancel()
    await asyncio.gather(talking, return_exceptions=True)
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--saturated", type=float, default=100.0, metavar="SECONDS", help="of these, at saturation")
    parser.add_argument("--limit", type=float, default=3.0, metavar="SECONDS", help="a request is stalled after so long")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # These clients answer no pings.
        services = [stack.enter_context(uvicorn(policy, "--ws-ping-interval", "86400")) for policy in ("asyncio", "uvloop")]
        pids = {service.pid for service in services}
        limits = ["--stall-after", str(given.limit), "--rate-limit", "0"]
        watchers = [
            Watching("--all", folder / "all", ["--all", *limits]),
            Watching("--full --heads", folder / "full", [*map(str, pids), "--full", "--heads", *limits]),
        ]
        time.sleep(3)
        clients = [Clients(service.port) for service in services]
        saturated = asyncio.run(everybody(clients, watchers, given))
        found = [watcher.end(pids) for watcher in watchers]
    answered = sum(client.answered for client in clients)
    print(json.dumps({"seconds": given.seconds, "answered": answered, "requests/s at saturation": saturated, "watchers": found}, indent=1))
    return 1 if any(row["told"] or row["lost"] for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
