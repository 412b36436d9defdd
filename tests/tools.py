"""Programs that tests run beside Python: on PATH, or unpacked into .cache by .ci/."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_HINTS = {
    "promtool": "Debian: prometheus",
    "prometheus": "Debian: prometheus",
    "amtool": "Debian: prometheus-alertmanager",
    "prometheus-alertmanager": "Debian: prometheus-alertmanager",
    "otelcol": "bash .ci/collector-from-debian .cache/collector",
    "systemd-analyze": "Debian: systemd",
}


def find(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), str(ROOT / ".cache" / "collector")]))


def needs(*names: str) -> pytest.MarkDecorator:
    """Skips by name what cannot run here."""
    missing = [f"{name} ({_HINTS.get(name, 'not installed')})" for name in names if find(name) is None]
    return pytest.mark.skipif(bool(missing), reason="not here: " + ", ".join(missing))


def run(*command: object, cwd: Path | None = None, timeout: float = 60) -> str:
    """Its output; a failure of it fails the test with what it said."""
    program = find(str(command[0])) or str(command[0])
    done = subprocess.run([program, *map(str, command[1:])], cwd=cwd, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def ask(port: int, path: str, **query: object) -> object:
    """``data`` of Prometheus' answer."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
        return json.load(answer)["data"]


def until(step, what, timeout: float = 40):
    """What ``step`` returns once it is true; a refused connection is not true yet."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            if found := step():
                return found
        except OSError:
            pass
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.2)


class Program:
    """A server for the time of a ``with``. ``log`` is what it said."""

    def __init__(self, *command: object, log: Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
        self.log = log
        program = find(str(command[0])) or str(command[0])
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [program, *map(str, command[1:])], cwd=cwd, env={**os.environ, **(env or {})}, stdout=out, stderr=subprocess.STDOUT
            )

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait(10)
