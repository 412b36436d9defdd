"""Who is watched, of all that runs."""

from __future__ import annotations

from hangwatch.watcher import workers
from hangwatch.watcher.workers import Choice, Roster


def test_what_is_no_python_is_not_looked_at_at_each_scan(monkeypatch):
    asked, processes = [], {11: "900 /bin/sh", 12: "901 /sbin/init"}
    monkeypatch.setattr(workers.files, "list_numbers", lambda path: list(processes))
    monkeypatch.setattr(workers, "_identity", processes.get)
    monkeypatch.setattr(workers, "_age_s", lambda identity: 100.0)
    monkeypatch.setattr(workers, "looks_like_python", lambda pid: bool(asked.append(pid)))
    roster = Roster(Choice(everything=True))
    for _ in range(3):
        assert roster.rescan() == ([], [])
    assert asked == [11, 12]
    processes[11] = "900 /usr/bin/perl"  # it has become another program
    roster.rescan()
    assert asked == [11, 12, 11]
    roster._forget_at_s = 0.0  # and now and then all are, for a library may have been loaded
    roster.rescan()
    assert asked == [11, 12, 11, 11, 12]
