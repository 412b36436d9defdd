"""Programs for the remote reader to look at, on every interpreter of this machine."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hangwatch.attach.side import Side
from hangwatch.reading.remote import RemoteReader
from tests import interpreters
from tests.processes import running

TARGETS = Path(__file__).resolve().parent / "targets"
VERSIONS = ("3.9", *interpreters.INSIDE)


@functools.cache
def may_read() -> bool:
    """This process may read another's memory: tried on a child that has made itself known."""
    with running([sys.executable, "-c", "print(1, flush=True); input()"]) as child:
        child.stdout.readline()
        from hangwatch.kernel import ptrace

        return ptrace.attempt(child.pid) == 0


needs_ptrace = pytest.mark.needs_ptrace


def python_of(version: str, module: str = "") -> str:
    """Skips by name where the version, the right to read, or a module is absent."""
    if not may_read():
        pytest.skip("this process may not read another's memory (CAP_SYS_PTRACE, yama)")
    python = interpreters.found(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    if module:
        candidates = [str(python), *_environments(version)]
        for candidate in candidates:
            if subprocess.run([candidate, "-c", f"import {module}"], capture_output=True).returncode == 0:
                return candidate
        pytest.skip(f"no {module} for Python {version} on this machine")
    return str(python)


def _environments(version: str) -> list[str]:
    found = [str(path) for path in interpreters.ROOT.glob(f".venvs/{version}-*/bin/python")]
    found += [str(path) for path in interpreters.ROOT.glob(f".cache/pythons/{version}/venv/bin/python")]
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        found.append(sys.executable)
    return found


@contextlib.contextmanager
def target(python: str, program: str, *arguments: str, said: bool = True) -> Iterator[tuple[int, Any]]:
    """The program, running, and what it says of itself in its first line."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with running([python, str(TARGETS / program), *arguments], env=environ) as child:
        line = child.stdout.readline()
        assert line, f"{program} ended before it was ready"
        yield child.pid, json.loads(line) if said else None


def reader_of(pid: int) -> RemoteReader:
    return RemoteReader(pid, Side(pid))
