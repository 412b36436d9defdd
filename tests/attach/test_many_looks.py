"""Look after look at a service under load: what stands still in it is told exactly, every time, and the service loses nothing by it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections import Counter
from pathlib import Path

import pytest

from hangwatch import attach
from hangwatch.errors import CannotLook
from tests import interpreters
from tests.processes import running, until
from tests.reading.remote.target import needs_ptrace

pytestmark = needs_ptrace
HERE = Path(__file__).resolve().parent
#: Looks at each version in the slow stage; ten in the fast one.
LOOKS = int(os.environ.get("LOOKS_UNDER_LOAD", "150"))
WAITERS = 5
CONNECTIONS = 8
#: More than enough for a thousand looks; the client ends by itself then, whatever becomes of the test.
LONGEST_S = 1800
#: The application's own functions in which a busy task can stand, outermost first -> locks that it then holds.
POSSIBLE = {
    (): {0}, ("work",): {0}, ("work", "inside"): {0}, ("work", "inside", "hop"): {1}, ("work", "hop"): {0}, ("hop",): {0},
    ("spin",): {0}, ("spin", "hop"): {0, 1},
}  # fmt: skip
NAMES = {name for names in POSSIBLE for name in names}
SERVICE = str(HERE / "moving_service.py")
#: In `spin` the line decides: those within the ``async with``.
LOCKED = [number for number, line in enumerate(Path(SERVICE).read_text().splitlines(), 1) if line == " " * 16 + "await hop(0)"]


@contextlib.contextmanager
def service(python):
    with running([python, SERVICE]) as server, contextlib.ExitStack() as stack:
        port = int(server.stdout.readline())
        for number, path in enumerate(["hold", *["wait"] * WAITERS]):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall(f"GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            until(lambda wanted=number + 1: len(truth_of(port)["tasks"]) == wanted)
        # Each has gone as far as it can: the last chain is read once all are parked.
        yield server, port, truth_of(port)


def truth_of(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /truth HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        told = b"".join(iter(lambda: connection.recv(65536), b""))
    return json.loads(told.partition(b"\r\n\r\n")[2])


def faults_of(snapshot, truth):
    """What is shown and is not true; and what is missing, which is no fault where a gap says so."""
    wrong, missing = [], []
    tasks = {task.id: task for task in snapshot.tasks}
    lock = next((primitive for primitive in snapshot.primitives if primitive.id == truth["lock"]), None)
    for name, known in truth["tasks"].items():
        task = tasks.get(known["id"])
        if task is None or (name.startswith("wait") and task.waits_on is None):
            missing.append(name)
            continue
        if [[frame.file, frame.line, frame.function] for frame in task.frames] != known["chain"]:
            wrong.append((name, "chain", task.frames))
        if task.name != name or task.state != "parked":
            wrong.append((name, task.name, task.state))
        if task.waits_on not in (truth["lock"] if name.startswith("wait") else truth["event"], None):
            wrong.append((name, "waits on", task.waits_on))
        if [hold.primitive_id for hold in task.holds] != [truth["lock"]] * name.startswith("hold"):
            wrong.append((name, "holds", task.holds))
    if lock is None:
        return wrong, [*missing, "lock"]
    waiters = {known["id"] for name, known in truth["tasks"].items() if name.startswith("wait")}
    holders = {known["id"] for name, known in truth["tasks"].items() if name.startswith("hold")}
    if lock.state.get("locked") is not True or lock.state.get("waiting") != WAITERS or lock.ready:
        wrong.append(("lock", lock.state, lock.ready))
    if not set(lock.waiters) <= waiters or not set(lock.holders) <= holders:
        wrong.append(("lock", lock.waiters, lock.holders))
    return wrong, missing


def torn_of(snapshot, truth):
    """Tasks of the busy part that are said to stand where none can, or to hold what they then cannot hold."""
    parked = {known["id"] for known in truth["tasks"].values()}
    for task in snapshot.tasks:
        if task.id in parked or task.state == "running" or (task.state == "parked" and task.waits_on is None):
            continue  # the last are those that a gap says went on
        own = [frame for frame in task.frames if frame.file == SERVICE and frame.function in NAMES]
        names, held = tuple(frame.function for frame in own), len(task.holds)
        if held not in POSSIBLE.get(names, ()) or (names == ("spin", "hop") and held != (own[0].line in LOCKED)):
            yield task


def look_often(python, looks):
    with service(python) as (server, port, truth):
        client = [sys.executable, str(HERE / "keepalive_client.py"), str(port), str(CONNECTIONS), str(LONGEST_S)]
        with running(client) as load:
            seen = Counter()
            for _ in range(looks):
                try:
                    incident = attach.look(server.pid, apart_s=0.05)
                except CannotLook as error:
                    assert "changes faster" in str(error), error
                    seen["refused"] += 1  # said, not guessed
                    continue
                wrong, missing = faults_of(incident.snapshot, truth)
                torn = list(torn_of(incident.snapshot, truth))
                assert not wrong, (wrong, incident.snapshot.gaps)
                assert not torn, (torn, incident.snapshot.gaps)
                assert not missing or incident.snapshot.gaps, missing
                seen["whole"] += not missing
                seen["verdict " + (incident.findings[0].cause if incident.findings else "none")] += 1
            said = json.loads(load.communicate(timeout=120)[0])
        assert server.poll() is None
        assert truth_of(port) == truth, "what was parked has moved"
    return seen, said


def check(python, looks):
    seen, said = look_often(python, looks)
    print(f"\n{looks} looks: {dict(seen)}, load: {said}")
    assert said["failed"] == []
    assert said["sent"] == said["answered"] > looks, said
    assert seen["whole"] > looks * 0.9, "nearly nothing was seen: the test says nothing"


def test_ten_looks_under_load():
    check(sys.executable, 10)


@pytest.mark.integration
@pytest.mark.timeout(LONGEST_S)
@pytest.mark.parametrize("version", interpreters.INSIDE)
def test_many_looks_under_load(version):
    try:
        python = interpreters.environment(version)
    except RuntimeError as error:
        pytest.skip(str(error).splitlines()[0])
    check(str(python), LOOKS)
