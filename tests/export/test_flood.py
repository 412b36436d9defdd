"""More incidents at once than a service's interpreter should pay for: notes on disk, a courier that sends them, nothing lost."""

from __future__ import annotations

import dataclasses
import os
import signal
import time

import pytest

from hangwatch import export
from hangwatch.config import Config
from hangwatch.export import Exporters, handover, lanes, notes
from hangwatch.export.outbox import Outbox
from hangwatch.store import Store
from tests.export.incidents import numbered
from tests.export.receiver import Receiver, free_port, values
from tests.export.test_bad_days import HEAD, run

N = 120


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(lanes, "FIRST_RETRY_S", 0.05)
    monkeypatch.setattr(lanes, "LAST_RETRY_S", 0.2)
    monkeypatch.setattr(export, "GATHER_NOTES_S", 0.3)
    monkeypatch.setattr(handover, "FIRST_RETRY_S", 0.1)
    monkeypatch.setattr(handover, "EVERY_S", 0.1)


def flooded(url, spool, n=N, **settings):
    """Exporters that were offered ``n`` incidents at once, each of which the spool has."""
    store = Store(spool)
    exporters = Exporters(Config.make({}, spool=spool, otlp=url, **settings), store)
    for number in range(n):
        incident = numbered(number)
        store.add(incident)
        exporters.offer(incident)
    return exporters


def told(receiver):
    return sorted(values(s.attributes)["hangwatch.incident.id"] for s in receiver.spans() if s.name.startswith("request stall"))


def logged(receiver):
    return sorted(values(record.attributes)["hangwatch.incident.id"] for record in receiver.logs())


def waiting(spool):
    return sorted(path.name for path in spool.glob("outbox/*/*") if path.suffix in (".json", notes.SUFFIX))


IDS = [numbered(n).id for n in range(N)]


def settled(exporters, timeout=60.0):
    """The counts, once nothing waits."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        counts = exporters.counts()
        if not counts["notes_waiting"] and not counts["traces_waiting"] and not exporters._handover.under_way:
            return counts
        time.sleep(0.05)
    raise AssertionError(exporters.counts())


def test_a_courier_sends_what_is_beyond_a_burst(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "GATHER_NOTES_S", 300.0)
    with Receiver() as receiver:
        exporters = flooded(receiver.url, tmp_path)
        assert exporters.counts()["notes_waiting"] >= N / 3, "spans are not made on this thread"
        monkeypatch.setattr(export, "GATHER_NOTES_S", 0.0)
        exporters._wake.set()
        receiver.wait(lambda r: len(told(r)) >= N and len(logged(r)) >= N, timeout=60)
        counts = settled(exporters)
        assert told(receiver) == logged(receiver) == IDS, "each once"
        assert (counts["traces_sent"], counts["logs_sent"], counts["notes_dropped"]) == (N, N, 0)
        assert counts["couriers_started"] >= 1
        assert exporters.close(20)
    assert not list(tmp_path.glob("outbox/*")), "its folder is gone with it"


def test_ends_are_told_too(tmp_path):
    with Receiver() as receiver:
        exporters = flooded(receiver.url, tmp_path, 60)
        for n in range(60):
            exporters.recovered(numbered(n))
        receiver.wait(lambda r: len([s for s in r.spans() if s.name == "stall ended"]) >= 60, timeout=60)
        settled(exporters)
        ended = [values(s.attributes)["hangwatch.incident.id"] for s in receiver.spans() if s.name == "stall ended"]
        assert sorted(ended) == IDS[:60]
        exporters.close(20)


def test_without_a_courier_the_thread_sends(tmp_path):
    with Receiver() as receiver:
        exporters = flooded(receiver.url, tmp_path, courier=False)
        receiver.wait(lambda r: len(told(r)) >= N and len(logged(r)) >= N, timeout=60)
        counts = settled(exporters)
        assert told(receiver) == logged(receiver) == IDS
        assert counts["couriers_started"] == 0
        exporters.close(20)


def test_a_courier_that_cannot_live_is_not_sent_again(tmp_path, monkeypatch):
    broken = tmp_path / "courier.py"
    broken.write_text("raise SystemExit(3)")
    monkeypatch.setattr(handover, "PROGRAM", broken)
    with Receiver() as receiver:
        exporters = flooded(receiver.url, tmp_path / "spool")
        receiver.wait(lambda r: len(told(r)) >= N, timeout=60)
        assert settled(exporters)["couriers_started"] == 1
        assert told(receiver) == IDS
        exporters.close(20)


def test_a_killed_courier_loses_nothing(tmp_path):
    with Receiver(answers={"/v1/traces": [200, 200, 200, "silent", 200]}) as receiver:
        exporters = flooded(receiver.url, tmp_path)
        end = time.monotonic() + 30
        while not exporters._handover.under_way and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(exporters._handover._process.pid, signal.SIGKILL)
        receiver.wait(lambda r: set(told(r)) == set(IDS), timeout=60)
        settled(exporters)
        assert len(told(receiver)) - N <= lanes.BATCH, "one request at most is made twice"
        exporters.close(20)


def test_what_the_spool_let_go_of_is_counted(tmp_path):
    with free_port() as port:
        exporters = flooded(f"http://127.0.0.1:{port}", tmp_path)
        for gone in IDS[-20:]:
            exporters.store.remove(gone)
        with Receiver(port) as receiver:
            receiver.wait(lambda r: len(told(r)) >= N - 20, timeout=60)
            counts = settled(exporters)
            assert told(receiver) == IDS[:-20]
            assert counts["notes_dropped"] == 20
            exporters.close(20)


def test_down_and_back(tmp_path):
    with free_port() as port:
        exporters = flooded(f"http://127.0.0.1:{port}", tmp_path)
        time.sleep(1.5)
        assert exporters.counts()["couriers_started"] == 0, "while nothing gets through nobody is sent"
        assert exporters._flood_due(time.monotonic()) == float("inf"), "nor is looked for one, over and over"
        with Receiver(port) as receiver:
            receiver.wait(lambda r: len(told(r)) >= N and len(logged(r)) >= N, timeout=60)
            settled(exporters)
            assert told(receiver) == logged(receiver) == IDS
            assert exporters.close(20)


def test_who_takes_spans_and_no_logs_gets_all_spans(tmp_path):
    with Receiver(answers={"/v1/logs": [401]}) as receiver:
        exporters = flooded(receiver.url, tmp_path)
        receiver.wait(lambda r: len(told(r)) >= N, timeout=60)
        assert told(receiver) == IDS
        exporters.close(0.2)
        assert len([name for name in waiting(tmp_path) if ".logs." in name]) >= 1, "the logs wait"


def test_what_a_killed_worker_noted_the_next_one_sends(tmp_path):
    code = (
        HEAD
        + """
from hangwatch.store import Store
exporters.store = store = Store(os.environ["SPOOL"])
for n in range(60):
    store.add(numbered(n))
    exporters.offer(numbered(n))
os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    with free_port() as port:
        assert run(code, SPOOL=str(tmp_path), URL=f"http://127.0.0.1:{port}") == -signal.SIGKILL
        assert any(name.endswith(notes.SUFFIX) for name in waiting(tmp_path))
        with Receiver(port) as receiver:
            exporters = Exporters(Config.make({}, spool=tmp_path, otlp=receiver.url), Store(tmp_path))
            exporters.resume()
            receiver.wait(lambda r: len(told(r)) >= 60, timeout=60)
            settled(exporters)
            assert told(receiver) == IDS[:60]
            exporters.close(20)


def test_exit_does_not_wait_for_a_flood(tmp_path):
    """Two seconds at most; what is left lies in the outbox, and is whole."""
    code = (
        HEAD
        + """
from hangwatch.store import Store
exporters.store = store = Store(os.environ["SPOOL"])
for n in range(400):
    store.add(numbered(n))
    exporters.offer(numbered(n))
started = time.monotonic()
exporters.close()
print(time.monotonic() - started)
"""
    )
    with Receiver(answers={"*": ["silent"]}) as receiver:
        held_s = float(run(code, SPOOL=str(tmp_path), URL=receiver.url))
    assert held_s < 4
    left = {name.split(".")[0].rpartition("-")[2] for name in waiting(tmp_path)}
    assert left == {numbered(n).id for n in range(400)}


def test_a_fork_meanwhile_does_not_keep_a_couriers_folder(tmp_path):
    code = (
        HEAD
        + """
from hangwatch.store import Store
from hangwatch import export
export.GATHER_NOTES_S = 0.0
exporters.store = store = Store(os.environ["SPOOL"])
for n in range(60):
    store.add(numbered(n))
    exporters.offer(numbered(n))
children = []
end = time.monotonic() + 30
while time.monotonic() < end and not exporters._handover.under_way:
    pass
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    children.append(pid)
while time.monotonic() < end and (exporters._handover.under_way or exporters.counts()["notes_waiting"]):
    time.sleep(0.05)
print(exporters.counts()["notes_waiting"], exporters.counts()["traces_sent"], len(list(export.Outbox(store.root)._orphans())))
for pid in children:
    os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
"""
    )
    with Receiver() as receiver:
        assert run(code, SPOOL=str(tmp_path), URL=receiver.url).split() == ["0", "60", "0"]


def test_names_of_notes():
    name = notes.name_of("20260101T000000-1a2b", "", 0)
    note = notes.read(name)
    assert (note.incident_id, note.how, note.ended_ns) == ("20260101T000000-1a2b", "", 0)
    note = notes.read(notes.name_of("20260101T000000-1a2b", "recovered", 17))
    assert (note.incident_id, note.how, note.ended_ns) == ("20260101T000000-1a2b", "recovered", 17)
    assert notes.name_of("../escape", "", 0) is None
    assert notes.read("00-stall-x.note") is None


def test_notes_are_bounded(tmp_path):
    outbox = Outbox(tmp_path, limit=50)
    for n in range(120):
        assert outbox.add_note(notes.name_of(f"20260101T000000-{n:04d}", "", 0))
    left = outbox.notes(1000)
    assert len(left) <= 50 and len(left) + outbox.dropped == 120
    assert left[-1].incident_id.endswith("0119"), "the oldest went"
    outbox.close()


def test_a_note_that_comes_as_the_folder_is_given_away_is_taken_back(tmp_path):
    outbox = Outbox(tmp_path)
    outbox.add_note(notes.name_of("20260101T000000-1", "", 0))
    folder, handle = outbox.seal(set())
    (folder / notes.name_of("20260101T000000-2", "", 0)).touch()  # its writer had looked up the folder already
    outbox.add_note(notes.name_of("20260101T000000-3", "", 0))
    assert [note.incident_id[-1] for note in outbox.notes(9)] == ["3"]
    os.close(handle)
    assert outbox.take_back(folder) == 2
    assert [note.incident_id[-1] for note in outbox.notes(9)] == ["1", "2", "3"] and not folder.exists()
    outbox.close()


def test_parcels_in_a_queue_are_not_given_away(tmp_path):
    outbox, config = Outbox(tmp_path), Config.make({}, otlp="http://127.0.0.1:1")
    old, queued, new = [notes.made(numbered(n), config, {}, "", 0)[0] for n in range(3)]
    old, queued = (dataclasses.replace(parcel, key="0" * 20 + parcel.key[20:]) for parcel in (old, queued))
    for parcel in (old, queued, new):
        assert outbox.add(parcel)
    folder, handle = outbox.seal({queued.key})
    assert [path.name for path in folder.glob("*.json")] == [f"{old.key}.traces.json"]
    assert [parcel.key for parcel in outbox.waiting("traces", 9)] == [queued.key, new.key]
    os.close(handle)
    outbox.take_back(folder)
    outbox.close()


def test_a_flood_that_goes_on_is_told_by_notes_alone(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    flood = notes.Flood()

    def rises(n, every_s):
        found = []
        for _ in range(n):
            now[0] += every_s
            found.append(flood.rises())
        return found

    assert not any(rises(notes.BURST, 0.0)) and all(rises(500, 0.06))
    now[0] += notes.ONE_MORE_S * 5
    assert all(rises(3, 0.1)), "half a minute of rest is none"
    now[0] += notes.ONE_MORE_S * (notes.DEBT + notes.BURST)
    assert not any(rises(notes.BURST - 1, 0.1)), "it is over"
    assert not any(flood.rises() for _ in range(40) if now.__setitem__(0, now[0] + notes.ONE_MORE_S) is None), "ten a minute are none"
