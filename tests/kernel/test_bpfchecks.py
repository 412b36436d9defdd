"""Why eBPF cannot be used: the table, and real processes that really may not."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hangwatch.kernel import bpfchecks
from tests.kernel.bpf import why_not
from tests.processes import look_without_rights, may_change_user

ABLE = bpfchecks.Facts(frozenset(("CAP_BPF", "CAP_PERFMON")), True, False, (6, 1))


def but(**changes):
    return dataclasses.replace(ABLE, **changes)


ROWS = [
    (errno.EPERM, "MAP_CREATE threads", but(capabilities=frozenset()), "lacks CAP_BPF and CAP_PERFMON", "--cap-add=BPF"),
    (errno.EPERM, "PROG_LOAD loop_switch", but(capabilities=frozenset(["CAP_BPF"])), "lacks CAP_PERFMON", "--cap-add=PERFMON"),
    (errno.EPERM, "MAP_CREATE threads", but(first_user_namespace=False), "user namespace", "on the host"),
    (errno.EPERM, "MAP_CREATE threads", but(seccomp=True), "seccomp", "seccomp=unconfined"),
    (errno.EPERM, "MAP_CREATE threads", but(kernel=(5, 10)), "memory may be locked", "ulimit -l"),
    (errno.EPERM, "RAW_TRACEPOINT_OPEN sys_exit", ABLE, "security module", "dmesg"),
    (errno.EINVAL, "PROG_LOAD loop_switch", but(lockdown="confidentiality"), "lockdown", "lockdown=integrity"),
    (errno.EPERM, "PROG_LOAD loop_switch", but(lockdown="confidentiality"), "lockdown", "lockdown=integrity"),
    (errno.EINVAL, "MAP_CREATE events", but(kernel=(5, 4)), "older than 5.8", "sampled from /proc"),
    (errno.ENOSYS, "MAP_CREATE threads", ABLE, "CONFIG_BPF_SYSCALL", "sampled from /proc"),
    (errno.ENOENT, "RAW_TRACEPOINT_OPEN sched_switch", ABLE, "no tracepoint sched_switch", "sampled from /proc"),
    (errno.EINVAL, "PROG_LOAD loop_switch", ABLE, "Invalid argument", "uname -r"),
]


@pytest.mark.parametrize("number, step, known, said, help_text", ROWS, ids=[row[3] for row in ROWS])
def test_every_refusal_has_its_reason_and_its_cure(number, step, known, said, help_text):
    found = bpfchecks.explain(number, step, known)
    assert said in found[0]
    assert help_text in found[1]


def test_sys_admin_stands_for_both():
    said, _ = bpfchecks.explain(errno.EPERM, "MAP_CREATE x", but(capabilities=frozenset(["CAP_SYS_ADMIN"]), seccomp=True))
    assert "seccomp" in said


@pytest.mark.parametrize("text, mode", [("none [integrity] confidentiality\n", "integrity"), ("[none] integrity", "none"), ("", "")])
def test_lockdown_is_the_one_in_brackets(text, mode):
    assert bpfchecks.lockdown(text) == mode


@pytest.mark.parametrize("release, version", [("6.18.44-fc", (6, 18)), ("5.10", (5, 10)), ("odd", (0, 0))])
def test_releases(release, version):
    assert bpfchecks.kernel_version(release) == version


def test_it_never_raises_and_agrees_with_what_works():
    found = list(bpfchecks.checks())
    states = {answer.name: answer.state for answer in found}
    assert set(states.values()) <= {"ok", "limited", "broken"}
    assert (states.get("ebpf") == "ok") is (why_not() == "")


def test_a_check_that_fails_does_not_hide_the_others(monkeypatch):
    def fails(known):
        raise RuntimeError("odd")
        yield

    monkeypatch.setattr(bpfchecks, "_types", fails)
    found = list(bpfchecks.checks())
    assert any("RuntimeError: odd" in answer.said for answer in found) and len(found) > 1


CODE = "from hangwatch.kernel import bpfchecks; print(json.dumps([(a.name, a.said, a.help_text) for a in bpfchecks.checks()]))"


@pytest.mark.skipif(not may_change_user(), reason="needs root and setpriv")
def test_nobody_is_told_which_capability_is_missing():
    found = {name: (said, help_text) for name, said, help_text in look_without_rights(CODE, os.getpid(), "nobody")}
    assert "lacks CAP_BPF and CAP_PERFMON" in found["ebpf"][0] and "sudo" in found["ebpf"][1]
    assert "what, not why" in found["CAP_SYS_PTRACE"][0]


def run(*command):
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run([*command, f"import json\n{CODE}"], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root})
    assert done.returncode == 0, done.stderr
    return {name: said for name, said, _ in json.loads(done.stdout)}


def may_unshare():
    return shutil.which("unshare") and subprocess.run(["unshare", "-Ur", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not may_unshare(), reason="needs unshare and user namespaces")
def test_root_in_a_user_namespace_is_told_that_it_does_not_count():
    assert "user namespace" in run("unshare", "-Ur", sys.executable, "-c")["ebpf"]


# A filter that answers EPERM to bpf(2), as a container's profile does; then the program.
SECCOMP = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None)
libc.prctl(38, 1, 0, 0, 0)
rows = [(0x20, 0, 0, 0), (0x15, 0, 1, int(sys.argv[1])), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
code = b"".join(struct.pack("<HBBI", *row) for row in rows)
kept = ctypes.create_string_buffer(code, len(code))
program = ctypes.create_string_buffer(struct.pack("<H6xQ", len(rows), ctypes.addressof(kept)))
assert libc.prctl(22, 2, program) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.skipif(bool(why_not()), reason=f"only where eBPF works: {why_not()}")
def test_a_seccomp_profile_is_named():
    number = {"x86_64": "321"}.get(os.uname().machine, "280")
    assert "seccomp" in run(sys.executable, "-c", SECCOMP, number, sys.executable, "-c")["ebpf"]
