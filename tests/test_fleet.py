"""One trouble on many hosts is one group."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

from hangwatch.console.groups import MAX_HOSTS, group_lines
from hangwatch.fleet import grouped
from hangwatch.store import Store
from tests.export.incidents import TAKEN_AT, lock_incident, loop_incident

ROOT = Path(__file__).resolve().parents[1]


def seen(n, host="web-1", pid=1, **more):
    made = lock_incident(f"20260101T{n:06d}-lock")
    snapshot = dataclasses.replace(made.snapshot, pid=pid)
    return dataclasses.replace(made, snapshot=snapshot, host=host, opened_at=TAKEN_AT + n, **more)


def test_one_group_with_counts_hosts_and_times():
    incidents = [seen(3, "web-2", 7, count=5), seen(1, "web-1", 7, closed_at=TAKEN_AT + 9), seen(2, "web-1", 7), loop_incident()]
    loop, lock = grouped(incidents)
    assert (loop.cause, loop.count, loop.incidents) == ("blocked-loop-cpu", 1, 1)
    assert (lock.count, lock.incidents, lock.open, lock.workers) == (7, 3, 2, 2), "two processes: the same pid on another host"
    assert (lock.hosts, lock.services) == (("web-1", "web-2"), ("shop",))
    assert (lock.first_at, lock.last_at, lock.newest) == (TAKEN_AT + 1, TAKEN_AT + 3, seen(3).id)


def test_without_a_finding():
    (group,) = grouped([dataclasses.replace(seen(1), findings=())])
    assert (group.cause, group.title) == ("unknown", "request past its limit")


def test_lines():
    incidents = [seen(n, f"web-{n:02d}", n) for n in range(1, MAX_HOSTS + 3)]
    first, where, title = group_lines(grouped(incidents), 200)
    assert first == "ffffffffffffffff  7 times  holder-stuck · likely · 7 not over"
    assert "7 workers on web-01, web-02, web-03, web-04, web-05 and 2 more" in where
    assert title.strip() == lock_incident().findings[0].title
    assert all(len(line) <= 60 for line in list(group_lines(grouped(incidents), 60))[1:])


def test_the_command(tmp_path):
    store = Store(tmp_path)
    for n, host in enumerate(["a", "b", "b"]):
        store.add(seen(n, host, n))
    command = [sys.executable, "-m", "hangwatch", "incidents", "--group", "--spool", str(tmp_path)]
    environ = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "3 workers on a, b" in done.stdout and seen(2).id in done.stderr
    done = subprocess.run([*command, "--json"], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)
    (group,) = json.loads(done.stdout)
    assert (group["count"], group["hosts"], group["newest"]) == (3, ["a", "b"], seen(2).id)
