"""psutil's and the kernel's numbers of real processes."""

from __future__ import annotations

import os
import subprocess

from hangwatch.evidence import process
from hangwatch.evidence.base import Target
from hangwatch.kernel import procfs
from hangwatch.records import from_json, to_json
from tests.processes import until, waiting


def test_a_spinning_thread_is_the_busiest():
    with waiting("spin", "recv") as facts:
        evidence = process.capture(Target(facts["pid"], loop_native_ids=(facts["threads"]["recv"],)))
    data = evidence.data
    assert evidence.error is None
    assert [thread["tid"] for thread in data["threads"] if thread["is_loop"]] == [facts["threads"]["recv"]]
    assert data["threads"][0]["tid"] == facts["threads"]["spin"]
    assert data["threads"][0]["cpu_percent"] > 0
    assert data["cpu_percent"] >= data["threads"][0]["cpu_percent"]
    assert str(facts["threads"]["spin"]) in evidence.text


def test_a_blocked_process_uses_no_cpu_and_shows_its_connections():
    with waiting("recv") as facts:
        data = process.capture(Target(facts["pid"])).data
    peers = {(c["state"], c["peer"]) for c in data["connections"]}
    assert ("ESTABLISHED", f"127.0.0.1:{facts['ports']['listener']}") in peers
    assert data["connections_by_state"]["ESTABLISHED"] == 2
    assert data["connections_by_state"]["LISTEN"] >= 1
    assert {"voluntary", "involuntary"} == set(data["context_switches"])
    assert 0 < data["fds"] <= data["fds_limit"]
    assert data["rss_bytes"] > 0 and data["created_at"] > 0 and data["cpus"] >= 1
    assert "gaps" not in data


def test_children_with_their_state():
    child = subprocess.Popen(["sleep", "60"])
    try:
        until(lambda: (stat := procfs.thread_stat(child.pid, child.pid)) and (stat.name, stat.state) == ("sleep", "S"))
        data = process.capture(Target(os.getpid())).data
        assert {"pid": child.pid, "name": "sleep", "status": "sleeping"} in data["children"]
        assert f"child {child.pid}" in process.capture(Target(os.getpid())).text
    finally:
        child.kill()
        child.wait()


def test_what_it_says_survives_the_store():
    evidence = process.capture(Target(os.getpid()))
    assert from_json(type(evidence), to_json(evidence)) == evidence


def test_a_process_that_is_gone_is_an_error_with_the_reason():
    child = subprocess.Popen(["true"])
    child.wait()
    assert process.capture(Target(child.pid)).error == f"there is no process {child.pid}"


def test_one_fact_that_cannot_be_read_leaves_the_others(monkeypatch):
    import psutil

    def refused(self):
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr(psutil.Process, "num_fds", refused)
    data = process.capture(Target(os.getpid())).data
    assert "fds" not in data and "rss_bytes" in data
    assert data["gaps"][0].startswith("descriptors: AccessDenied")
