"""What the kernel's programs see of the loops' threads at the stall, for a third of a second: asleep where, waiting for the GIL or a CPU.

Only where this process may use eBPF; a child does it (`hangwatch.kernel.collect`), so that reading the kernel's types costs the service
no time of its own. What began before is not seen: these are facts of the window, beside those that the agent has of the whole stall.

``data``: {"kind": "window", "window_ms", "threads": [{"tid", "busy_ms", "call", "what", "asleep_ms", "cpu_ms", "delay_ms", "slept_ms",
"gil_ms"}], "kernel_stack": [names], "lost"}. Thread ids as the kernel's side sees them: this process' own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hangwatch.evidence.base import Target
from hangwatch.kernel import procfs, ptrace
from hangwatch.records import Evidence

NAME = "ebpf"

WINDOW_S = 0.3
#: Of _PyRuntime, in which the interpreter keeps its GIL (0.6 MB in 3.13).
_GIL_RANGE_BYTES = 1 << 20
_CAP_SYS_ADMIN, _CAP_PERFMON, _CAP_BPF = 21, 38, 39
_HINT = "hangwatch doctor says what would allow it; everything else works without."


def possible() -> bool:
    """This process holds the capabilities. Whether the kernel agrees is found out by trying."""
    if sys.platform != "linux" or not sys.executable:
        return False
    return ptrace.has_capability(_CAP_SYS_ADMIN) or (ptrace.has_capability(_CAP_BPF) and ptrace.has_capability(_CAP_PERFMON))


def capture(target: Target) -> Evidence:
    if not possible():
        return Evidence(NAME, error="this process may not use eBPF (it lacks CAP_BPF and CAP_PERFMON)", hint=_HINT)
    if not procfs.thread_ids(target.pid):
        return Evidence(NAME, error=f"there is no process {target.pid}")
    command = [sys.executable, "-m", "hangwatch.kernel.collect", "loops", str(target.pid), "--json", f"--seconds={WINDOW_S}"]
    command.append("--tids=" + ",".join(map(str, target.loop_native_ids)))
    command.append("--gil={:x}-{:x}".format(*_gil_range(target.pid)))
    package = str(Path(__file__).resolve().parent.parent.parent)
    # The child must not become a watched service itself, and must find this very hangwatch.
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HANGWATCH_", "LD_PRELOAD"))}
    environ |= {"PYTHONPATH": package, "HANGWATCH_DISABLED": "1"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=target.deadline_s, env=environ, cwd="/", stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return Evidence(NAME, error=f"gave no answer within {target.deadline_s:g} s")
    except OSError as error:
        return Evidence(NAME, error=f"cannot start {sys.executable}: {error.strerror}")
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return Evidence(NAME, error=said[-1] if said else f"exit status {done.returncode}", hint=_HINT)
    data: dict[str, Any] = {"kind": "window", **json.loads(done.stdout)}
    return Evidence(NAME, text=render(data), data=data)


def _gil_range(pid: int) -> tuple[int, int]:
    """Addresses of this interpreter's _PyRuntime; of another process' they are not known here."""
    if pid != os.getpid():
        return 0, 0
    try:
        import ctypes

        begin = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
    except (ImportError, AttributeError, ValueError):
        return 0, 0
    return begin, begin + _GIL_RANGE_BYTES


def render(data: dict[str, Any]) -> str:
    """One line for each thread."""
    lines = []
    for thread in data["threads"]:
        parts = [("cpu", "on a CPU"), ("delay", "waiting for a CPU"), ("slept", "asleep"), ("gil", "for the GIL")]
        known = ", ".join(f"{word} {thread[f'{key}_ms']:.0f} ms" for key, word in parts if thread.get(f"{key}_ms") is not None)
        lines.append(
            f"thread {thread['tid']} in {data['window_ms']:.0f} ms: {known}{'; now in ' + thread['what'] if thread['what'] else ''}"
        )
    if data.get("kernel_stack"):
        lines.append("in the kernel: " + " < ".join(data["kernel_stack"][:8]))
    return "\n".join(lines)
