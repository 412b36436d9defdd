"""A worker in a container of its own, looked at and entered from outside, and looked at from one that shares its pids."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hangwatch import attach
from hangwatch.attach import entry
from hangwatch.attach.inside import agent_of
from tests.processes import running, until
from tests.reading.remote.target import needs_ptrace, python_of

HERE = Path(__file__).parent
pytestmark = [
    needs_ptrace,
    pytest.mark.skipif(
        os.geteuid() != 0 or subprocess.run(["unshare", "-mpnui", "--fork", "true"], capture_output=True).returncode != 0,
        reason="making a container needs root and namespaces",
    ),
]


def spec_of(version, root):
    """Paths inside lead by absolute links to where nothing, or something else, lies outside."""
    python = Path(python_of(version)).resolve()
    binds = {str(HERE / "contained.py"): "/srv/contained.py"}
    if python.parent.parent.name == "usr":  # unpacked from Debian's packages, with its own C library
        above = python.parent.parent.parent
        binds.update({str(above / "usr"): "/usr", str(above / "etc"): "/etc"})
        links = {"/lib": "/usr/lib", "/lib64": "/usr/lib64", str(above): "/"}
        inside = "/usr/bin/" + python.name
    else:
        home = python.parent.parent
        binds.update({str(home): "/opt/actual", "/usr": "/usr", "/etc": "/etc"})
        links = {str(home): "/opt/actual"} | {
            name: os.readlink(name) if os.path.islink(name) else f"/usr{name}" for name in ("/lib", "/lib64") if os.path.lexists(name)
        }
        inside = str(home / "bin" / python.name)
    return {"root": str(root), "binds": binds, "links": links, "command": [inside, "/srv/contained.py"]}


@contextlib.contextmanager
def container(version, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    with running([sys.executable, str(HERE / "container.py"), json.dumps(spec_of(version, root))]) as launcher:
        line = launcher.stdout.readline()
        assert line, "the container ended before it was ready"
        (pid,) = [int(word) for word in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()]
        try:
            yield pid, json.loads(line)
        finally:
            os.kill(pid, signal.SIGKILL)


def looked(said, pid):
    """What the JSON of a look says, checked against what the target said of itself."""
    incident = json.loads(said)
    assert incident["findings"][0]["cause"] == "deadlock"
    snapshot = incident["snapshot"]
    assert {"there", "back"} <= {task["name"] for task in snapshot["tasks"]}
    held = {task["name"]: task["holds"] for task in snapshot["tasks"] if task["holds"]}
    assert set(held) == {"there", "back"}
    threads = {thread["name"]: thread for thread in snapshot["threads"]}
    assert "127.0.0.1:8080" in (threads["patient"].get("syscall") or json.dumps(threads["patient"]))
    return {name: thread["native_id"] for name, thread in threads.items()}


def native_ids(pid):
    """Thread id inside -> outside."""
    found = {}
    for tid in os.listdir(f"/proc/{pid}/task"):
        text = Path(f"/proc/{pid}/task/{tid}/status").read_text()
        found[int(re.search(r"NSpid:.*\s(\d+)", text).group(1))] = int(tid)
    return found


@pytest.mark.parametrize("version", ["3.9", "3.12", "3.14", "3.15"])
def test_seen_from_outside(version, tmp_path):
    command = [sys.executable, "-m", "hangwatch", "attach", "--json"]
    with container(version, tmp_path) as (pid, told):
        assert (told["pid"], told["uid"]) == (1, 1000)
        done = subprocess.run([*command, str(pid)], capture_output=True, text=True)
        assert done.returncode == 1, done.stderr
        outside = native_ids(pid)
        assert looked(done.stdout, pid) == {name: outside[inside] for name, inside in told["threads"].items()}


@pytest.mark.skipif(not shutil.which("strace"), reason="no strace on this machine")
def test_no_file_of_it_is_opened(tmp_path):
    """Whatever its paths mean out here is nothing of its."""
    home = Path(python_of("3.12")).resolve().parent.parent
    with container("3.12", tmp_path) as (pid, _):
        mapped = {
            line.split(None, 5)[5].strip() for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if len(line.split(None, 5)) > 5
        }
        log = tmp_path / "opened"
        command = ["strace", "-f", "-qq", "-e", "trace=open,openat,openat2", "-o", str(log)]
        done = subprocess.run([*command, sys.executable, "-m", "hangwatch", "attach", "--json", str(pid)], capture_output=True, text=True)
        looked(done.stdout, pid)
        opened = set(re.findall(r'open(?:at2?)?\([^"]*"([^"]*)"', log.read_text()))
    assert f"/proc/{pid}/maps" in opened
    # Folders of distributions are listed by their resolved names: no absolute link leads out.
    assert not [path for path in opened if path.startswith(("/opt/actual", f"/proc/{pid}/root{home}"))]
    assert not [path for path in opened if path.startswith(f"/proc/{pid}/root") and path.endswith((".py", ".so", ".pyc"))]
    own = {path for path in opened if path in mapped}
    assert all(path.startswith(("/usr/lib", "/lib", "/etc")) or path == sys.executable for path in own), own  # this interpreter's libraries


@pytest.mark.skipif(not shutil.which("nsenter"), reason="no nsenter on this machine")
def test_seen_from_a_container_that_shares_its_pids(tmp_path):
    with container("3.12", tmp_path) as (pid, told):
        beside = ["nsenter", "--target", str(pid), "--pid", "--net", "unshare", "--mount", "--mount-proc", "--fork"]
        done = subprocess.run([*beside, sys.executable, "-m", "hangwatch", "attach", "--json", "1"], capture_output=True, text=True)
        assert done.returncode == 1, done.stderr
        assert looked(done.stdout, 1) == told["threads"]


@pytest.mark.parametrize(("version", "by_ptrace"), [("3.14", False), ("3.12", True)])
def test_entered_from_outside(version, by_ptrace, tmp_path):
    """hangwatch is not installed in there."""
    if by_ptrace and platform.machine() != "x86_64":
        pytest.skip("x86-64 only")
    with container(version, tmp_path) as (pid, _):
        before = sorted(os.listdir(f"/proc/{pid}/root/tmp"))
        said = entry.install(pid, by_ptrace=by_ptrace, spool="/tmp/spool")
        assert (said["spool"], said["loops"]) == ("/tmp/spool", 1)
        until(lambda: answers(pid))
        incident = attach.look(pid)
        assert (incident.snapshot.source, incident.findings[0].cause) == ("agent", "deadlock")
        entry.uninstall(pid, by_ptrace=by_ptrace)
        assert attach.look(pid).snapshot.source == "attach"
        assert sorted(os.listdir(f"/proc/{pid}/root/tmp")) == [*before, "spool"]


def answers(pid):
    with agent_of(pid) as agent:
        return agent is not None
