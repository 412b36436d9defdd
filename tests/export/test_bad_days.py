"""Receivers that are down, slow, refusing or half-open; floods, forks, kills, and a main thread that holds a handler's lock."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hangwatch import export
from hangwatch.config import Config
from hangwatch.export import Exporters, lanes, parcels
from hangwatch.export.outbox import Outbox
from hangwatch.export.traces import TraceSender
from tests.export.incidents import numbered
from tests.export.receiver import Receiver, free_port, values

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Retries come soon, so that the tests need not wait for what they test."""
    monkeypatch.setattr(lanes, "FIRST_RETRY_S", 0.05)
    monkeypatch.setattr(lanes, "LAST_RETRY_S", 0.2)
    monkeypatch.setattr(export, "SEND_TIMEOUT_S", 1.0)


def exporters_to(url, tmp_path, **settings):
    return Exporters(Config.make({}, spool=tmp_path, otlp=url, **settings))


def told(receiver):
    """Ids of the incidents whose stall span arrived, in order of arrival."""
    return [values(s.attributes)["hangwatch.incident.id"] for s in receiver.spans() if s.name.startswith("request stall")]


def waiting(tmp_path):
    return sorted(path.name for path in tmp_path.glob("outbox/*/*.json"))


def test_down_and_back(tmp_path):
    with free_port() as port:
        exporters = exporters_to(f"http://127.0.0.1:{port}", tmp_path)
        for n in range(3):
            exporters.offer(numbered(n))
        deadline = time.monotonic() + 20
        while exporters.counts()["traces_failures"] < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(waiting(tmp_path)) == 6
        with Receiver(port) as receiver:
            receiver.wait(lambda r: len(told(r)) == 3 and len(r.logs()) == 3)
            assert told(receiver) == [numbered(n).id for n in range(3)], "oldest first, each once"
            assert exporters.close(20), exporters.counts()
    assert waiting(tmp_path) == []
    assert not list(tmp_path.glob("outbox/*")), "an empty folder is not left behind"


@pytest.mark.parametrize("status", [503, 429, 500, 401])
def test_refused_for_now(tmp_path, status, monkeypatch):
    monkeypatch.setattr(export, "SEND_TIMEOUT_S", 10.0)  # time enough for the exporter's own retries, if they were let
    with Receiver(answers={"/v1/traces": [status, status, 200]}) as receiver:
        exporters = exporters_to(receiver.url, tmp_path)
        exporters.offer(numbered(1))
        receiver.wait(lambda r: told(r))
        assert exporters.close(20), exporters.counts()
        assert (receiver.tries.count("/v1/traces"), exporters.counts()["traces_failures"]) == (3, 2), "one request a try"
        assert told(receiver) == [numbered(1).id]


def test_refused_for_good(tmp_path):
    with Receiver(answers={"*": [400]}) as receiver:
        exporters = exporters_to(receiver.url, tmp_path)
        exporters.offer(numbered(1))
        assert exporters.close(20), exporters.counts()
        assert exporters.counts()["traces_refused"] == 1
        assert waiting(tmp_path) == []


def test_one_bad_parcel_does_not_take_its_batch_along(tmp_path):
    with free_port() as port:
        exporters = exporters_to(f"http://127.0.0.1:{port}", tmp_path, events="span")
        for n in range(3):
            exporters.offer(numbered(n))
        with Receiver(port, answers={"/v1/traces": [400, 400, 200]}) as receiver:
            receiver.wait(lambda r: len(told(r)) == 2)
            assert told(receiver) == [numbered(1).id, numbered(2).id]
            assert exporters.close(20), exporters.counts()
            assert exporters.counts()["traces_refused"] == 1


@pytest.mark.parametrize("answer", ["silent", "cut"])
def test_accepts_and_never_answers(tmp_path, answer):
    with Receiver(answers={"/v1/traces": [answer, 200]}) as receiver:
        exporters = exporters_to(receiver.url, tmp_path)
        exporters.offer(numbered(1))
        receiver.wait(lambda r: told(r))
        assert exporters.counts()["traces_failures"] == 1
        assert exporters.close(20), exporters.counts()


def test_offer_returns_while_the_receiver_is_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "SEND_TIMEOUT_S", 60.0)
    with Receiver(answers={"*": ["silent"]}) as receiver:
        exporters = exporters_to(receiver.url, tmp_path)
        exporters.offer(numbered(1))
        receiver.wait(lambda r: r.tries)
        for n in range(2, 22):
            exporters.offer(numbered(n))
        assert (len(receiver.tries), exporters.counts()["traces_failures"]) == (1, 0), "the first request is still out"
        assert exporters.close(0.1) is False
        assert len(waiting(tmp_path)) == 2 * 21, "what was not sent is kept"


def test_a_flood_is_bounded_in_memory_and_whole_on_disk(tmp_path, monkeypatch):
    with free_port() as port:
        exporters = exporters_to(f"http://127.0.0.1:{port}", tmp_path)
        for n in range(1000):
            exporters.offer(numbered(n))
        counts = exporters.counts()
        assert counts["traces_waiting"] <= lanes.MAX_QUEUED
        assert len(waiting(tmp_path)) + counts["outbox_dropped"] == 2000
        with Receiver(port) as receiver:
            receiver.wait(lambda r: len(told(r)) >= 1000, timeout=60)
            receiver.wait(lambda r: len(r.logs()) >= 1000, timeout=60)
            assert exporters.close(20), exporters.counts()
            assert sorted(told(receiver)) == [numbered(n).id for n in range(1000)], "each once"
            assert exporters.counts()["couriers_started"] >= 1, "what has gathered meanwhile is too much for this process"
            assert exporters.counts()["traces_dropped"] == exporters.counts()["outbox_dropped"] == 0


def test_what_was_read_back_from_disk_is_not_sent_again_from_memory(tmp_path):
    """The detecting thread writes the file first and appends second; the export thread may find the file in between."""
    with Receiver() as receiver:
        config = Config.make({}, spool=tmp_path, otlp=receiver.url)
        outbox = Outbox(tmp_path)
        lane = lanes.Lane("traces", lambda: TraceSender(config, 5.0), outbox)
        parcel = parcels.of_stall(numbered(1), config)[0]
        assert outbox.add(parcel)
        lane.behind = True
        assert lane.work(False)
        lane.put(parcel, saved=True)
        assert lane.work(False)
        assert told(receiver) == [numbered(1).id]
        outbox.close()


def test_a_full_outbox_drops_the_oldest_and_counts(tmp_path):
    with free_port() as port:
        exporters = exporters_to(f"http://127.0.0.1:{port}", tmp_path, events="span")
        exporters._outbox.limit = 20
        for n in range(50):
            exporters.offer(numbered(n))
        left = waiting(tmp_path)
        assert len(left) <= 20
        assert len(left) + exporters.counts()["outbox_dropped"] == 50
        assert any("00049" in name for name in left) and not any("00000-" in name.partition("stall")[2] for name in left)
        exporters.close(0)


def test_without_a_disk_it_is_sent_from_memory(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with Receiver() as receiver:
        exporters = exporters_to(receiver.url, blocked)
        exporters.offer(numbered(1))
        assert exporters.close(20), exporters.counts()
        assert told(receiver) == [numbered(1).id]


def test_an_incident_that_makes_no_sense_is_counted_not_raised(tmp_path):
    with Receiver() as receiver:
        exporters = exporters_to(receiver.url, tmp_path)
        exporters.offer(dataclasses.replace(numbered(1), snapshot=None))
        exporters.offer(numbered(2))
        assert exporters.close(20), exporters.counts()
        assert exporters.counts()["failed"] == 1
        assert told(receiver) == [numbered(2).id]


def test_a_held_handler_lock_blocks_nothing(tmp_path):
    """A stuck main thread may hold any handler's lock; the SDK and urllib3 log while they send and fail."""
    handler = logging.StreamHandler(open(os.devnull, "w"))  # noqa: SIM115
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with Receiver(answers={"/v1/traces": [503, 400, 200]}) as receiver, handler.lock:
            exporters = exporters_to(receiver.url, tmp_path)
            exporters.offer(numbered(1))
            receiver.wait(lambda r: r.tries.count("/v1/traces") >= 2)
            exporters.offer(numbered(2))
            receiver.wait(lambda r: told(r) == [numbered(2).id])
            assert exporters.close(20), exporters.counts()
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.stream.close()


def test_the_applications_own_telemetry_logs_stay_audible(tmp_path, caplog):
    with Receiver(answers={"*": [400]}) as receiver:
        exporters = exporters_to(receiver.url, tmp_path)
        exporters.offer(numbered(1))
        receiver.wait(lambda r: len(r.tries) >= 2)
        logging.getLogger("opentelemetry.sdk.trace.export").warning("the application's own")
        assert exporters.close(20), exporters.counts()
    assert [record.message for record in caplog.records if record.name.startswith("opentelemetry")] == ["the application's own"]
    for name in list(logging.root.manager.loggerDict):
        assert not any("hangwatch" in type(f).__module__ for f in logging.getLogger(name).filters), f"a filter stayed on {name}"


def run(code, **environ):
    """A real process; its standard output, or the number of the signal that killed it."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        said, complaint = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its forked children too
        process.wait()
    assert process.returncode <= 0, complaint
    return said or process.returncode


HEAD = """
import os, signal, sys, time
from hangwatch.config import Config
from hangwatch.export import Exporters
from tests.export.incidents import numbered
exporters = Exporters(Config.make({}, spool=os.environ["SPOOL"], otlp=os.environ["URL"]))
"""


def test_fork_parent_and_child_send_their_own_each_once(tmp_path):
    code = (
        HEAD
        + """
exporters.offer(numbered(1))
pid = os.fork()
if pid == 0:
    exporters.offer(numbered(2))
    os._exit(0 if exporters.close(20) else 1)
assert os.waitpid(pid, 0)[1] == 0
exporters.offer(numbered(3))
assert exporters.close(20)
"""
    )
    with Receiver() as receiver:
        run(code, SPOOL=str(tmp_path), URL=receiver.url)
        assert sorted(told(receiver)) == [numbered(n).id for n in (1, 2, 3)]
    assert waiting(tmp_path) == []


def test_fork_in_the_middle_of_the_export_threads_import(tmp_path):
    """Without care the child has half a module and its import lock, held for ever by a thread it does not have."""
    code = (
        HEAD
        + """
import builtins
real = builtins.__import__
def slow(name, *rest, **more):
    if name == "requests" and not started:
        started.append(name)
        time.sleep(0.3)
    return real(name, *rest, **more)
started, builtins.__import__ = [], slow
exporters.offer(numbered(1))
while not started: time.sleep(0.001)
pid = os.fork()
if pid == 0:
    import opentelemetry.exporter.otlp.proto.http.trace_exporter
    exporters.offer(numbered(2))
    os._exit(0 if exporters.close(20) else 1)
assert os.waitpid(pid, 0)[1] == 0
assert exporters.close(20)
"""
    )
    with Receiver() as receiver:
        run(code, SPOOL=str(tmp_path), URL=receiver.url)
        assert sorted(told(receiver)) == [numbered(n).id for n in (1, 2)]


def test_what_a_killed_process_did_not_send_the_next_sends(tmp_path):
    with free_port() as port:
        code = (
            HEAD
            + """
exporters.offer(numbered(1)); exporters.offer(numbered(2))
os.kill(os.getpid(), signal.SIGKILL)
"""
        )
        assert run(code, SPOOL=str(tmp_path), URL=f"http://127.0.0.1:{port}") == -signal.SIGKILL
        assert len(waiting(tmp_path)) == 4
        with Receiver(port) as receiver:
            exporters = exporters_to(receiver.url, tmp_path)
            exporters.resume()
            receiver.wait(lambda r: len(told(r)) == 2 and len(r.logs()) == 2)
            assert told(receiver) == [numbered(1).id, numbered(2).id]
            assert exporters.close(20), exporters.counts()
    assert waiting(tmp_path) == []


def test_a_living_process_folder_is_left_alone(tmp_path):
    with free_port() as port:
        living = exporters_to(f"http://127.0.0.1:{port}", tmp_path)
        living.offer(numbered(1))
        before = waiting(tmp_path)
        other = Outbox(tmp_path)
        assert not other.has_orphans()
        assert other.take_over() == 0
        assert waiting(tmp_path) == before
        living.close(0)


def test_exit_is_not_held_up(tmp_path):
    """The receiver never answers; the process ends as soon as close's two seconds are over, and what it had is on disk."""
    code = (
        HEAD
        + """
exporters.offer(numbered(1))
while not exporters._lanes["traces"].tries: time.sleep(0.01)
started = time.monotonic()
exporters.close()
print(time.monotonic() - started)
"""
    )
    with Receiver(answers={"*": ["silent"]}) as receiver:
        held_s = float(run(code, SPOOL=str(tmp_path), URL=receiver.url))
    assert held_s < 4, "one try alone takes five seconds"
    assert len(waiting(tmp_path)) == 2


def test_opentelemetry_is_imported_by_the_export_thread_only(tmp_path):
    code = (
        HEAD
        + """
exporters.resume()
assert not [name for name in sys.modules if name.startswith("opentelemetry")], "imported before there is anything to send"
import builtins, threading
real, importers = builtins.__import__, set()
def watching(name, *rest, **more):
    if name.startswith("opentelemetry"):
        importers.add(threading.current_thread().name)
    return real(name, *rest, **more)
builtins.__import__ = watching
exporters.offer(numbered(1))
assert exporters.close(20)
print(importers)
"""
    )
    with Receiver() as receiver:
        assert run(code, SPOOL=str(tmp_path), URL=receiver.url).strip() == "{'hangwatch-export'}"
