"""What a person sees where a process cannot be looked at, or entered: the cause, the next step, exit status 2. Real refusals."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hangwatch.attach import permissions
from hangwatch.kernel import ptrace
from tests.attach.test_permissions import _elf32
from tests.processes import HERE, may_change_user, readable_python, running, until
from tests.reading.remote.target import needs_ptrace, python_of, target

FORBIDDING = HERE / "attach" / "forbidding.py"


def said(pid, *options, before=(), python=sys.executable, ends=None):
    """Exit status 2 and words; gives them."""
    command = [*before, python, "-m", "hangwatch", "attach", str(pid), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/", env={**os.environ, "PYTHONPATH": str(HERE.parent)})
    assert (done.returncode, done.stdout) == (2, ""), done
    first, *rest = done.stderr.splitlines()
    assert first.startswith("hangwatch: ") and rest and "Traceback" not in done.stderr, done.stderr
    return first, " ".join(rest)


def named(tmp_path, name, content=None):
    """A program of that name that only waits: the kernel shows its name as an interpreter's."""
    path = tmp_path / name
    path.write_bytes(content or Path(shutil.which("sleep")).resolve().read_bytes())
    path.chmod(0o755)
    return [str(path), *([] if content else ["60"])]


def started(child):
    until(lambda: Path(f"/proc/{child.pid}/exe").resolve() != Path(sys.executable).resolve())


@pytest.mark.parametrize(
    ("name", "cause", "step"),
    [
        ("sleeper", "is not Python", "pgrep -af python"),
        ("python3.16", "CPython 3.16; its memory can be read for 3.9 to 3.15", "pip install -U hangwatch"),
        ("python3.8", "CPython 3.8", "py-spy dump"),
        ("python3.14t", "free-threaded build", "hangwatch run"),
        ("pypy3.10-c", "PyPy", "no way to look at PyPy"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--install", "--by-ptrace")])
def test_programs_that_cannot_be_read(name, cause, step, options, tmp_path):
    with running(named(tmp_path, name)) as child:
        started(child)
        words = said(child.pid, *options)
    assert cause in words[0] and step in words[1]


def test_32_bit(tmp_path):
    command = named(tmp_path, "python3", _elf32())
    try:
        subprocess.Popen(command).kill()
    except OSError as error:
        pytest.skip(f"this kernel runs no 32-bit programs: {error}")
    with running(command) as child:
        started(child)
        assert "32-bit" in said(child.pid)[0]


def test_gone():
    child = subprocess.Popen(["true"])
    child.wait()
    assert "there is no process" in said(child.pid)[0]


@needs_ptrace
@pytest.mark.skipif(not may_change_user(), reason="changing the user needs root, setpriv and an interpreter that all may run")
@pytest.mark.parametrize("options", [(), ("--install", "--by-ptrace"), ("--watch",)])
@pytest.mark.parametrize(("how", "cause"), [("no-ptrace", "CAP_SYS_PTRACE"), ("nobody", "belongs to user 0")])
def test_without_the_right(how, cause, options):
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    before = nobody if how == "nobody" else ["setpriv", "--bounding-set=-sys_ptrace"]
    with target(python_of("3.12"), "crossed.py") as (pid, _):
        if options == ("--watch",):
            assert "terminal" in said(pid, *options, before=before, python=readable_python())[0]
            return
        words = said(pid, *options, before=before, python=readable_python())
    assert cause in words[0]
    assert "--cap-add=SYS_PTRACE" in words[1] and "Kubernetes" in words[1]


@needs_ptrace
@pytest.mark.parametrize(
    ("call", "options", "cause", "step"),
    [
        ("process_vm_readv", (), "a seccomp profile forbids that call", "seccompProfile"),
        ("ptrace", ("--install", "--by-ptrace"), "cannot be traced", "seccomp profile forbids ptrace"),
    ],
)
def test_seccomp(call, options, cause, step):
    """A real filter, as a container's, in the one who looks."""
    with target(python_of("3.12"), "crossed.py") as (pid, _):
        words = said(pid, *options, before=[sys.executable, str(FORBIDDING), call])
    assert cause in words[0] and step in words[1]


@needs_ptrace
@pytest.mark.parametrize("options", [(), ("--install", "--by-ptrace"), ("--uninstall", "--by-ptrace")])
def test_exited_in_the_middle(options):
    """Killed at moments spread over the look: never a traceback, and never an answer that was not seen."""
    for late_s in (0.02, 0.3, 0.5):
        with target(python_of("3.12"), "crossed.py") as (pid, _):
            command = [sys.executable, "-m", "hangwatch", "attach", str(pid), *options]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as looking:
                try:
                    looking.wait(late_s)
                except subprocess.TimeoutExpired:
                    os.kill(pid, signal.SIGKILL)
                _, words = looking.communicate(timeout=60)
        assert "Traceback" not in words
        assert looking.returncode in ((1, 2) if not options else (0, 2)), words
        if looking.returncode == 2:
            assert words.startswith("hangwatch: ")


@pytest.mark.parametrize(("scope", "cause"), [(1, "only its ancestors"), (2, "only root"), (3, "nobody may read")])
def test_yama(scope, cause, monkeypatch):
    monkeypatch.setattr(ptrace, "yama_scope", lambda: scope)
    monkeypatch.setattr(ptrace, "attempt", lambda pid: 1)
    monkeypatch.setattr(ptrace, "has_capability", lambda *_: False)
    child = subprocess.Popen(["sleep", "60"])
    try:
        refused = permissions.why_not(child.pid)
    finally:
        child.kill()
        child.wait()
    assert refused.reason == "yama" and cause in str(refused) and refused.help_text
