"""What killed and frozen workers leave behind becomes an incident: real processes, really killed, the GIL really held."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from hangwatch import orphans
from hangwatch.store import Store

FREEZE = """
    import asyncio, ctypes, sys, time
    import hangwatch

    def in_native_code():
        ctypes.PyDLL(None).usleep(60_000_000)

    async def main():
        print("ready", flush=True)
        await asyncio.sleep(0.6)
        BLOCK()

    hangwatch.install(spool=sys.argv[1], loop_after=0.3, pyspy=False)
    asyncio.run(main())
"""


@pytest.fixture
def frozen(tmp_path):
    """A worker whose loop stops for good: ``frozen("in_native_code")`` keeps the GIL as well."""
    started = []

    def start(call):
        program = tmp_path / "service.py"
        program.write_text(textwrap.dedent(FREEZE).replace("BLOCK()", call))
        process = subprocess.Popen([sys.executable, str(program), str(tmp_path / "spool")], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process, Store(tmp_path / "spool")

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for(what, limit_s=15.0):
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come")


def dumped(store: Store) -> list[Path]:
    return [path for path in store.workers.glob("*/faulthandler.txt") if path.stat().st_size]


def test_a_frozen_worker_is_told_while_it_is_frozen(frozen):
    process, store = frozen("in_native_code()")
    wait_for(lambda: dumped(store))
    (incident,) = wait_for(lambda: orphans.finish(store))
    assert incident.findings[0].cause == "gil-held"
    assert any(frame.function == "in_native_code" for frame in incident.findings[0].culprit[:3])
    assert incident.snapshot.pid == process.pid and incident.closed_at is None
    assert orphans.finish(store) == [], "told once"


def test_a_frozen_worker_that_was_killed_is_told_by_the_next_look(frozen):
    process, store = frozen("in_native_code()")
    wait_for(lambda: dumped(store))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (incident,) = wait_for(lambda: orphans.finish(store))
    assert any(frame.function == "in_native_code" for frame in incident.findings[0].culprit[:3])
    assert incident.closed_at is not None
    assert store.worker_dirs() == [], "its folder went"


def test_what_the_worker_told_itself_is_not_told_again(frozen):
    process, store = frozen("time.sleep(60)")
    wait_for(store.list)
    assert orphans.finish(store) == []
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert orphans.finish(store) == []
    (incident,) = store.list()
    assert incident.closed_at is not None, "it ended with its worker"
