"""A whole look from outside: the verdict on real hangs, on every CPython from 3.9, blocked loops included."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from hangwatch import attach
from hangwatch.errors import CannotLook
from hangwatch.records import Incident, from_json, to_json
from tests.processes import running, until
from tests.reading.remote.target import TARGETS, VERSIONS, needs_ptrace, python_of, target

pytestmark = needs_ptrace
#: How the loop is blocked -> causes that are right. On a machine without a free CPU a computing loop is starved as well.
BLOCKED = {
    "sleep": {"blocked-loop-io"}, "spin": {"blocked-loop-cpu", "cpu-starved"}, "native": {"gil-held"}, "regex": {"gil-held", "cpu-starved"},
    "recv": {"blocked-loop-io"}, "lock": {"blocked-loop-lock", "holder-stuck", "deadlock"},
}  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_deadlock_is_proved(version):
    with target(python_of(version), "crossed.py") as (pid, _):
        incident = attach.look(pid)
    finding = incident.findings[0]
    assert (finding.cause, finding.confidence) == ("deadlock", "proved")
    assert finding.culprit[0].function == "transfer"
    assert incident.snapshot.source == "attach"
    assert incident.snapshot.versions["python"].startswith(version)
    assert from_json(Incident, to_json(incident)) == incident


@pytest.mark.parametrize("how, function", [("explicit", "explicit"), ("automatic", "automatic"), ("another_thread", "explicit")])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_collector_that_stops_the_loop(version, how, function):
    with target(python_of(version), "garbage.py", how) as (pid, _):
        reader = attach.open_reader(pid)
        until(reader.collecting)
        incident = attach.look(pid, reader=reader)
    assert incident.stall.kind == "loop"
    first = incident.findings[0]
    assert first.cause == "gc-pause", (first.cause, first.title, [evidence.text for evidence in incident.evidence])
    assert first.culprit[0].function.rpartition(".")[2] == function
    assert ("another thread" in first.title) == (how == "another_thread")
    (told,) = [evidence for evidence in incident.evidence if evidence.tool == "gc"]
    assert told.data["share"] >= 0.5 and told.data["owner"] in {thread.native_id for thread in incident.snapshot.threads}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_loop_that_computes_is_not_called_collecting(version):
    with target(python_of(version), "garbage.py", "computes") as (pid, _):
        reader = attach.open_reader(pid)
        until(
            lambda: (
                reader.refresh() or any("computes" in {frame.name for frame in task.frames()} for task in reader.tasks() if task.running)
            )
        )
        assert reader.collecting() is not None
        incident = attach.look(pid, reader=reader)
    assert incident.findings[0].cause in ("blocked-loop-cpu", "cpu-starved")


@pytest.mark.parametrize("version", VERSIONS)
def test_healthy_service_gives_no_finding(version):
    with target(python_of(version), "crossed.py", "healthy") as (pid, _):
        assert attach.look(pid).findings == ()


@pytest.mark.timeout(400)  # a venv with uvloop may have to be built first
@pytest.mark.parametrize("how", BLOCKED)
@pytest.mark.parametrize(("version", "loop"), [("3.9", ""), ("3.12", ""), ("3.15", ""), ("3.11", "uvloop"), ("3.14", "uvloop")])
def test_blocked_loop(version, loop, how):
    python = python_of(version, loop)
    with target(python, "blocked.py", how, *([loop] if loop else [])) as (pid, _):
        reader = attach.open_reader(pid)
        until(lambda: reader.refresh() or any(task.running and how in {frame.name for frame in task.frames()} for task in reader.tasks()))
        incident = attach.look(pid)
        if how == "regex":
            # On a machine that gives it next to no CPU, one call of C code cannot be told from a loop that goes round.
            incident = until(lambda: next((i for i in [attach.look(pid)] if i.findings and i.findings[0].cause in BLOCKED[how]), None), 90)
    assert incident.stall.kind == "loop"
    (stuck,) = [task for task in incident.snapshot.tasks if task.state == "running"]
    assert stuck.name == "bad"
    assert [frame.function for frame in stuck.frames][:2] == ["bad", how]
    assert incident.findings[0].cause in BLOCKED[how], incident.findings[0]
    assert {frame.function for frame in incident.findings[0].culprit} & {how, "keep"}


@pytest.mark.parametrize("version", ["3.9", "3.12", "3.15"])
def test_inside_a_container(version):
    """Own pid and mount namespace: ids differ, and the paths in its mappings are another folder here."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare on this machine")
    python = python_of(version)
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this process may not make namespaces")
    with running([*command, python, str(TARGETS / "crossed.py")]) as launcher:
        inside = launcher.stdout.readline()
        assert b'"pid": 1' in inside
        (pid,) = [int(word) for word in subprocess.check_output(["pgrep", "-P", str(launcher.pid)]).split()]
        incident = attach.look(pid)
    assert incident.findings[0].cause == "deadlock"
    (thread,) = incident.snapshot.threads
    assert thread.native_id == pid


def test_core_file(tmp_path):
    """What gcore writes (all pages) and what the kernel would (without those it finds on disk)."""
    if shutil.which("gcore") is None:
        pytest.skip("no gcore on this machine")
    with target(python_of("3.12"), "crossed.py") as (pid, _):
        done = subprocess.run(["gcore", "-o", str(tmp_path / "core"), str(pid)], capture_output=True)
        assert done.returncode == 0, done.stderr
    incident = attach.look_at_core(str(tmp_path / f"core.{pid}"))
    assert incident.findings[0].cause == "deadlock"
    assert (incident.snapshot.source, incident.snapshot.pid) == ("core", pid)


@pytest.mark.parametrize("version", ["3.9", "3.12", "3.14"])
def test_core_file_the_kernel_wrote(version, tmp_path):
    """It leaves out the pages that it finds on disk."""
    if not Path("/proc/sys/kernel/core_pattern").read_text().startswith("core"):
        pytest.skip("the kernel hands core files to a program here")
    python = python_of(version)
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY:
        pytest.skip("core files are limited here")
    with running(
        [python, str(TARGETS / "crossed.py")], cwd=tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, unlimited)
    ) as child:
        assert child.stdout.readline()
        until(lambda: attach.open_reader(child.pid).tasks())
        child.send_signal(signal.SIGABRT)
        child.wait(30)
    (core,) = tmp_path.glob("core*")
    incident = attach.look_at_core(str(core))
    assert incident.findings[0].cause == "deadlock"
    assert (incident.snapshot.source, incident.snapshot.pid) == ("core", child.pid)


@pytest.mark.skipif(shutil.which("gcore") is None, reason="no gcore on this machine")
def test_core_file_cut_off_or_of_something_else(tmp_path):
    with target(python_of("3.12"), "crossed.py") as (pid, _), running(["sleep", "60"]) as other:
        for one in (pid, other.pid):
            assert subprocess.run(["gcore", "-o", str(tmp_path / "core"), str(one)], capture_output=True).returncode == 0
    whole = (tmp_path / f"core.{pid}").read_bytes()
    for part in (0.9, 0.5, 0.001):
        (tmp_path / "cut").write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(CannotLook, match="damaged or was not written to its end"):
            attach.look_at_core(str(tmp_path / "cut"))
    with pytest.raises(CannotLook, match=r"the core of .*sleep, in which there is no CPython"):
        attach.look_at_core(str(tmp_path / f"core.{other.pid}"))


def test_core_file_that_is_none(tmp_path):
    for content in (b"", b"not ELF at all", b"\x7fELF\x02" + bytes(80)):
        path = tmp_path / "core"
        path.write_bytes(content)
        with pytest.raises(CannotLook):
            attach.look_at_core(str(path))


def test_process_that_ends_meanwhile():
    with target(python_of("3.12"), "crossed.py") as (pid, _):
        reader = attach.open_reader(pid)
        reader.tasks()
    with pytest.raises(CannotLook):
        reader.refresh()
        reader.tasks()
