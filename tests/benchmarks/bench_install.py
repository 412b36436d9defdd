"""`import hangwatch; hangwatch.install()` in a fresh interpreter: milliseconds (of CPU, as nothing here waits) and megabytes. The median of several."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

_RUNS = 15
_CODE = """
import resource, time
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before, begun = resident(), time.process_time()
import hangwatch
hangwatch.install()
print((time.process_time() - begun) * 1e3, (resident() - before) / 1e6)
"""


def once(spool: str) -> tuple[float, float]:
    environ = {**os.environ, "HANGWATCH_SPOOL": spool, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    said = subprocess.run([sys.executable, "-c", _CODE], env=environ, capture_output=True, text=True, check=True).stdout.split()
    return float(said[0]), float(said[1])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        once(folder)  # writes the bytecode
        times, sizes = zip(*(once(folder) for _ in range(_RUNS)), strict=True)
    took, size = statistics.median(times), statistics.median(sizes)
    rows = [
        ("import and install, time", "ms", took, "< 60 ms", took < 60),
        ("import and install, memory", "MB", size, "< 12 MB", size < 12),
    ]
    print(
        json.dumps(
            [
                {"name": name, "unit": unit, "with": round(value, 1), "without": None, "ratio": None, "budget": budget, "ok": ok}
                for name, unit, value, budget, ok in rows
            ]
        )
    )
