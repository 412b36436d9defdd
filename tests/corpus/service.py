"""Starts a case's service and whatever real back-end it needs, makes it hang, asks hangwatch, ends every process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.corpus.case import Case, NotHere, environment

#: Waits for a service to listen. 60 s: initdb and a cold import on a loaded machine.
START_S = 60
#: After the client gave up, the agent gets this long to write down what it saw.
SETTLE_S = 3


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True


def listener_pid(port: int, default: int) -> int:
    """The pid whose socket listens on the port: the service itself, not a launcher around it."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"}
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if any(os.readlink(f"/proc/{entry}/fd/{fd}") in inodes for fd in os.listdir(f"/proc/{entry}/fd")):
                found.append(int(entry))
        except OSError:
            continue
    return max(found, default=default)


def end_group(process: subprocess.Popen[Any]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


@contextmanager
def backend(case: Case, env: dict[str, str], scratch: Path) -> Iterator[None]:
    """The real PostgreSQL, Redis or upstream that ``setup.sh`` starts; ended afterwards."""
    script = case.folder / "setup.sh"
    if not script.exists():
        yield
        return
    env["DATA_DIR"], env["BACKEND_PORT"] = str(scratch / "data"), str(free_port())
    done = subprocess.run(["bash", str(script), env["BACKEND_PORT"]], cwd=case.folder, env=env, capture_output=True, text=True, timeout=90)
    if done.returncode:
        raise NotHere(f"setup.sh: {done.stderr.strip()[-200:]}")
    pids = [int(word) for word in done.stdout.split() if word.isdigit()]
    try:
        yield
    finally:
        for pid in pids:
            _end(pid)


def _end(pid: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except OSError:
            return
        stop = time.monotonic() + 1
        while time.monotonic() < stop and os.path.exists(f"/proc/{pid}"):
            time.sleep(0.05)


def ask(case: Case, mode: str) -> tuple[str, list[dict[str, Any]]]:
    """Runs the case once. Returns what its client said (``HUNG``, ``OK``, …) and the incidents as JSON objects.

    ``mode`` is ``agent`` (the service runs under ``hangwatch run``) or ``attach`` (looked at from outside while it hangs).
    Raises NotHere when this machine lacks something, AssertionError with the service's output when it does not start.
    """
    scratch = Path(tempfile.mkdtemp(prefix="hangwatch-corpus-"))
    scratch.chmod(0o755)  # a real PostgreSQL runs as its own user and must reach its folder
    try:
        python = environment(case)
        env = _environ(case, python)
        with backend(case, env, scratch):
            return _run(case, mode, str(python), env, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _environ(case: Case, python: Path) -> dict[str, str]:
    env = dict(os.environ, PYTHONUNBUFFERED="1", PYTHONDONTWRITEBYTECODE="1", **case.truth.get("run", {}).get("env", {}))
    env.pop("VIRTUAL_ENV", None)
    for name in [name for name in env if name.startswith(("HANGWATCH_", "OTEL_"))]:
        del env[name]
    limits = case.truth.get("limits_s", {})
    if limits:
        env["HANGWATCH_ROUTES"] = ",".join(f"{route}={limit}" for route, limit in limits.items())
    env["PATH"] = f"{python.parent}:{env['PATH']}"
    return env


def _run(case: Case, mode: str, python: str, env: dict[str, str], scratch: Path) -> tuple[str, list[dict[str, Any]]]:
    port, spool = free_port(), scratch / "spool"
    command = [python, case.app, "--port", str(port)]
    if mode == "agent":
        limits = ["--stall-after", "2", "--loop-after", "0.5"]
        command = [python, "-m", "hangwatch", "run", "--spool", str(spool), *limits, "--", *command]
    with open(scratch / "service.log", "w+") as log:
        quiet = {"stdout": log, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        service = subprocess.Popen(command, cwd=case.folder, env=env, start_new_session=True, **quiet)
        try:
            _wait_until_up(case, service, port, log)
            pid = listener_pid(port, service.pid)
            said, answer = _trigger(case, mode, env, port, pid)
            if mode == "agent":
                answer = _json([python, "-m", "hangwatch", "incidents", "--spool", str(spool), "--json"], env)
        finally:
            end_group(service)
    return said, answer if isinstance(answer, list) else [answer] if answer else []


def _wait_until_up(case: Case, service: subprocess.Popen[Any], port: int, log: Any) -> None:
    if case.truth.get("run", {}).get("never_listens") and not case.fixed:
        return
    end = time.monotonic() + START_S
    while not listening(port):
        if service.poll() is not None or time.monotonic() > end:
            log.seek(0)
            raise AssertionError(f"{case.id}: the service did not start: {log.read()[-600:]}")
        time.sleep(0.05)


def _trigger(case: Case, mode: str, env: dict[str, str], port: int, pid: int) -> tuple[str, Any]:
    command = [sys.executable, "-u", "trigger.py", "--port", str(port), "--hold", "10"]
    if "--pid" in (case.folder / "trigger.py").read_text():
        command += ["--pid", str(pid)]
    env = {**env, "PYTHONPATH": str(Path(__file__).parent)}
    client = subprocess.Popen(
        command, cwd=case.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    lines: list[str] = []
    answer: Any = None
    assert client.stdout is not None
    try:
        for line in client.stdout:
            lines.append(line.strip())
            if line.startswith(("HUNG", "OK")):
                if mode == "attach":
                    target = str(listener_pid(port, pid))
                    answer = _json([sys.executable, "-m", "hangwatch", "attach", target, "--json"], dict(os.environ))
                else:
                    time.sleep(SETTLE_S)
                return line.split()[0], answer
    finally:
        end_group(client)
    return f"nothing: {' / '.join(lines[-3:])}", answer


def _json(command: list[str], env: dict[str, str]) -> Any:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError:
        raise AssertionError(f"{' '.join(command[2:])}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-600:]}") from None
