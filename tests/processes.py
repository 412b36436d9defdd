"""Real processes for tests to look at: started, waited for until they are where they should be, ended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def until(look: Callable[[], Any], patience_s: float = 30.0) -> Any:
    """What ``look()`` gives once that is true. Fails with its last answer; the time is only there so that no test hangs."""
    end = time.monotonic() + patience_s
    while not (found := look()):
        assert time.monotonic() < end, f"it never came true; last answer: {found!r}"
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def running(command: list[str], **options: Any) -> Iterator[subprocess.Popen]:
    """A process with pipes to its standard input and output, killed at the end whatever happens."""
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@contextlib.contextmanager
def waiting(*modes: str, python: str = sys.executable, **options: Any) -> Iterator[dict[str, Any]]:
    """`tests/waiting.py` with one thread for each mode, and what it says of itself."""
    with running([python, str(HERE / "waiting.py"), *modes], **options) as child:
        line = child.stdout.readline()
        assert line, "the program ended before it was ready"
        yield json.loads(line)


def look_without_rights(code: str, pid: int, how: str) -> dict[str, Any]:
    """Runs ``code`` (an expression that gives JSON values; it sees ``pid``) as somebody with fewer rights than root.

    ``how``: ``nobody`` (another user), ``no-ptrace`` (root in a container without CAP_SYS_PTRACE).
    """
    program = f"import json, sys; pid = int(sys.argv[1])\n{code}"
    python = [readable_python(), "-c", program, str(pid)]
    if how == "nobody":
        command = [
            shutil.which("setpriv"),
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "--inh-caps=-all",
            "--bounding-set=-all",
            *python,
        ]
    else:
        command = [shutil.which("setpriv"), "--bounding-set=-sys_ptrace", *python]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(HERE.parent)}, cwd="/")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def readable_python() -> str | None:
    """An interpreter (3.10+) that other users may run too; the tests' own often lies in a private home."""
    for candidate in (sys.executable, *sorted(str(p) for p in Path("/usr/bin").glob("python3.1[0-9]"))):
        done = subprocess.run(
            [
                "setpriv",
                "--reuid",
                "65534",
                "--clear-groups",
                candidate,
                "-c",
                f"import sys; sys.path[:0] = [{str(HERE.parent)!r}]; import hangwatch.records",
            ],
            capture_output=True,
            cwd="/",
        )
        if done.returncode == 0:
            return candidate
    return None


def may_change_user() -> bool:
    return os.geteuid() == 0 and bool(shutil.which("setpriv")) and readable_python() is not None
