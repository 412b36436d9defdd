"""Runs every benchmark of this folder, one after the other, and prints one table. Exit status 1 when a budget is exceeded.

python -m tests.benchmarks.run [--only NAME] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
_COLUMNS = ("name", "with", "without", "unit", "ratio", "budget", "ok")
# A benchmark that takes longer than this hangs.
_PATIENCE_S = 900


def run(path: Path) -> list[dict[str, Any]]:
    """The rows of one benchmark; one that breaks is a row that says so and is not ok."""
    print(f"… {path.stem}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", f"tests.benchmarks.{path.stem}"]
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired:
        return [failed(path, f"no end after {_PATIENCE_S} s")]
    try:
        found = json.loads(done.stdout)
    except ValueError:
        return [failed(path, f"exit status {done.returncode}, no JSON")]
    rows = found if isinstance(found, list) else [found]
    if done.returncode and all(row.get("ok", True) for row in rows):
        rows.append(failed(path, f"exit status {done.returncode}"))
    return rows


def failed(path: Path, why: str) -> dict[str, Any]:
    return {"name": path.stem, "budget": why, "ok": False}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, for README takes it as it is."""
    cells = [list(_COLUMNS)] + [[cell(row, column) for column in _COLUMNS] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_COLUMNS))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def cell(row: dict[str, Any], column: str) -> str:
    if column == "ok":
        return "skipped" if "skipped" in row else "yes" if row.get("ok") else "NO"
    if column == "budget" and "skipped" in row:
        return str(row["skipped"])
    value = row.get(column)
    if isinstance(value, float):
        return f"{value:.3f}" if column == "ratio" or abs(value) < 10 else f"{value:,.0f}"
    return "" if value is None else str(value)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="run the benchmarks whose name contains this")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    options = parser.parse_args(arguments)
    paths = [path for path in sorted(HERE.glob("bench_*.py")) if not options.only or any(word in path.stem for word in options.only)]
    rows = [row for path in paths for row in run(path)]
    print(f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} CPUs, Linux {platform.release()}")
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if rows and all("skipped" in row or row.get("ok") for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
