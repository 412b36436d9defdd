"""Services in containers, seen from the host and from beside them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from hangwatch.watcher import Choice
from hangwatch.watcher.workers import _in_container
from tests.kernel.bpf import needs_bpf
from tests.processes import until
from tests.watcher.contained import NAMES, contained, group, needs_containers
from tests.watcher.watched import ROOT, kernel_facts, uvicorn, waits_for, watching

pytest.importorskip("uvicorn")
pytestmark = [pytest.mark.needs_ptrace, pytest.mark.slow, needs_containers]


@needs_bpf
@pytest.mark.parametrize("runtime", NAMES)
@pytest.mark.parametrize("full", [False, True], ids=["sockets", "calls"])
def test_a_container_from_the_host(tmp_path, runtime, full):
    with (
        contained(runtime) as service,
        uvicorn() as other,
        watching(tmp_path, choice=Choice(containers=(service.id[:12],)), full=full, heads=full) as told,
    ):
        until(lambda: service.pid in told.watcher.roster.workers)
        assert other.pid not in told.watcher.roster.workers
        # A request that was there before the program is told by its socket.
        until(lambda: not full or told.watcher.connections.collector.attached)
        address = service.ask("/parks")
        incident = waits_for(told, lambda i: i.stall.kind == "request")
        assert incident.snapshot.pid == service.pid and "never-set" in {finding.cause for finding in incident.findings}
        (connection,) = kernel_facts(incident).data["connections"]
        assert connection["peer"] == address and connection["observer"] == ("eBPF" if full else "sock_diag")
        begun = len(told)
        service.ask("/sleeps")
        blocked = waits_for(told, lambda i: i.stall.kind == "loop", begun)
        assert blocked.findings[0].cause == "blocked-loop-io" and kernel_facts(blocked).data["threads"][0]["tid"] == service.pid


@needs_bpf
def test_a_container_from_beside_it(tmp_path):
    """In its pid namespace, as a sidecar is: ids are those inside."""
    with contained("docker, version 2") as service:
        command = [
            sys.executable,
            "-m",
            "hangwatch",
            "watch",
            "--all",
            "--json",
            "--loop-after",
            "0.3",
            "--stall-after",
            "1",
            "--full",
            "--heads",
        ]
        watcher = subprocess.Popen(
            service.inside(*command, "--spool", str(tmp_path)),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # nsenter has a child, which is the watcher
        )
        timer = threading.Timer(90, os.killpg, (watcher.pid, signal.SIGKILL))
        timer.start()
        try:
            address = service.ask("/parks")
            parked = next(i for i in map(json.loads, watcher.stdout) if i["stall"]["kind"] == "request")
            assert parked["snapshot"]["pid"] == 1 and "never-set" in {finding["cause"] for finding in parked["findings"]}
            assert address in json.dumps(parked["evidence"])
            service.ask("/sleeps")
            blocked = next(i for i in map(json.loads, watcher.stdout) if i["stall"]["kind"] == "loop")
            assert blocked["findings"][0]["cause"] == "blocked-loop-io"
        finally:
            timer.cancel()
            os.killpg(watcher.pid, signal.SIGKILL)
            watcher.communicate()


@pytest.mark.parametrize("runtime", NAMES)
def test_an_id_is_known_whole_or_by_its_beginning(runtime):
    version, name = NAMES[runtime]
    container = "0123456789abcdef" * 4
    with group(version, name.format(id=container)) as folder:
        sleeper = subprocess.Popen(["sleep", "60"])
        try:
            (folder / "cgroup.procs").write_text(str(sleeper.pid))
            assert _in_container(sleeper.pid, (container,)) and _in_container(sleeper.pid, (container[:12],))
            assert not _in_container(sleeper.pid, (container[1:13],)), "the middle of an id is another id"
            assert not _in_container(sleeper.pid, (container[:3],)), "too short to mean one"
            assert not _in_container(os.getpid(), (container,))
        finally:
            sleeper.kill()
            sleeper.wait()
