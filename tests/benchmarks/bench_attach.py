"""From Enter to the verdict, and what the target notices of it: beside what others take for less. Prints JSON.

    python -m tests.benchmarks.bench_attach [--tools DIR[:DIR…]] [--rounds N] [--quick]

Time: the whole command, of hangwatch as it is installed (its modules compiled), against the wall clock.

Pause: the target's loop has a task that wakes every millisecond and notes the longest gap. On a machine of few CPUs a gap has two causes: what the
look does to the target, and that the look uses a CPU. The baseline takes the second away. It is the longest gap of the same target while the
same command looks at a twin of it, another process of the same program: equally busy, and never near the target. Looks and baselines take turns,
and what is compared is where their gaps lie, by median and 95th percentile. A third row has the baseline itself beside as much time without any command.
Tools that are neither on PATH nor in ``--tools`` are left out.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import interpreters

SERVICE = Path(__file__).with_name("probed_service.py")
#: Tasks -> seconds from Enter to the verdict.
LIMITS_S = {100: 0.7, 10_000: 4.0}
#: Pairs of a look and a baseline.
ROUNDS = {100: 20, 10_000: 8}
#: Interpreters of the target that are timed beside this one, with the most tasks.
OTHERS = ("3.9", "3.12", "3.13", "3.14")
#: Gaps of two series of equal runs differ by so much on an idle machine of two CPUs; what lies within cannot be told from the baseline.
NOISE_RATIO, NOISE_MS = 1.25, 1.0


@dataclass
class Target:
    """One process of the service, and what gives its longest gap (ms) since the last time it was asked."""

    pid: int
    asker: socket.socket

    def worst_ms(self) -> float:
        self.asker.send(b"?")
        return float(self.asker.recv(100)) * 1e3


@dataclass
class Series:
    took_s: list[float] = field(default_factory=list)
    looked_ms: list[float] = field(default_factory=list)
    baseline_ms: list[float] = field(default_factory=list)
    quiet_ms: list[float] = field(default_factory=list)
    problem: str = ""


@contextlib.contextmanager
def parked(python: str, tasks: int) -> Iterator[Target]:
    environ = {**os.environ, "PYTHONPATH": ""}
    child = subprocess.Popen([python, str(SERVICE), str(tasks)], stdout=subprocess.PIPE, env=environ)
    assert child.stdout is not None
    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asker.settimeout(60)
    try:
        asker.connect(("127.0.0.1", int(child.stdout.readline())))
        yield Target(child.pid, asker)
    finally:
        child.kill()
        child.communicate()
        asker.close()


def look(command: list[str], pid: int) -> tuple[float, str]:
    """Seconds, and what went wrong. ``PID`` in the command stands for the process."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    done = subprocess.run([str(pid) if word == "PID" else word for word in command], capture_output=True, text=True, env=environ)
    took_s = time.perf_counter() - began
    if done.returncode in (0, 1):
        return took_s, ""
    return took_s, (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]


def series(command: list[str], target: Target, twin: Target, rounds: int) -> Series:
    found = Series()
    look(command, twin.pid)  # the first run compiles, and warms the file cache
    for number in range(rounds):
        for looks in (True, False) if number % 2 else (False, True):
            target.worst_ms()
            took_s, problem = look(command, target.pid if looks else twin.pid)
            (found.looked_ms if looks else found.baseline_ms).append(target.worst_ms())
            if looks:
                found.took_s.append(took_s)
                found.problem = found.problem or problem
        time.sleep(min(found.took_s[-1], 1.0))
        found.quiet_ms.append(target.worst_ms())
    return found


def p95(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, round(0.95 * (len(values) - 1)))]


def rows(name: str, found: Series, limit_s: float | None = None) -> list[dict[str, Any]]:
    took = statistics.median(found.took_s)
    timed = {"name": f"{name}: time", "with": round(took, 3), "unit": "s", "budget": f"< {limit_s} s" if limit_s else found.problem or None}
    pauses = []
    for word, of in (("median", statistics.median), ("p95", p95)):
        looked, baseline = of(found.looked_ms), of(found.baseline_ms)
        within = looked <= baseline * NOISE_RATIO + NOISE_MS
        pauses.append(
            {
                "name": f"{name}: longest pause, {word} (without: a twin is looked at)", "with": round(looked, 2), "without": round(baseline, 2),
                "unit": "ms", "ratio": round(looked / baseline, 3) if baseline else None,
                "budget": f"<= {NOISE_RATIO} x + {NOISE_MS:.0f} ms" if limit_s else None, "ok": limit_s is None or within,
            }
        )  # fmt: skip
    quiet = {
        "name": f"{name}: longest pause while a twin is looked at (without: nothing runs)", "with": round(statistics.median(found.baseline_ms), 2),
        "without": round(statistics.median(found.quiet_ms), 2), "unit": "ms", "ok": True,
    }  # fmt: skip
    return [{**timed, "ok": limit_s is None or (took < limit_s and not found.problem)}, *pauses, quiet]


def of_others(folders: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Their commands, where they are installed."""
    path = os.pathsep.join([*folders, os.environ.get("PATH", "")])
    for name, words in {
        "py-spy dump": ["py-spy", "dump", "--pid", "PID"],
        "py-spy dump --nonblocking": ["py-spy", "dump", "--nonblocking", "--pid", "PID"],
        "py-spy-asyncio dump --asyncio": ["py-spy-asyncio", "dump", "--asyncio", "--pid", "PID"],
        "pystack remote": ["pystack", "remote", "PID"],
    }.items():
        program = shutil.which(words[0], path=path)
        if program:
            yield name, [program, *words[1:]]


def measured(python: str, tasks: int, commands: dict[str, tuple[list[str], float | None]], rounds: int) -> list[dict[str, Any]]:
    with parked(python, tasks) as target, parked(python, tasks) as twin:
        return [row for name, (command, limit_s) in commands.items() for row in rows(name, series(command, target, twin, rounds), limit_s)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", default="", help="folders with py-spy, py-spy-asyncio, pystack")
    parser.add_argument("--rounds", type=int, help="pairs of a look and a baseline")
    parser.add_argument("--quick", action="store_true", help="hangwatch alone, a target of this interpreter alone")
    options = parser.parse_args()
    folders = [*filter(None, options.tools.split(os.pathsep)), os.path.dirname(sys.executable)]
    ours = [sys.executable, "-m", "hangwatch", "attach", "PID"]
    found = []
    for tasks, limit_s in LIMITS_S.items():
        rounds = options.rounds or ROUNDS[tasks]
        others = {} if options.quick else {f"{name}, {tasks} tasks": (command, None) for name, command in of_others(folders)}
        found += measured(sys.executable, tasks, {f"hangwatch attach, {tasks} tasks": (ours, limit_s), **others}, rounds)
        for version in () if options.quick else OTHERS:
            python = interpreters.found(version)
            if python is None or (tasks < max(LIMITS_S) and version != OTHERS[-1]):
                continue
            commands: dict[str, tuple[list[str], float | None]] = {f"hangwatch attach, {tasks} tasks on {version}": (ours, limit_s)}
            if version == OTHERS[-1]:
                commands[f"python{version} -m asyncio ps, {tasks} tasks"] = ([str(python), "-m", "asyncio", "ps", "PID"], None)
            found += measured(str(python), tasks, commands, max(3, rounds // 3))
    print(json.dumps(found))
    return 0 if all(row["ok"] for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
