"""Refusals by the real kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hangwatch.kernel import procfs, ptrace
from tests.processes import look_without_rights, may_change_user, running, until, waiting

_LOOK = "from hangwatch.kernel import ptrace; r = ptrace.refusal(pid); print(json.dumps(r and [r.reason, r.message, r.help_text]))"
needs_root = pytest.mark.skipif(not may_change_user(), reason="changing the user needs root, setpriv and an interpreter that all may run")


def test_own_child_may_be_read():
    with waiting() as facts:
        assert ptrace.attempt(facts["pid"]) == 0
        assert ptrace.refusal(facts["pid"]) is None


def test_no_such_process():
    child = subprocess.Popen(["true"])
    child.wait()
    assert ptrace.refusal(child.pid).reason == "gone"


def test_a_zombie_names_its_parent():
    child = subprocess.Popen(["true"])
    until(lambda: (r := ptrace.refusal(child.pid)) and r.reason == "zombie")
    assert str(os.getpid()) in ptrace.refusal(child.pid).message
    child.wait()


@pytest.mark.skipif(procfs.name(2) != "kthreadd", reason="no kernel threads are visible here")
def test_a_kernel_thread():
    assert ptrace.refusal(2).reason == "kernel-thread"


@needs_root
def test_another_user():
    with waiting() as facts:
        reason, message, help_text = look_without_rights(_LOOK, facts["pid"], "nobody")
    assert reason == "other-user"
    assert "user 0" in message and "user 65534" in message
    assert "--cap-add=SYS_PTRACE" in help_text and "kubectl debug" in help_text


@needs_root
def test_root_without_the_capability():
    with running(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "sleep", "60"]) as child:
        until(lambda: b"sleep" in Path(f"/proc/{child.pid}/cmdline").read_bytes().split(b"\0")[0])
        reason, message, _ = look_without_rights(_LOOK, child.pid, "no-ptrace")
    assert (reason, "65534" in message) == ("no-capability", True)


@needs_root
def test_a_process_with_more_capabilities():
    with waiting() as facts:
        reason, message, _ = look_without_rights(_LOOK, facts["pid"], "no-ptrace")
    assert reason == "no-capability"
    assert "0x80000" in message


@needs_root
def test_a_worker_that_dropped_its_user_is_not_dumpable_for_that_user():
    # As gunicorn --user does: setuid without a later exec.
    program = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534); print(flush=True); input()"
    with running([sys.executable, "-c", program]) as child:
        child.stdout.readline()
        reason, _, help_text = look_without_rights(_LOOK, child.pid, "nobody")
    assert reason == "not-dumpable"
    assert "root" in help_text


@needs_root
def test_the_same_user_may():
    with running(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all", "sleep", "60"]) as child:
        until(lambda: b"sleep" in Path(f"/proc/{child.pid}/cmdline").read_bytes().split(b"\0")[0])
        found = look_without_rights(_LOOK, child.pid, "nobody")
    if ptrace.yama_scope():
        assert found[0] == "yama"
    else:
        assert found is None


def test_a_seccomp_profile_is_named():
    """A real filter that forbids process_vm_readv, as Docker's default profile did before 20.10."""
    numbers = {"x86_64": (0xC000003E, 310), "aarch64": (0xC00000B7, 270)}
    if os.uname().machine not in numbers:
        pytest.skip(f"no system call number known for {os.uname().machine}")
    audit, readv = numbers[os.uname().machine]
    program = f"""
import ctypes, struct, sys, json
sys.path.insert(0, {os.getcwd()!r})
from hangwatch.kernel import ptrace
# load arch; not ours: allow; load number; process_vm_readv: EPERM; else allow
code = [(0x20, 0, 0, 4), (0x15, 0, 3, {audit}), (0x20, 0, 0, 0), (0x15, 0, 1, {readv}), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
raw = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *i) for i in code))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
p = Program(len(code), ctypes.addressof(raw))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(p), 0, 0) == 0, ctypes.get_errno()
r = ptrace.refusal(int(sys.argv[1]))
print(json.dumps(r and [r.reason, r.help_text]))
"""
    with waiting() as facts:
        done = subprocess.run([sys.executable, "-c", program, str(facts["pid"])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"seccomp"' in done.stdout and "seccompProfile" in done.stdout
