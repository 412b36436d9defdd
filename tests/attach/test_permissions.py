"""Why a process cannot be looked at: real processes of every kind that this machine can start."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from hangwatch.attach import permissions
from hangwatch.errors import CannotLook
from tests import interpreters
from tests.processes import look_without_rights, may_change_user, running, until, waiting


@pytest.mark.parametrize("version", ["3.9", *interpreters.INSIDE])
def test_a_python_that_may_be_read(version):
    python = interpreters.found(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    with waiting(python=str(python)) as facts:
        assert permissions.why_not(facts["pid"]) is None
        permissions.check(facts["pid"])


def of_program(command, reason):
    with running(command) as child:
        found = until(lambda: (r := permissions.why_not(child.pid)) and r.reason == reason and r)
        assert str(child.pid) in str(found)
        return found


def test_not_python_and_nothing_below_it():
    found = of_program(["sleep", "60"], "not-python")
    assert "(sleep)" in str(found)
    with running(["sleep", "60"]) as child, pytest.raises(CannotLook):
        until(lambda: b"sleep" in Path(f"/proc/{child.pid}/cmdline").read_bytes())
        permissions.check(child.pid)


def test_a_shell_around_python_names_the_python_below():
    program = "import sys; print(flush=True); sys.stdin.read()"
    with running(["sh", "-c", f"{sys.executable} -c '{program}'; true"]) as child:
        child.stdout.readline()
        found = permissions.why_not(child.pid)
        assert found.reason == "not-python"
        (below,) = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        assert below in found.help_text and "-c" in found.help_text


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.8"])
def test_too_old(version):
    python = interpreters.found(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    found = of_program([str(python), "-c", "import time; time.sleep(60)"], "version")
    assert f"CPython {version}" in str(found)
    assert "py-spy" in found.help_text


def test_an_interpreter_without_a_telling_name_is_found_by_what_it_exports(tmp_path):
    """As uwsgi and frozen programs are: the interpreter is in the program itself."""
    source = tmp_path / "embed.c"
    source.write_text("#include <unistd.h>\nint _PyRuntime = 1;\nint main(void) { return pause(); }\n")
    program = tmp_path / "server"
    if not shutil.which("cc") or subprocess.run(["cc", "-rdynamic", "-o", program, source]).returncode:
        pytest.skip("no C compiler here")
    with running([str(program)]) as child:
        until(lambda: permissions.why_not(child.pid) is None)


def test_32_bit(tmp_path):
    program = tmp_path / "pause32"
    program.write_bytes(_elf32())
    program.chmod(0o755)
    try:
        subprocess.Popen([str(program)]).kill()
    except OSError as error:
        pytest.skip(f"this kernel runs no 32-bit programs: {error}")
    found = of_program([str(program)], "32-bit")
    assert "pause32" in str(found)


def _elf32() -> bytes:
    """The smallest i386 program: one page, ``pause()`` for ever."""
    code = b"\xb8\x1d\x00\x00\x00\xcd\x80\xeb\xf7"
    base, size = 0x08048000, 84 + len(code)
    header = b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, base + 84, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("<IIIIIIII", 1, 0, base, base, size, size, 5, 0x1000)
    return header + segment + code


def test_pypy():
    if not (pypy := shutil.which("pypy3") or shutil.which("pypy")):
        pytest.skip("PyPy is not installed here")
    of_program([pypy, "-c", "import time; time.sleep(60)"], "pypy")


def test_free_threaded():
    candidates = [shutil.which(f"python3.{minor}t") for minor in (13, 14, 15)]
    if not (python := next(filter(None, candidates), None)):
        pytest.skip("no free-threaded CPython here")
    of_program([python, "-c", "import time; time.sleep(60)"], "free-threaded")


@pytest.mark.parametrize(
    ("file", "build"),
    [
        ("python3.11", (3, 11, False)),
        ("python3.13t", (3, 13, True)),
        ("python3", (3, None, False)),
        ("libpython3.9.so.1.0", (3, 9, False)),
        ("libpython3.14t.so.1.0", (3, 14, True)),
        ("libpython3.12d.so", (3, 12, False)),
        ("libpython2.7.so.1.0", (2, 7, False)),
        ("_asyncio.cpython-312-x86_64-linux-gnu.so", (3, 12, False)),
        ("_asyncio.cpython-314t-aarch64-linux-gnu.so", (3, 14, True)),
        ("libpythonic.so", None),
        ("python-notes.txt", None),
        ("bash", None),
    ],
)
def test_builds_by_the_names_of_their_files(file, build):
    assert permissions._build(file) == build


@pytest.mark.skipif(not may_change_user(), reason="changing the user needs root, setpriv and an interpreter that all may run")
@pytest.mark.parametrize(("how", "reason"), [("nobody", "other-user"), ("no-ptrace", "no-capability")])
def test_refused_by_the_kernel(how, reason):
    code = "from hangwatch.attach.permissions import why_not; r = why_not(pid); print(json.dumps([r.reason, str(r), r.help_text]))"
    with waiting() as facts:
        found, message, help_text = look_without_rights(code, facts["pid"], how)
    assert found == reason
    assert str(facts["pid"]) in message and "SYS_PTRACE" in help_text


def test_gone_and_zombie():
    child = subprocess.Popen(["true"])
    until(lambda: permissions.why_not(child.pid).reason == "zombie")
    child.wait()
    assert permissions.why_not(child.pid).reason == "gone"
