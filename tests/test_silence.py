"""A silence noted without a system call, told by whoever looks at the spool when the worker itself cannot."""

from __future__ import annotations

import faulthandler
import json
import sys
import time

import pytest

from hangwatch import lifesign, orphans, silence
from hangwatch.ledger import Ledger
from hangwatch.silence import SilenceNote
from hangwatch.stacktimer import COLLECTING_S, FILE_NAME, LATE_S, LEAST_S, StackTimer
from hangwatch.store import Store
from tests.processes import running, until

COLLECTS = """
import asyncio, gc, sys
import hangwatch
gc.disable()
heap = [[[n], [n + 1], [n + 2]] for n in range(2_000_000)]
gc.enable()

async def main():
    await asyncio.sleep(0.6)
    print(flush=True)
    while True:
        gc.collect()
        await asyncio.sleep(0)

hangwatch.install(spool=sys.argv[1], loop_after=0.3, pyspy=False)
asyncio.run(main())
"""
STACK = [{"file": "/srv/app.py", "line": 3, "function": "clean"}]


def data(late_ms=1200, gc_ms=1150):
    return {"late_ms": late_ms, "cpu_ms": late_ms, "gc_ms": gc_ms, "threads": [{"ident": 5, "native_id": 7, "frames": STACK * 200}]}


def test_what_is_put_can_be_read_until_it_is_cleared(tmp_path):
    note = SilenceNote(tmp_path)
    assert silence.read(tmp_path) is None
    note.put(100.0, data())
    note.put(103.0, data(500, 400))
    found = silence.read(tmp_path)
    assert (found["begun_at"], found["silences"], found["late_ms"], found["gc_ms"]) == (100.0, 2, 1700, 1550)
    assert len(found["threads"][0]["frames"]) == 60
    note.clear()
    assert silence.read(tmp_path) is None
    note.put(200.0, data())
    assert silence.read(tmp_path)["silences"] == 1


def test_half_a_note_is_none(tmp_path):
    note = SilenceNote(tmp_path)
    note.put(100.0, data())
    path = tmp_path / silence.FILE_NAME
    raw = path.read_bytes()
    for torn in (raw[:4], bytes(8) + raw[8:], raw[:50] + bytes(50) + raw[100:]):
        (tmp_path / "torn").mkdir(exist_ok=True)
        (tmp_path / "torn" / silence.FILE_NAME).write_bytes(torn)
        assert silence.read(tmp_path / "torn") is None
    note.put(101.0, {"threads": object()})  # cannot be written: nothing happens


def test_no_note_where_a_page_may_have_to_come_over_a_network(tmp_path, monkeypatch):
    mounts = f"1 0 0:1 / / rw - ext4 /dev/vda rw\n2 1 0:2 / {tmp_path} rw - nfs4 server:/ rw\n"
    monkeypatch.setattr(silence.files, "read_text", lambda path, *rest: mounts)
    with pytest.raises(OSError, match="another machine"):
        SilenceNote(tmp_path)


def test_a_worker_killed_before_it_could_tell_is_told_by_its_note(tmp_path):
    folder = Store(tmp_path).workers / "1-1"
    folder.mkdir(parents=True)
    (folder / "lock").write_text("{}")
    now = time.time()
    loop = {"id": "loop:1", "kind": "asyncio", "thread_ident": 5, "thread_native_id": 7}
    (folder / "worker.json").write_text(json.dumps({"pid": 1, "started_at": now - 60, "beat_at": now - 3, "loops": [loop]}))
    (folder / "faulthandler.txt").write_text("")
    SilenceNote(folder).put(now - 4, data())
    (incident,) = orphans.finish(Store(tmp_path))
    assert incident.findings[0].cause == "gc-pause" and incident.findings[0].culprit[0].function == "clean"
    assert incident.closed_at is not None and abs(incident.opened_at - (now - 4)) < 1


@pytest.mark.slow
def test_a_worker_that_gets_a_moment_between_two_collections_is_told(tmp_path):
    """Whether by itself or in its place: what its heap allows in that time differs from machine to machine."""
    store = Store(tmp_path / "spool")
    with running([sys.executable, "-c", COLLECTS, str(store.root)]) as child:
        child.stdout.readline()
        found = until(lambda: orphans.finish(store) or store.list(), 60)
        assert found[0].findings[0].cause == "gc-pause", [finding.title for finding in found[0].findings]
        assert child.poll() is None
        assert lifesign.name_of(child.pid) in {folder.name for folder, _, _ in store.worker_dirs()}


# The timer that writes stacks while nothing of Python can run must not fire while it does.


def test_no_dump_meets_the_end_of_a_collection(tmp_path, monkeypatch):
    armed = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda timeout, **options: armed.append(timeout))
    ledger, timer = Ledger(), StackTimer(0.5, tmp_path)
    ledger.on_collection = timer.collection
    collect = ledger.gc_watcher()
    timer.beat()
    collect("start", {"generation": 1})
    assert armed == [LEAST_S], "what is short, and often, costs nothing"
    collect("start", {"generation": 2})
    collect("stop", {"generation": 2})
    collect("start", {"generation": 2})
    assert armed == [LEAST_S, COLLECTING_S], "once for those that follow each other"
    timer.beat()
    timer._beat_ns -= int(LATE_S * 1e9)
    collect("stop", {"generation": 2})
    assert armed[2:] == [LEAST_S, LEAST_S]
    with timer._gate:  # in the middle of `beat`, on this very thread
        collect("start", {"generation": 2})
    timer.stop()
    collect("start", {"generation": 2})
    assert len(armed) == 4 and (tmp_path / FILE_NAME).exists()
