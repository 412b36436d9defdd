"""Programs for the remote reader to look at, on every interpreter of this machine."""

from __future__ import annotations

import contextlib
import functools
import json
import os
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


def python_of(version: str, loop: str = "asyncio") -> str:
    """An interpreter, with uvloop where ``loop`` says so. Skips by name where the version, the right to read, or uvloop is absent."""
    if not may_read():
        pytest.skip("this process may not read another's memory (CAP_SYS_PTRACE, yama)")
    python = interpreters.found(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    if loop != "uvloop":
        return str(python)
    try:
        return str(interpreters.with_uvloop(version))
    except RuntimeError as reason:
        pytest.skip(f"no uvloop for Python {version}: {str(reason)[-200:]}")


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
