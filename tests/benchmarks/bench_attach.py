"""From Enter to the verdict, and what the target notices of it: beside what others take for less. Prints JSON.

    python -m tests.benchmarks.bench_attach [--tools DIR[:DIR…]]

The target's loop has a task that wakes every millisecond and notes the longest gap: a pause is a gap. A busy machine has gaps of its own,
so each is given beside the longest gap in as much time without a look. Tools that are neither on PATH nor in ``--tools`` are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from tests import interpreters

TARGET = """
import asyncio, socket, sys, time
class Probe(asyncio.DatagramProtocol):
    worst = 0.0
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, address):
        self.transport.sendto(str(self.worst).encode(), address)
        self.worst = 0.0
async def beat(probe):
    last = time.perf_counter()
    while True:
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        probe.worst, last = max(probe.worst, now - last - 0.001), now
async def inner(lock, event):
    async with lock:
        await event.wait()
async def outer(lock, event):
    await inner(lock, event)
async def main():
    transport, probe = await asyncio.get_running_loop().create_datagram_endpoint(Probe, ("127.0.0.1", 0))
    beating = asyncio.create_task(beat(probe))
    event = asyncio.Event()
    tasks = [asyncio.create_task(outer(asyncio.Lock(), event)) for _ in range(int(sys.argv[1]))]
    await asyncio.sleep(0.1)
    print(transport.get_extra_info("sockname")[1], flush=True)
    await asyncio.gather(*tasks)
asyncio.run(main())
"""
TIMES = 5
LIMITS_S = {100: 0.7, 10_000: 4.0}
#: A pause that is not more than this beside that of a quiet time is not measurable here: twice a slice of the scheduler.
NOISE_MS = 8.0


@contextlib.contextmanager
def parked(python: str, tasks: int) -> Iterator[tuple[int, Any]]:
    """The target's pid, and what gives its longest gap (ms) since the last time it was asked."""
    child = subprocess.Popen([python, "-c", TARGET, str(tasks)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": ""})
    assert child.stdout is not None
    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asker.settimeout(30)
    try:
        asker.connect(("127.0.0.1", int(child.stdout.readline())))

        def worst_ms() -> float:
            asker.send(b"?")
            return float(asker.recv(100)) * 1e3

        yield child.pid, worst_ms
    finally:
        child.kill()
        child.communicate()
        asker.close()


def measure(command: list[str], worst_ms: Any) -> tuple[float, float, float, str]:
    """Median seconds, median longest gap with and without, and what went wrong."""
    took, gaps, quiet, problem = [], [], [], ""
    for _ in range(TIMES):
        worst_ms()
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        took.append(time.perf_counter() - began)
        gaps.append(worst_ms())
        time.sleep(took[-1])
        quiet.append(worst_ms())
        if done.returncode not in (0, 1):
            problem = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return statistics.median(took), statistics.median(gaps), statistics.median(quiet), problem


def rows(name: str, command: list[str], worst_ms: Any, limit_s: float | None = None) -> list[dict[str, Any]]:
    took, gap, quiet, problem = measure(command, worst_ms)
    ours = limit_s is not None
    return [
        {"name": f"{name}: time", "with": round(took, 3), "unit": "s", "budget": f"< {limit_s} s" if ours else problem or None, "ok": not ours or took < limit_s},
        {
            "name": f"{name}: longest pause", "with": round(gap, 2), "without": round(quiet, 2), "unit": "ms",
            "budget": f"not measurable (+{NOISE_MS:.0f} ms)" if ours else None, "ok": not ours or gap <= quiet + NOISE_MS,
        },
    ]  # fmt: skip


def others(pid: int, folders: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Their commands, where they are installed."""
    path = os.pathsep.join([*folders, os.environ.get("PATH", "")])
    for name, words in {
        "py-spy dump": ["py-spy", "dump", "--pid", str(pid)],
        "py-spy dump --nonblocking": ["py-spy", "dump", "--nonblocking", "--pid", str(pid)],
        "py-spy-asyncio dump --asyncio": ["py-spy-asyncio", "dump", "--asyncio", "--pid", str(pid)],
        "pystack remote": ["pystack", "remote", str(pid)],
    }.items():
        program = shutil.which(words[0], path=path)
        if program:
            yield name, [program, *words[1:]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", default="", help="folders with py-spy, py-spy-asyncio, pystack")
    folders = [*filter(None, parser.parse_args().tools.split(os.pathsep)), os.path.dirname(sys.executable)]
    found = []
    for tasks, limit_s in LIMITS_S.items():
        with parked(sys.executable, tasks) as (pid, worst_ms):
            found += rows(f"hangwatch attach, {tasks} tasks", [sys.executable, "-m", "hangwatch", "attach", str(pid)], worst_ms, limit_s)
            for name, command in others(pid, folders):
                found += rows(f"{name}, {tasks} tasks", command, worst_ms)
        newest = interpreters.found("3.14")
        if newest is not None:
            with parked(str(newest), tasks) as (pid, worst_ms):
                found += rows(f"python3.14 -m asyncio ps, {tasks} tasks", [str(newest), "-m", "asyncio", "ps", str(pid)], worst_ms)
                found += rows(
                    f"hangwatch attach, {tasks} tasks on 3.14", [sys.executable, "-m", "hangwatch", "attach", str(pid)], worst_ms, limit_s
                )
    print(json.dumps(found))
    return 0 if all(row["ok"] for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
