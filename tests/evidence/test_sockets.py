"""Sockets of real processes as evidence."""

from __future__ import annotations

import os
import subprocess

from hangwatch.evidence import sockets
from hangwatch.evidence.base import Target
from tests.processes import until, waiting


def test_who_waits_on_which_peer_and_what_lies_unread():
    with waiting("send") as facts:
        pid = facts["pid"]
        evidence = until(lambda: (e := sockets.capture(Target(pid))).data["waiting"] and e.data["sockets"][0]["send_queue"] and e)
    (waits,) = [entry for entry in evidence.data["waiting"] if entry["tid"] == facts["threads"]["send"]]
    assert waits["call"] == f"sendto tcp 127.0.0.1:{facts['ports']['listener']}"
    assert waits["fds"] == [facts["fds"]["client"]]
    by_fd = {entry["fd"]: entry for entry in evidence.data["sockets"]}
    assert by_fd[facts["fds"]["server_side"]]["recv_queue"] > 0
    assert by_fd[facts["fds"]["client"]]["own_server"] is True
    assert by_fd[facts["fds"]["server_side"]]["own_server"] is False
    assert facts["ports"]["listener"] in evidence.data["listening"]
    assert "its own server" in evidence.text and "unsent" in evidence.text


def test_a_pipe_to_a_child_names_the_child():
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        data = until(lambda: (d := sockets.capture(Target(os.getpid())).data) and any(child.pid in p["pids"] for p in d["pipes"]) and d)
        (pipe,) = [p for p in data["pipes"] if p["fd"] == child.stdin.fileno()]
        assert pipe == {"fd": child.stdin.fileno(), "mode": "write", "pids": [child.pid]}
    finally:
        child.stdin.close()
        child.wait()


def test_many_connections_are_cut_and_counted(monkeypatch):
    monkeypatch.setattr(sockets, "_MAX_SOCKETS", 2)
    with waiting() as facts:
        data = sockets.capture(Target(facts["pid"])).data
    assert len(data["sockets"]) == 2
    assert data["dropped"] >= 2


def test_gone():
    child = subprocess.Popen(["true"])
    child.wait()
    assert sockets.capture(Target(child.pid)).error == f"there is no process {child.pid}"
