"""From the moment a request's limit passes to the incident on disk: a real uvicorn with the agent inside, a really parked request.

Clocks: the stall's ``since_ns`` is the service's CLOCK_MONOTONIC, which all processes of one machine share.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hangwatch.evidence import pyspy

HERE = Path(__file__).resolve().parent
_RUNS = 5
_LIMIT_S = 1.0
_PATIENCE_S = 60.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def connect(port: int) -> socket.socket:
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def stored(spool: Path, tool: str | None) -> tuple[int, dict[str, Any]]:
    """When the first incident (with what ``tool`` said, where given) was there, in monotonic ns, and the incident.

    It appears whole, by a rename, and may be replaced by a fuller one: py-spy's answer comes into an incident that is stored already.
    """
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        for path in spool.glob("incidents/*/incident.json"):
            seen_ns = time.monotonic_ns()
            try:
                incident = json.loads(path.read_text())
            except OSError:  # just being replaced
                continue
            if tool is None or any(evidence["tool"] == tool for evidence in incident["evidence"]):
                return seen_ns, incident
        time.sleep(0.002)
    raise SystemExit(f"no incident{f' with {tool}' if tool else ''} was stored: the agent missed a parked request")


def once(with_pyspy: bool) -> dict[str, float]:
    """Milliseconds from the limit to the incident on disk, and what the snapshot and each tool took of it."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        environ = {
            **os.environ,
            "HANGWATCH_SPOOL": folder,
            "HANGWATCH_STALL_AFTER": str(_LIMIT_S),
            "HANGWATCH_PYSPY": "1" if with_pyspy else "0",
            "PYTHONPATH": str(HERE.parent.parent),
        }
        command = [sys.executable, str(HERE / "parked_service.py"), str(port), "agent"]
        service = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
        try:
            with connect(port) as client:
                client.sendall(b"GET /parked HTTP/1.1\r\nHost: x\r\n\r\n")
                seen_ns, incident = stored(Path(folder), pyspy.NAME if with_pyspy else None)
        finally:
            service.kill()
            service.wait()
    tools = {evidence["tool"]: evidence["took_ms"] for evidence in incident["evidence"]}
    if with_pyspy and any(e["tool"] == pyspy.NAME and e["error"] for e in incident["evidence"]):
        raise SystemExit(f"py-spy gave no stacks: {[e['error'] for e in incident['evidence'] if e['tool'] == pyspy.NAME]}")
    passed_ns = incident["stall"]["since_ns"] + incident["stall"]["limit_ns"]
    return {"ms": (seen_ns - passed_ns) / 1e6, "snapshot": incident["snapshot"].get("took_ms") or 0.0, **tools}


def measure(with_pyspy: bool, budget_ms: float) -> dict[str, Any]:
    name = f"limit passed to incident on disk, {'with' if with_pyspy else 'without'} py-spy (median of {_RUNS})"
    if with_pyspy and pyspy.find() is None:
        return {"name": name, "skipped": "py-spy is not installed"}
    runs = [once(with_pyspy) for _ in range(_RUNS)]
    for run in runs:
        print({key: round(value, 1) for key, value in run.items()}, file=sys.stderr)
    median = statistics.median(run["ms"] for run in runs)
    row = {"name": name, "unit": "ms", "with": round(median, 1), "without": None, "ratio": None}
    return {**row, "worst": round(max(run["ms"] for run in runs), 1), "budget": f"< {budget_ms:g} ms", "ok": median < budget_ms}


if __name__ == "__main__":
    print(json.dumps([measure(with_pyspy=False, budget_ms=300), measure(with_pyspy=True, budget_ms=1000)]))
