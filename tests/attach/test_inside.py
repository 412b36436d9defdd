"""attach where an agent is inside: it is asked first, and the memory is read when it does not answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from hangwatch import attach
from hangwatch.attach.inside import agent_of
from tests.processes import until
from tests.services import running


@pytest.fixture
def service(tmp_path):
    command = [sys.executable, "-m", "uvicorn", "service:app", "--log-level", "warning", "--port"]
    # The GIL is held over half a second of greeting and two looks, on a busy machine too.
    with running(tmp_path, lambda port: [*command, str(port)], HELD_S="5") as found:
        until(lambda: answers(found.process.pid))
        yield found


def answers(pid):
    with agent_of(pid) as agent:
        return agent is not None


def test_the_agent_knows_since_when(service):
    with service.open("/park"):
        service.until(lambda found: bool(found))
        incident = attach.look(service.process.pid)
    assert incident.snapshot.source == "agent"
    assert incident.stall.kind == "request"
    assert incident.snapshot.at_ns - incident.stall.since_ns > incident.stall.limit_ns
    assert incident.findings


def test_found_without_being_told_the_spool(service):
    """The process's own descriptors say where its socket is."""
    environ = {name: value for name, value in os.environ.items() if name != "HANGWATCH_SPOOL"}
    command = [sys.executable, "-m", "hangwatch", "attach", str(service.process.pid), "--json"]
    done = subprocess.run(command, env={**environ, "XDG_STATE_HOME": str(service.spool / "elsewhere")}, capture_output=True, text=True)
    assert json.loads(done.stdout)["snapshot"]["source"] == "agent"
    done = subprocess.run([*command, "--outside"], env=environ, capture_output=True, text=True)
    assert json.loads(done.stdout)["snapshot"]["source"] == "attach"


def test_with_the_gil_held_the_memory_is_read(service):
    with service.open("/gil"):
        time.sleep(0.3)
        incident = attach.look(service.process.pid)
    assert incident.snapshot.source == "attach"
    assert incident.findings[0].cause == "gil-held"


def test_what_is_told_changes_nothing(service):
    with agent_of(service.process.pid) as agent:
        assert agent is not None
        assert agent.greeting["verbs"] == ["requests", "snapshot", "stalls"]
        assert agent.ask("requests") == []
        assert agent.stalls() == []
        assert agent.snapshot().pid == service.process.pid
