"""The spool on good and bad days: killed writers, many writers, full and forbidden disks, broken folders. Real processes and file systems."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hangwatch import pruning, storefiles
from hangwatch.errors import NoSuchIncident, SpoolError
from hangwatch.pruning import UNFINISHED_S
from hangwatch.records import Evidence, Frame, Incident, Snapshot, Stall, Task, to_json
from hangwatch.store import Store
from hangwatch.storefiles import HEAD, RECORD
from tests.processes import until

ROOT = Path(__file__).resolve().parent.parent
DAY = 86400.0


def numbered(n: int, text: str = "Thread 0x1 (most recent call first):", **fields: object) -> Incident:
    snapshot = Snapshot(1, 1.8e9, 10, 4242, "agent")
    evidence = (Evidence("py-spy", text=text, data={"threads": []}), Evidence("process", error="no psutil", hint="pip install psutil"))
    made = Incident(
        f"20270115T080000{n:03d}-{n:06x}", f"f{n}", "shop", Stall("request", "request:1", 0, 1), snapshot, evidence, opened_at=1.8e9 + n
    )
    return dataclasses.replace(made, **fields)  # type: ignore[arg-type]


def child(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    """Another process that runs this code with ``numbered``, ``store`` and ``arguments`` (after the spool) at hand."""
    head = "import os, sys, time; from tests.test_store import *; store = Store(sys.argv[1]); arguments = sys.argv[2:]\n"
    command = [sys.executable, "-c", head + code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload, no-any-return]


def test_what_somebody_else_saw_stands_beside_the_record(tmp_path):
    store, made = Store(tmp_path), numbered(1)
    made = dataclasses.replace(made, evidence=(*made.evidence, Evidence("ebpf", error="no CAP_BPF")))
    folder = store.add(made)
    kernel = Evidence("ebpf", text="\x1b[31mfd 7 waits for 2 s\ud800", data={"connections": [{"fd": 7}]})
    store.attach(made.id, (kernel, Evidence("py-spy", text="another's view")))
    store.update(dataclasses.replace(made, count=2))
    (seen,) = store.list()
    said = {one.tool: one for one in seen.evidence}
    assert seen.count == 2 and len(said) == len(seen.evidence) == 3
    assert (said["ebpf"].data, said["ebpf"].error) == (kernel.data, None) and said["ebpf"].text.startswith(kernel.text[:-1])
    assert said["py-spy"].text == made.evidence[0].text, "what the record's own tool saw stays"
    for broken in ("{", "[1]", "null"):
        (folder / storefiles.ADDED).write_text(broken)
        assert [one.tool for one in store.load(made.id).evidence] == ["py-spy", "process", "ebpf"]
    store.attach("20270115T080000999-0003e7", (kernel,))
    assert len(store.list()) == 1


def test_what_goes_in_comes_out(tmp_path):
    store, incident = Store(tmp_path / "new" / "spool"), numbered(1, "stack\nof\nit é")
    folder = store.add(incident)
    assert store.list() == [incident]
    assert (folder / "py-spy.txt").read_text() == "stack\nof\nit é"
    assert "stack" not in (folder / RECORD).read_text(), "a text is kept once"


def test_a_spool_that_is_not_there_is_empty_and_stays_away(tmp_path):
    store = Store(tmp_path / "spool")
    assert store.list() == [] and store.ids() == [] and store.worker_dirs() == [] and store.prune(time.time()) == 0
    assert not (tmp_path / "spool").exists()


def test_only_its_user_may_read_it(tmp_path):
    store = Store(tmp_path / "spool")
    folder = store.add(numbered(1))
    assert not (folder.stat().st_mode | store.incidents.stat().st_mode | (folder / RECORD).stat().st_mode) & 0o077


def test_oldest_first_by_when_it_began(tmp_path):
    store = Store(tmp_path)
    for n in (3, 1, 2):
        store.add(numbered(n))
    assert [i.opened_at - 1.8e9 for i in store.list()] == [1, 2, 3]


def test_update_replaces(tmp_path):
    store = Store(tmp_path)
    store.add(numbered(1))
    later = numbered(1, "longer text than before: " * 9, count=7, closed_at=1.8e9 + 60)
    store.update(later)
    assert store.list() == [later]


def test_the_same_incident_from_two_finders_is_one(tmp_path):
    store = Store(tmp_path)
    store.add(numbered(1))
    store.add(numbered(1, count=2))
    assert [i.count for i in store.list()] == [1]
    assert [p.name for p in store.incidents.iterdir()] == [numbered(1).id]


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", ".hidden", "x" * 200])
def test_an_id_never_leads_out_of_the_spool(tmp_path, name):
    with pytest.raises(SpoolError, match="no incident's id"):
        Store(tmp_path / "spool").add(numbered(1, id=name))
    assert not (tmp_path / "spool").exists()


class TestFinding:
    @pytest.fixture
    def store(self, tmp_path):
        store = Store(tmp_path)
        for n in (1, 2, 0x20):
            store.add(numbered(n))
        return store

    @pytest.mark.parametrize(("said", "meant"), [("last", 0x20), ("20270115T080000001", 1), ("000002", 2), (numbered(1).id, 1)])
    def test_found(self, store, said, meant):
        assert store.load(said).id == numbered(meant).id

    @pytest.mark.parametrize(("said", "words"), [("2027", "fits 3 incidents"), ("nothing", "no incident 'nothing'"), ("", "no incident")])
    def test_not_found(self, store, said, words):
        with pytest.raises(NoSuchIncident, match=words) as caught:
            store.load(said)
        assert caught.value.help_text


def crowded(n: int = 1, tasks: int = 1050) -> Incident:
    """With more tasks than are encoded in one go, and characters that JSON escapes."""
    made = numbered(n)
    many = tuple(Task(f"task:{k:x}", f'Täsk "{k}"', "loop:1", "parked", (Frame("/app/a.py", k, "wait\n"),)) for k in range(tasks))
    return dataclasses.replace(made, snapshot=dataclasses.replace(made.snapshot, tasks=many))


class TestHeads:
    def test_a_head_is_the_incident_without_what_makes_it_large(self, tmp_path):
        store = Store(tmp_path)
        folder = store.add(crowded())
        (head,) = store.heads()
        assert (head.id, head.opened_at, head.snapshot.pid, head.snapshot.tasks, head.evidence) == (
            crowded().id,
            crowded().opened_at,
            4242,
            (),
            (),
        )
        assert (folder / HEAD).stat().st_size < 2000 < (folder / RECORD).stat().st_size

    def test_a_list_of_heads_opens_no_record(self, tmp_path, monkeypatch):
        store = Store(tmp_path)
        for n in range(3):
            store.add(numbered(n))
        monkeypatch.setattr(storefiles, "read", None)
        assert [head.opened_at - 1.8e9 for head in store.heads()] == [0, 1, 2]

    @pytest.mark.parametrize("spoil", [lambda head: head.unlink(), lambda head: head.write_text("{"), lambda head: os.utime(head, (1, 1))])
    def test_a_head_that_is_lost_broken_or_old_is_made_up_for(self, tmp_path, spoil):
        store = Store(tmp_path)
        spoil(store.add(numbered(1, count=3)) / HEAD)
        assert [head.count for head in store.heads()] == [3] == [i.count for i in store.list()]

    def test_count_and_end_can_be_marked_without_the_rest(self, tmp_path):
        store = Store(tmp_path)
        folder = store.add(crowded())
        before = (folder / RECORD).stat().st_mtime_ns
        bare = dataclasses.replace(crowded(), snapshot=numbered(1).snapshot, count=9, closed_at=1.8e9 + 60)
        store.mark(bare)
        assert store.load("last") == dataclasses.replace(crowded(), count=9, closed_at=1.8e9 + 60)
        assert (folder / RECORD).stat().st_mtime_ns == before
        store.update(crowded())
        assert store.load("last") == crowded(), "the record is newer now"
        store.mark(numbered(7))
        assert len(store.ids()) == 1, "what is gone stays gone"

    def test_one_at_a_time(self, tmp_path):
        store = Store(tmp_path)
        for n in range(3):
            store.add(numbered(n))
        (store.incidents / numbered(1).id / RECORD).write_text("{")
        assert [i.id for i in store.each()] == [numbered(0).id, numbered(2).id] and len(store.broken) == 1


@pytest.mark.parametrize("tasks", [0, 1, storefiles.SLICE, storefiles.SLICE + 1, 1050])
def test_a_record_encoded_in_slices_is_the_same_json(tasks):
    incident = crowded(tasks=tasks)
    assert json.loads(b"".join(storefiles.pieces(incident))) == to_json(incident)


class TestPruning:
    def test_nobody_looks_through_the_spool_for_every_incident(self, tmp_path, monkeypatch):
        looks = []
        monkeypatch.setattr(pruning, "scan", lambda folder, scan=pruning.scan: looks.append(folder) or scan(folder))
        store = Store(tmp_path)
        for n in range(50):
            store.add(numbered(n))
        assert len(looks) == 1, "the first does, to know what there is"
        monkeypatch.setattr(store._pruner, "_look_at", 0.0)
        store.add(numbered(50))
        assert len(looks) == 2, "and after a minute: others write, and things age"

    def test_a_full_spool_is_not_looked_through_for_every_incident_either(self, tmp_path, monkeypatch):
        looks = []
        monkeypatch.setattr(pruning, "scan", lambda folder, scan=pruning.scan: looks.append(folder) or scan(folder))
        store = Store(tmp_path, max_mb=1.0)
        for n in range(300):
            store.add(numbered(n))
            if n % 10 == 0:
                assert sum(size for _, _, size in store._pruner._sizes(0)) <= 1_000_000, "never above what is allowed"
                looks.pop()
        assert len(looks) < 100

    def test_by_age_of_the_last_touch(self, tmp_path):
        store = Store(tmp_path, max_days=14)
        old, kept = store.add(numbered(1)), store.add(numbered(2))
        os.utime(old / RECORD, (time.time() - 15 * DAY,) * 2)
        os.utime(kept / RECORD, (time.time() - 13 * DAY,) * 2)
        assert store.prune(time.time()) == 1
        assert store.ids() == [kept.name]

    def test_by_size_oldest_first(self, tmp_path):
        store = Store(tmp_path, max_mb=0.25)
        for n in range(6):
            folder = store.add(numbered(n, "x" * 100_000))
            os.utime(folder / RECORD, (time.time() - 100 + n,) * 2)
        assert [i.opened_at - 1.8e9 for i in store.list()] == [4, 5]

    def test_the_newest_stays_however_large(self, tmp_path):
        store = Store(tmp_path, max_mb=0.01)
        store.add(numbered(1))
        store.add(numbered(2, "x" * 500_000))
        assert store.ids() == [numbered(2).id]

    def test_what_a_killed_writer_left_is_swept_away_later(self, tmp_path):
        store = Store(tmp_path)
        store.add(numbered(1))
        left = store.incidents / ".20270115T080000002-000002.1.1.tmp"
        left.mkdir()
        (left / "half").write_text("{")
        store.prune(time.time())
        assert left.exists(), "it may be being written"
        os.utime(left, (time.time() - UNFINISHED_S - 1,) * 2)
        store.prune(time.time())
        assert not left.exists() and len(store.list()) == 1


class TestBroken:
    CASES = (
        ("empty", {}, "no incident.json"),
        ("half", {RECORD: '{"id": "half", "fingerpr'}, "Unterminated|delimiter|Expecting"),
        ("list", {RECORD: "[1, 2]"}, "JSON object"),
        ("poor", {RECORD: '{"id": "poor"}'}, "missing"),
        ("odd", {RECORD: '{"id": "odd", "fingerprint": "", "service": "", "stall": null, "snapshot": 7}'}, "JSON object"),
        ("binary", {RECORD: "\x00\x01"}, "Expecting"),
    )

    @pytest.mark.parametrize(("name", "content", "why"), CASES, ids=[case[0] for case in CASES])
    def test_one_broken_folder_hides_no_other(self, tmp_path, name, content, why):
        store = Store(tmp_path)
        store.add(numbered(1))
        (store.incidents / name).mkdir()
        for file, text in content.items():
            (store.incidents / name / file).write_text(text)
        assert [i.id for i in store.list()] == [numbered(1).id]
        ((folder, said),) = store.broken
        assert folder.name == name
        assert re.search(why, said), said

    def test_a_record_under_another_name_is_not_believed(self, tmp_path):
        store = Store(tmp_path)
        shutil.copytree(store.add(numbered(1)), store.incidents / "copy")
        assert len(store.list()) == 1 and store.broken[0][0].name == "copy"

    def test_a_file_among_the_folders(self, tmp_path):
        store = Store(tmp_path)
        store.add(numbered(1))
        (store.incidents / "notes.txt").write_text("mine")
        assert len(store.list()) == 1

    def test_a_lost_text_leaves_the_record(self, tmp_path):
        store = Store(tmp_path)
        (store.add(numbered(1)) / "py-spy.txt").unlink()
        assert store.load("last").evidence[0].text == ""

    def test_loading_it_by_name_says_where_it_lies(self, tmp_path):
        store = Store(tmp_path)
        (store.add(numbered(1)) / RECORD).write_text("{")
        with pytest.raises(SpoolError) as caught:
            store.load("last")
        assert str(store.incidents) in caught.value.help_text


class TestManyAtOnce:
    def test_many_writers_keep_it_bounded(self, tmp_path):
        """Each looks now and then only; what it may miss meanwhile is a sixteenth for each of the others."""
        code = "store = Store(sys.argv[1], max_mb=2.0)\nfirst = int(arguments[0])\nfor n in range(first, first + 60):\n    store.add(numbered(n, 'x' * 30_000))"
        writers = [child(code, tmp_path, 100 * k) for k in range(5)]
        largest = 0
        store = Store(tmp_path, max_mb=2.0)
        while any(writer.poll() is None for writer in writers):
            largest = max(largest, sum(size for _, _, size in store._pruner._sizes(0)))
            time.sleep(0.02)
        assert [writer.wait() for writer in writers] == [0] * 5
        assert 1_000_000 < largest <= 2_000_000 * (1 + 5 / 16) + 5 * 60_000, "five times sixty of 42 KB were written"
        assert store.list() and not store.broken

    def test_killed_in_the_middle_leaves_whole_incidents_only(self, tmp_path):
        """Writers that do nothing but write, each killed at another moment of it."""
        code = "n = int(arguments[0])\nwhile True:\n    store.add(numbered(n, 'x' * 300_000)); store.update(numbered(n, 'y' * 300_000, count=2)); n += 1; print(n, flush=True)"
        told = 0
        for round_ in range(8):
            writer = child(code, tmp_path, 100 * round_)
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.003 * round_)
            writer.send_signal(signal.SIGKILL)
            told += 1 + len(writer.communicate()[0].split())
        store = Store(tmp_path)
        found = store.list()
        assert store.broken == []
        assert len(found) >= told >= 8
        assert {i.count for i in found} <= {1, 2} and {len(i.evidence[0].text) for i in found} == {300_000}

    def test_many_workers_lose_nothing(self, tmp_path):
        code = "first = int(arguments[0])\nfor n in range(first, first + 15):\n    store.add(numbered(n)); store.update(numbered(n, count=2)); store.list()\n    assert not store.broken, store.broken"
        writers = [child(code, tmp_path, 20 * k) for k in range(6)]
        assert [writer.wait() for writer in writers] == [0] * 6
        store = Store(tmp_path)
        assert [i.count for i in store.list()] == [2] * 90

    def test_all_prune_at_once(self, tmp_path):
        code = "store.max_bytes = 120_000\nfirst = int(arguments[0])\nfor n in range(first, first + 15):\n    store.add(numbered(n, 'x' * 20_000))"
        writers = [child(code, tmp_path, 20 * k) for k in range(5)]
        assert [writer.wait() for writer in writers] == [0] * 5
        store = Store(tmp_path, max_mb=0.12)
        store.prune(time.time())
        assert 1 <= len(store.list()) <= 5 and not store.broken


class TestBadDisks:
    def test_a_file_where_the_spool_should_be(self, tmp_path):
        (tmp_path / "spool").write_text("")
        store = Store(tmp_path / "spool")
        for act in (lambda: store.add(numbered(1)), lambda: store.files_dir(os.getpid()), store.list, store.ids):
            with pytest.raises(SpoolError) as caught:
                act()
            assert str(tmp_path / "spool") in str(caught.value) and "--spool" in caught.value.help_text

    def test_a_folder_of_somebody_else(self, tmp_path):
        from tests.processes import may_change_user, readable_python

        if not may_change_user():
            pytest.skip("needs root and setpriv, to be somebody else for a moment")
        Store(tmp_path).add(numbered(1))
        code = (
            f"import sys; sys.path[:0] = [{str(ROOT)!r}]\nfrom hangwatch.store import Store; from hangwatch.errors import SpoolError\n"
            f"try:\n    Store({str(tmp_path)!r}).list()\nexcept SpoolError as error:\n    print(error, error.help_text)"
        )
        command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", str(readable_python()), "-c", code]
        said = subprocess.run(command, capture_output=True, text=True, cwd="/")
        assert "Permission denied" in said.stdout and "HANGWATCH_SPOOL" in said.stdout, said.stderr

    @pytest.fixture
    def small_disk(self, tmp_path):
        """A real file system of 512 KB."""
        disk = tmp_path / "disk"
        disk.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"cannot mount a small tmpfs here: {done.stderr.strip()}")
        yield disk
        subprocess.run(["umount", str(disk)], check=True)

    def test_a_full_disk_says_so_and_keeps_what_was_there(self, small_disk):
        store = Store(small_disk)
        store.add(numbered(1))
        with pytest.raises(SpoolError, match="no room left"):
            store.add(numbered(2, "x" * 600_000))
        with pytest.raises(SpoolError, match="no room left"):
            store.update(numbered(1, "x" * 600_000, count=9))
        assert [i.count for i in store.list()] == [1] and not store.broken
        assert [p.name for p in store.incidents.iterdir()] == [numbered(1).id], "nothing half is left"
        store.add(numbered(3))
        assert len(store.list()) == 2

    def test_the_limit_on_size_keeps_a_small_disk_going(self, small_disk):
        store = Store(small_disk, max_mb=0.3)
        for n in range(12):
            store.add(numbered(n, "x" * 60_000))
        assert numbered(11).id in store.ids()


class TestWorkers:
    CODE = "print(store.files_dir(os.getpid()), flush=True); time.sleep(600)"

    def state(self, spool: Path) -> dict[int, bool]:
        return {pid: alive for _, pid, alive in Store(spool).worker_dirs()}

    def test_the_same_folder_for_the_same_process(self, tmp_path):
        store = Store(tmp_path)
        assert store.files_dir(os.getpid()) == store.files_dir(os.getpid()) == Store(tmp_path).files_dir(os.getpid())
        assert self.state(tmp_path) == {os.getpid(): True}

    def test_a_killed_one_is_known_for_dead(self, tmp_path):
        worker = child(self.CODE, tmp_path)
        folder = Path(worker.stdout.readline().strip())
        assert self.state(tmp_path) == {worker.pid: True}
        worker.kill()
        until(lambda: self.state(tmp_path) == {worker.pid: False})  # a zombie is dead, too
        worker.communicate()
        assert self.state(tmp_path) == {worker.pid: False} and folder.is_dir()

    def test_the_pid_of_another_process_is_not_taken_for_it(self, tmp_path):
        folder = Store(tmp_path).files_dir(os.getpid())
        folder.rename(folder.with_name(f"{os.getpid()}-1"))
        assert self.state(tmp_path) == {os.getpid(): False}

    def test_between_containers_the_lock_decides(self, tmp_path):
        """The pid means nothing here, as in another pid namespace: the lock that the living hold does."""
        worker = child(self.CODE, tmp_path)
        folder = Path(worker.stdout.readline().strip())
        (folder / "lock").write_text(json.dumps({"pid": worker.pid, "place": {"boot": "elsewhere", "pids": "pid:[1]"}}))
        strange = folder.rename(folder.with_name("1-1"))
        assert self.state(tmp_path) == {1: True}
        worker.kill()
        worker.communicate()
        assert self.state(tmp_path) == {1: False} and strange.is_dir()

    def test_a_forked_child_does_not_keep_its_parent_alive(self, tmp_path):
        code = "store.files_dir(os.getpid())\npid = os.fork()\nif pid == 0:\n    time.sleep(600)\nprint(pid, flush=True)\nos.kill(os.getpid(), 9)"
        worker = child(code, tmp_path)
        orphan = int(worker.stdout.readline())
        try:
            worker.wait()
            assert self.state(tmp_path) == {worker.pid: False}
        finally:
            os.kill(orphan, signal.SIGKILL)
            worker.communicate()
