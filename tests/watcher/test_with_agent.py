"""A worker with an agent of its own, watched from outside as well, one spool: each stall is one incident, whoever tells it first."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time

import pytest

from hangwatch import worker
from hangwatch.store import Store
from hangwatch.watcher import kept
from tests.processes import until
from tests.watcher.watched import Client, uvicorn, waits_for, watching

pytest.importorskip("uvicorn")
pytestmark = [pytest.mark.needs_ptrace, pytest.mark.slow]

#: Seconds: far enough from the watcher's, which are in `watched`, that a busy machine does not turn the order round.
FIRST, LATER = 0.25, 4.0


def of_agent(spool, limit_s):
    limits = ["--stall-after", str(limit_s), "--loop-after", str(limit_s / 2)]
    return ("hangwatch", "run", "--spool", str(spool), *limits, "--", sys.executable, "-m")


def sources(spool):
    """Of each incident in the spool: who tells it, and whether the kernel's facts are with it."""
    return {i.id: (i.snapshot.source, any(said.tool == "ebpf" for said in i.evidence)) for i in Store(spool).list()}


@pytest.mark.parametrize(("path", "kind"), [("/parks", "request"), ("/sleeps", "loop")])
def test_what_the_agent_has_told_goes_by_its_name(tmp_path, path, kind):
    with uvicorn(under=of_agent(tmp_path, FIRST)) as service, watching(tmp_path, service.pid, stall_after=2.5, loop_after=1.25) as told:
        client = Client(service.port).ask(path)
        seen = waits_for(told, lambda i: i.stall.kind == kind)
        assert seen.snapshot.source != "agent"
        found = sources(tmp_path)
        assert found[seen.id] == ("agent", True), "and the kernel's facts are added to it"
        # On a busy machine the loop alone may be late by the agent's short limit, and that is a stall of its own.
        assert {source for source, _ in found.values()} == {"agent"}, "one stall, one incident"
        client.close()


@pytest.mark.parametrize(("path", "kind"), [("/parks", "request"), ("/sleeps", "loop")])
def test_what_the_watcher_has_told_the_agent_adds_to(tmp_path, path, kind):
    with uvicorn(under=of_agent(tmp_path, LATER)) as service, watching(tmp_path, service.pid) as told:
        client = Client(service.port).ask(path)
        seen = waits_for(told, lambda i: i.stall.kind == kind)
        assert list(sources(tmp_path)) == [seen.id]
        until(lambda: sources(tmp_path)[seen.id][0] == "agent")
        assert sources(tmp_path) == {seen.id: ("agent", True)}, "the kernel's facts stay with it"
        client.close()
    assert list(sources(tmp_path)) == [seen.id]
    assert sources(tmp_path)[seen.id][0] == "agent", "its end was told by the agent"


def test_two_stalls_of_one_worker_are_two(tmp_path):
    with uvicorn(under=of_agent(tmp_path, LATER)) as service, watching(tmp_path, service.pid) as told:
        clients = [Client(service.port).ask("/parks")]
        first = waits_for(told, lambda i: i.stall.kind == "request")
        until(lambda: sources(tmp_path)[first.id][0] == "agent")
        begun = len(told)
        clients.append(Client(service.port).ask("/asks"))
        second = waits_for(told, lambda i: i.stall.kind == "request", begun)
        until(lambda: sources(tmp_path)[second.id][0] == "agent")
        assert len(sources(tmp_path)) == 2
        for client in clients:
            client.close()


def test_one_looks_and_tells_while_the_other_waits(tmp_path):
    order = []

    def other():
        with worker.alone(tmp_path, 30):
            order.append("second")

    waiting = threading.Thread(target=other)
    with worker.alone(tmp_path):
        waiting.start()
        with worker.alone(tmp_path, 0.05):  # whoever has it does not give it back in time
            order.append("without")
        order.append("first")
    waiting.join()
    assert order == ["without", "first", "second"]
    with worker.alone(tmp_path):
        forked = os.fork()
        if not forked:
            time.sleep(20)
            os._exit(0)
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the child's copy does not keep it
    os.close(handle)
    os.kill(forked, signal.SIGKILL)
    os.waitpid(forked, 0)
    for nothing in (None, tmp_path / "gone"):
        with worker.alone(nothing):
            pass


def test_a_link_that_lies_in_the_services_folder_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    (tmp_path / "worker").mkdir()
    (tmp_path / "worker" / "seen").symlink_to(victim)
    kept._mark(tmp_path / "worker", "20261127T101505699-77b1bc")
    assert victim.read_text() == "as it was" and (tmp_path / "worker" / "seen").read_text() == "20261127T101505699-77b1bc"
