"""What killed and frozen workers leave behind becomes an incident: real processes, really killed, the GIL really held."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from hangwatch import orphans
from hangwatch.records import Incident, Snapshot, Stall
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


def test_an_incident_told_in_its_place_ends_when_the_worker_runs_again(frozen):
    _process, store = frozen("ctypes.PyDLL(None).usleep(15_000_000)")
    wait_for(lambda: dumped(store))
    (incident,) = wait_for(lambda: orphans.finish(store))
    assert incident.closed_at is None
    wait_for(lambda: not dumped(store), 30.0)
    orphans.finish(store)
    wait_for(lambda: store.load(incident.id).closed_at)


def test_what_was_told_in_its_place_and_what_it_tells_itself_afterwards_are_one(frozen):
    _process, store = frozen("ctypes.PyDLL(None).usleep(15_000_000)")
    wait_for(lambda: dumped(store))
    (told,) = wait_for(lambda: orphans.finish(store))
    wait_for(lambda: store.load(told.id).closed_at, 30.0)
    (incident,) = store.list()
    assert (incident.id, incident.snapshot.source, incident.count) == (told.id, "agent", 1)
    assert {said.tool for said in told.evidence} <= {said.tool for said in incident.evidence}
    assert "usleep" in str(incident.findings[0].culprit) + str([said.text for said in incident.evidence])
    assert [head.id for head in store.heads()] == [told.id]


def left_behind(tmp_path, name="1-1", **facts):
    """A folder of a worker that does not live, as it stays after a kill."""
    folder = Store(tmp_path).workers / name
    folder.mkdir(parents=True)
    (folder / "lock").write_text("{}")
    (folder / "worker.json").write_text(json.dumps({"pid": 1, "started_at": 1.0, "beat_at": time.time(), "host": "here", **facts}))
    (folder / "faulthandler.txt").write_text("")
    return folder


def test_one_killed_while_all_was_well_leaves_nothing(tmp_path):
    left_behind(tmp_path)
    store = Store(tmp_path)
    assert orphans.finish(store) == [] == store.list() and store.worker_dirs() == []


@pytest.mark.parametrize("facts", [{"config": 3}, {"loops": "x"}, {"beat_at": "soon"}, {"config": {"loop_after": []}}], ids=str)
def test_nonsense_in_one_folder_costs_no_other(tmp_path, facts):
    dump = 'Timeout (0:00:00.500000)!\nThread 0x00007f (most recent call first):\n  File "/srv/app.py", line 3 in f\n'
    for name, more in (("1-1", facts), ("1-2", {})):
        (left_behind(tmp_path, name, **more) / "faulthandler.txt").write_text(dump)
    (incident,) = orphans.finish(Store(tmp_path))
    assert incident.snapshot.threads[0].frames[0].file == "/srv/app.py"


def test_one_killed_before_it_said_what_it_is_goes_after_a_while(tmp_path):
    folder = left_behind(tmp_path)
    (folder / "worker.json").unlink()
    orphans.finish(Store(tmp_path))
    assert folder.exists()
    orphans.finish(Store(tmp_path), now=time.time() + orphans.NAMELESS_S + 1)
    assert not folder.exists()


def test_containers_that_share_a_spool_share_pids_too(tmp_path):
    """Pid 1 was killed in one container; the open incident of pid 1 of another is none of its business."""
    store = Store(tmp_path)
    for number, host in enumerate(("here", "elsewhere")):
        snapshot = Snapshot(1, 2.0, 10, 1, "agent")
        store.add(Incident(f"i{number}", "f", "shop", Stall("request", "request:1", 0, 1), snapshot, opened_at=2.0, host=host))
    left_behind(tmp_path)
    orphans.finish(store)
    assert [(i.host, i.closed_at is None) for i in store.list()] == [("here", False), ("elsewhere", True)]
