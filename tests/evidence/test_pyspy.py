"""The real py-spy on real processes; refusals by the real kernel."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hangwatch.evidence import pyspy
from hangwatch.evidence.base import Budget, Target
from hangwatch.kernel import ptrace
from tests.processes import look_without_rights, may_change_user, running, until, waiting

needs_pyspy = pytest.mark.skipif(pyspy.find() is None, reason="py-spy is not installed here (pip install py-spy)")
pytestmark = pytest.mark.needs_pyspy


def thread_of(evidence, native_id):
    assert evidence.error is None, evidence.error
    (found,) = [thread for thread in evidence.data["threads"] if thread["native_id"] == native_id]
    return found


@needs_pyspy
def test_stacks_of_another_process_outermost_first():
    with waiting("recv", "lock") as facts:
        evidence = until(lambda: (e := pyspy.capture(Target(facts["pid"]))) and "recv" in e.text and e)
        thread = thread_of(evidence, facts["threads"]["recv"])
    assert thread["name"] == "waits-recv"
    assert thread["frames"][-1]["function"].endswith("<lambda>")
    assert thread["frames"][-1]["file"].endswith("tests/waiting.py")
    assert "begin" in [frame["function"] for frame in thread["frames"]]
    assert evidence.data["native"] is False


@needs_pyspy
def test_native_frames_name_the_c_call_that_holds_the_gil():
    with waiting("hold-gil") as facts:
        tid = facts["threads"]["hold-gil"]

        def captured():
            evidence = pyspy.capture(Target(facts["pid"], native=True))
            found = [t for t in evidence.data.get("threads", ()) if t["native_id"] == tid]
            return found and "usleep" in [frame["function"] for frame in found[0]["frames"]] and evidence

        evidence = until(captured)
    assert thread_of(evidence, tid)["owns_gil"]
    assert evidence.data["native"] is True
    assert "owns the GIL" in evidence.text


@needs_pyspy
def test_this_very_process_without_the_agents_threads():
    done = threading.Event()
    threads = [threading.Thread(target=done.wait, name=name, daemon=True) for name in ("hangwatch-test", "worker")]
    for thread in threads:
        thread.start()
    evidence = pyspy.capture(Target(os.getpid()))
    done.set()
    assert evidence.error is None, evidence.error
    names = [thread["name"] for thread in evidence.data["threads"]]
    assert "worker" in names and "hangwatch-test" not in names
    frames = [frame["function"] for thread in evidence.data["threads"] for frame in thread["frames"]]
    assert any("test_this_very_process" in function for function in frames)


@needs_pyspy
def test_a_process_that_another_tracer_has_is_read_without_a_stop():
    if not shutil.which("strace"):
        pytest.skip("strace is not installed here")
    with waiting("recv") as facts, running(["strace", "-f", "-o", "/dev/null", "-p", str(facts["pid"])], stderr=subprocess.DEVNULL):
        until(lambda: "TracerPid:\t0" not in Path(f"/proc/{facts['pid']}/status").read_text())
        evidence = pyspy.capture(Target(facts["pid"]))
        assert evidence.error is None, evidence.error
        assert evidence.data["nonblocking"] is True


@needs_pyspy
def test_the_kernels_timer_ends_it_and_the_target_goes_on(tmp_path):
    """A py-spy that never ends, as one that has stopped its own parent would not: alarm(2) survives exec."""
    slow = tmp_path / "py-spy"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    with pytest.raises(pyspy._Failed, match="deadline"):
        pyspy._run([str(slow), "dump"], os.getpid(), pyspy.time.monotonic() + 0.3)
    assert not [pid for pid in pyspy.ptrace.procfs.children(os.getpid()) if "sleep" in pyspy.ptrace.procfs.name(pid)]


@needs_pyspy
def test_a_real_dump_cut_by_the_timer_leaves_its_target_running():
    with waiting("spin") as facts:
        command = [pyspy.find(), "record", "--duration", "600", "--output", "/dev/null", "--pid", str(facts["pid"])]
        with pytest.raises(pyspy._Failed, match=f"signal {int(signal.SIGALRM)}"):
            pyspy._run(command, facts["pid"], pyspy.time.monotonic() + 0.5)
        tid = facts["threads"]["spin"]
        before = pyspy.ptrace.procfs.thread_cpu_ns(facts["pid"], tid)
        until(lambda: pyspy.ptrace.procfs.thread_cpu_ns(facts["pid"], tid) > before)


@needs_pyspy
def test_permission_for_the_child_is_given_before_it_runs_and_taken_back(monkeypatch):
    """The calls are real; only the scope is claimed, for few test machines have yama."""
    given = []
    monkeypatch.setattr(ptrace, "yama_scope", lambda: 1)
    real = ptrace.allow
    monkeypatch.setattr(ptrace, "allow", lambda tracer: given.append((tracer, real(tracer))) or True)
    evidence = pyspy.capture(Target(os.getpid()))
    assert evidence.error is None, evidence.error
    assert len(given) == 2
    assert given[0][0] > 0 and given[1][0] == 0


@needs_pyspy
def test_not_python():
    with running(["sleep", "60"]) as child:
        evidence = pyspy.capture(Target(child.pid))
    assert "python version" in evidence.error
    assert "not Python" in evidence.hint
    assert "Stack backtrace" not in evidence.error


@needs_pyspy
def test_gone():
    child = subprocess.Popen(["true"])
    child.wait()
    assert pyspy.capture(Target(child.pid)).error == f"there is no process {child.pid}"


@needs_pyspy
@pytest.mark.skipif(not may_change_user(), reason="changing the user needs root, setpriv and an interpreter that all may run")
def test_refused_says_what_to_add():
    code = f"""
from hangwatch.evidence import pyspy
from hangwatch.evidence.base import Target
pyspy.find = lambda: {pyspy.find()!r}
e = pyspy.capture(Target(pid))
print(json.dumps([e.error, e.hint]))
"""
    with waiting() as facts:
        error, hint = look_without_rights(code, facts["pid"], "no-ptrace")
    assert "CAP_SYS_PTRACE" in error
    assert "--cap-add=SYS_PTRACE" in hint and "securityContext" in hint


def test_not_installed_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(pyspy.sysconfig, "get_path", lambda name: str(tmp_path))
    evidence = pyspy.capture(Target(os.getpid()))
    assert evidence.error == "py-spy is not installed"
    assert "hangwatch[pyspy]" in evidence.hint


@needs_pyspy
def test_the_budget_is_kept():
    budget = Budget(per_hour=0)
    evidence = pyspy.capture(Target(os.getpid(), pyspy_budget=budget))
    assert "budget" in evidence.error
    assert budget.skipped == 1


def test_a_budget_counts_by_the_hour():
    budget = Budget(per_hour=2)
    assert [budget.take(now) for now in (0.0, 10.0, 20.0, 3599.0)] == [True, True, False, False]
    assert budget.skipped == 2
    assert [budget.take(now) for now in (3600.0, 3601.0, 3610.0)] == [True, False, True]
