"""Stacks of all threads by the real py-spy, with native frames when asked: what C code a thread is in, and who owns the GIL.

py-spy stops the process for some 5 ms (30 to 50 with native frames), so its owner gives it a `Budget`. It knows threads, not
suspended tasks; those are the Snapshot's.

``data``: {"threads": [{"ident", "native_id", "name", "active": bool, "owns_gil": bool, "frames": [{"file", "line", "function",
"native": bool}]}], "native": bool, "nonblocking": bool}. Frames outermost first. ``active``: it was running, not waiting.

While py-spy has stopped this very process, no deadline of ours can run out. So it is started through a few lines of Python that
set alarm(2), which outlives exec: the kernel ends py-spy in time, and a tracer's end lets its target go on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

from hangwatch.evidence.base import OWN_THREADS, Target
from hangwatch.kernel import files, ptrace
from hangwatch.records import Evidence

NAME = "py-spy"

#: --nonblocking reads a moving process and so may fail; FACTS: 4 of 63 under load.
_NONBLOCKING_TRIES = 3
_MAX_OUTPUT = 16 << 20

_INSTALL = "pip install 'hangwatch[pyspy]' (or py-spy) in the service's environment, or put py-spy on PATH."

# Waits for the newline that says "you may trace me now", arms the kernel's timer, becomes py-spy.
_LAUNCHER = """
import os, signal, sys
sys.stdin.readline()
signal.signal(signal.SIGALRM, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[1]))
os.execv(sys.argv[2], sys.argv[2:])
"""


class _Failed(Exception):
    """One run of py-spy gave no stacks; the message is what it said."""


def capture(target: Target) -> Evidence:
    binary = find()
    if binary is None:
        return Evidence(NAME, error="py-spy is not installed", hint=_INSTALL)
    if target.pyspy_budget is not None and not target.pyspy_budget.take(time.monotonic()):
        runs = f"{target.pyspy_budget.per_hour} runs an hour"
        return Evidence(NAME, error=f"not run: its budget of {runs} is used up", hint="Config.pyspy_per_hour sets it.")
    until_s = time.monotonic() + target.deadline_s
    try:
        threads, nonblocking = _dump(binary, target, until_s)
    except _Failed as failure:
        error, hint = explain(str(failure), target.pid, binary)
        return Evidence(NAME, error=error, hint=hint)
    data = {"threads": threads, "native": target.native and not nonblocking, "nonblocking": nonblocking}
    return Evidence(NAME, text=render(threads), data=data)


def find() -> str | None:
    """py-spy beside this interpreter, in its scripts folder, or on PATH."""
    folders = [Path(sys.executable).parent if sys.executable else None, Path(sysconfig.get_path("scripts") or "/nonexistent")]
    for folder in folders:
        if folder is not None and os.access(folder / "py-spy", os.X_OK):
            return str(folder / "py-spy")
    return shutil.which("py-spy")


def _dump(binary: str, target: Target, until_s: float) -> tuple[list[dict[str, Any]], bool]:
    """The threads, and whether they had to be read without stopping the process."""
    command = [binary, "dump", "--json", "--pid", str(target.pid)]
    try:
        return parse(_run([*command, "--native"] if target.native else command, target.pid, until_s)), False
    except _Failed as first:
        # Another tracer (gdb, strace) may have it; reading without a stop still works then.
        if ptrace.refusal(target.pid) is not None:
            raise
        failure = first
    for _ in range(_NONBLOCKING_TRIES):
        try:
            return parse(_run([*command, "--nonblocking"], target.pid, until_s)), True
        except _Failed as again:
            if "deadline" in str(again):
                break
    raise failure


def _run(command: list[str], pid: int, until_s: float) -> str:
    """Standard output of one run. Raises _Failed with what it wrote to standard error."""
    left_s = until_s - time.monotonic()
    if left_s <= 0.05:
        raise _Failed("the deadline passed before it could run")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "RUST_", "LD_PRELOAD"))}
    try:
        child = subprocess.Popen(
            _launch(command, left_s), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ, cwd="/"
        )
    except OSError as error:
        raise _Failed(f"cannot start {command[0]}: {error.strerror}") from None
    permitted = pid == os.getpid() and ptrace.yama_scope() == 1 and ptrace.allow(child.pid)
    try:
        # The timer in the child comes first; this one is for a child that never got so far.
        out, err = child.communicate(b"\n", timeout=left_s + 0.5)
    except subprocess.TimeoutExpired:
        child.kill()
        out, err = child.communicate()
    finally:
        if permitted:
            ptrace.allow(0)
    if child.returncode == 0 and out:
        return out[:_MAX_OUTPUT].decode("utf-8", "replace")
    if child.returncode < 0:
        raise _Failed(f"py-spy was ended at its deadline (signal {-child.returncode})")
    raise _Failed(err.decode("utf-8", "replace").strip() or f"exit status {child.returncode} without a word")


def _launch(command: list[str], left_s: float) -> list[str]:
    # An embedding program (uwsgi) is its own sys.executable and cannot run our lines; py-spy then ignores the newline.
    if not Path(sys.executable or "").name.startswith("python"):
        return command
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, f"{left_s:.3f}", *command]


def parse(output: str) -> list[dict[str, Any]]:
    """py-spy's JSON as our threads. Raises _Failed when it is not what we know."""
    try:
        threads = [_thread(thread) for thread in json.loads(output)]
    except (ValueError, KeyError, TypeError) as error:
        raise _Failed(f"its output was not understood ({type(error).__name__}: {error})") from None
    return [thread for thread in threads if not thread["name"].startswith(OWN_THREADS)]


def _thread(raw: dict[str, Any]) -> dict[str, Any]:
    frames = [
        {
            "file": frame.get("filename") or "",
            "line": frame.get("line") or 0,
            "function": frame.get("name") or "",
            "native": frame.get("module") is not None,
        }
        for frame in reversed(raw["frames"])
    ]
    return {
        "ident": raw["thread_id"],
        "native_id": raw.get("os_thread_id"),
        "name": raw.get("thread_name") or "",
        "active": bool(raw.get("active")),
        "owns_gil": bool(raw.get("owns_gil")),
        "frames": frames,
    }


def render(threads: list[dict[str, Any]]) -> str:
    """As py-spy shows it: one block a thread, the innermost frame first."""
    lines: list[str] = []
    for thread in threads:
        marks = [word for word, there in (("active", thread["active"]), ("owns the GIL", thread["owns_gil"])) if there]
        state = ", ".join(marks) or "idle"
        lines.append(f"Thread {thread['native_id']} {thread['name']}".rstrip() + f" ({state})")
        for frame in reversed(thread["frames"]):
            where = frame["file"] if frame["native"] else f"{frame['file']}:{frame['line']}"
            lines.append(f"    {frame['function']} ({where})")
    return "\n".join(lines)


def explain(said: str, pid: int, binary: str) -> tuple[str, str | None]:
    """What py-spy said, as a sentence and what to do about it."""
    first = said.partition("\n")[0].removeprefix("Error: ")
    refused = ptrace.refusal(pid)
    if refused is not None:
        return refused.message, refused.help_text
    if "Permission Denied" in said or "Operation not permitted" in said:
        return "py-spy may not trace the process", _tracing(pid)
    if "python version" in said or "Unsupported version" in said or "interpreter" in said:
        return first, f"The process is not Python, or its Python is newer than {binary} knows: pip install -U py-spy."
    if "deadline" in said:
        return first, "The machine was too busy, or the process has very many threads: give a longer deadline."
    return first, None


def _tracing(pid: int) -> str:
    tracer = files.fields(files.read_text(f"/proc/{pid}/status")).get("TracerPid", "0")
    if tracer != "0":
        return f"Process {tracer} traces it already (a debugger or strace); end that first."
    return f"py-spy stops the process with ptrace.\n{ptrace.GRANT}"
