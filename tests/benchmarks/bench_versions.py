"""The verdict from outside on every CPython and loop of this machine, and how long it takes from Enter. Prints JSON.

    python -m tests.benchmarks.bench_versions

One row an interpreter and loop: ok when the deadlock is found, proved, among all the tasks there are. uvloop where it can be installed.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests import interpreters
from tests.processes import running

TARGET = Path(__file__).with_name("versions_target.py")
VERSIONS = ("3.9", *interpreters.INSIDE)
TIMES = 5


def pythons(version: str) -> Iterator[tuple[str, str]]:
    """Loop and interpreter."""
    base = interpreters.found(version)
    if base is None:
        return
    yield "asyncio", str(base)
    with contextlib.suppress(RuntimeError):
        yield "uvloop", str(interpreters.with_uvloop(version))


def row(version: str, loop: str, python: str) -> dict[str, Any]:
    full = subprocess.run(
        [python, "-c", "import platform; print(platform.python_version())"], capture_output=True, text=True
    ).stdout.strip()
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    took, wrong = [], set()
    with running([python, str(TARGET), loop], env=environ) as child:
        tasks = int(child.stdout.readline())
        for _ in range(TIMES):
            began = time.perf_counter()
            done = subprocess.run([sys.executable, "-m", "hangwatch", "attach", str(child.pid), "--json"], capture_output=True, text=True)
            took.append(time.perf_counter() - began)
            wrong |= problems(done, tasks)
    return {
        "name": f"attach, CPython {full}, {loop}", "with": round(statistics.median(took), 3), "unit": "s",
        "budget": "; ".join(sorted(wrong)) or f"deadlock, proved; {tasks} of {tasks} tasks", "ok": not wrong,
    }  # fmt: skip


def problems(done: subprocess.CompletedProcess[str], tasks: int) -> set[str]:
    try:
        incident = json.loads(done.stdout)
    except ValueError:
        return {(done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[0]}
    finding = incident["findings"][0] if incident["findings"] else {"cause": "nothing", "confidence": "found"}
    found = {f"{finding['cause']}, {finding['confidence']}"} - {"deadlock, proved"}
    seen = len(incident["snapshot"]["tasks"])
    return found | ({f"{seen} of {tasks} tasks"} if seen != tasks else set()) | set(incident["snapshot"]["gaps"])


def main() -> int:
    rows = [row(version, loop, python) for version in VERSIONS for loop, python in pythons(version)]
    print(json.dumps(rows or [{"name": "attach on every CPython", "skipped": "no interpreter to look at"}]))
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
