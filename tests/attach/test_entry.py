"""The agent brought into processes that compute and check themselves, and taken out again: alive, right, and as before."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hangwatch import attach
from hangwatch.attach import entry
from hangwatch.attach.entry import payload
from hangwatch.attach.inside import agent_of
from hangwatch.errors import CannotLook
from tests.processes import running, until
from tests.reading.remote.target import needs_ptrace, python_of

pytestmark = needs_ptrace
STRESSED = Path(__file__).with_name("stressed.py")
#: ENTRY_CYCLES=200 for a long run.
CYCLES = int(os.environ.get("ENTRY_CYCLES", "3"))
BY_PTRACE = pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 only")
#: The versions that the agent runs on.
VERSIONS = ["3.10", "3.11", "3.12", "3.13", "3.14", "3.15"]


class Target:
    """What it says last."""

    def __init__(self, child):
        self.child, self.pid, self.said, self.lines = child, child.pid, [], 0
        threading.Thread(target=self._listen, daemon=True).start()
        until(lambda: self.said)

    def _listen(self):
        for line in self.child.stdout:
            self.said = json.loads(line)
            self.lines += 1

    def fresh(self):
        """What it says from now on."""
        lines = self.lines
        until(lambda: self.lines > lines + 1)
        return self.said


def stressed(version, *words, **options):
    return running([str(python_of(version)), *options.pop("switches", []), str(STRESSED), *words], **options)


def cycles(version, tmp_path, by_ptrace):
    with stressed(version, cwd=tmp_path) as child:
        target = Target(child)
        opened = target.said[4]
        for _ in range(CYCLES):
            said = entry.install(target.pid, by_ptrace=by_ptrace, spool=str(tmp_path / "spool"))
            assert said["loops"] == 1
            entry.uninstall(target.pid, by_ptrace=by_ptrace)
        rounds = target.fresh()[0]
        assert child.poll() is None
        # Threads that were told to end do so when they get the GIL.
        until(lambda: target.said[1:] == [0, 0, True, opened])
        assert target.fresh()[0] > rounds


@BY_PTRACE
@pytest.mark.timeout(1200)
# Slow, and behind a switch of its own in the product too: by `make integration`.
# From 3.14 on the interpreter's own door is the way; its evaluation loop is seldom left, and a safe stop seldom found.
@pytest.mark.integration
@pytest.mark.parametrize("version", [v for v in VERSIONS if v not in ("3.14", "3.15")])
def test_by_ptrace_it_computes_on(version, tmp_path, monkeypatch):
    monkeypatch.setattr(entry.pep768, "find", lambda reader: None)
    cycles(version, tmp_path, by_ptrace=True)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("version", ["3.14", "3.15"])
def test_by_the_interpreters_own_door_it_computes_on(version, tmp_path):
    cycles(version, tmp_path, by_ptrace=False)


@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_the_agent_answers(version, tmp_path):
    with stressed(version, "idle", cwd=tmp_path) as child:
        target = Target(child)
        entry.install(target.pid, by_ptrace=True, spool=str(tmp_path / "spool"))
        until(lambda: answers(target.pid))
        assert attach.look(target.pid).snapshot.source == "agent"
        with pytest.raises(CannotLook, match="agent inside already"):
            entry.install(target.pid, by_ptrace=True)
        entry.uninstall(target.pid, by_ptrace=True)
        assert attach.look(target.pid).snapshot.source == "attach"


def answers(pid):
    with agent_of(pid) as agent:
        return agent is not None


def test_names_of_the_applications_do_not_mislead(tmp_path):
    """Files of the standard library's names where the application is started from are not imported by what comes in."""
    for name in ("zlib", "json", "socket", "queue", "dataclasses", "tomllib", "hangwatch"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'misled')!r}, 'a').write({name!r})\nraise ImportError\n")
    code = "import asyncio, sys\nsys.path.insert(0, '.')\nprint('[0]', flush=True)\nasync def main():\n while True: await asyncio.sleep(.05)\nasyncio.run(main())"
    with running([str(python_of("3.14")), "-I", "-c", code], cwd=tmp_path) as child:
        target = Target(child)
        entry.install(target.pid, spool=str(tmp_path / "spool"))
        entry.uninstall(target.pid)
    assert not (tmp_path / "misled").exists()


@pytest.mark.parametrize(("version", "by_ptrace"), [("3.14", False), ("3.12", True)])
def test_an_application_that_has_such_names_gets_its_own_afterwards(version, by_ptrace, tmp_path):
    if by_ptrace and platform.machine() != "x86_64":
        pytest.skip("x86-64 only")
    (tmp_path / "queue.py").write_text("SimpleQueue = Queue = LifoQueue = PriorityQueue = Empty = Full = 'its own'\n")
    code = """
import asyncio, json, os, sys
sys.path.insert(0, ".")
async def main():
    print(json.dumps("queue" in sys.modules), flush=True)
    while not os.path.exists("now"):
        await asyncio.sleep(.05)
    import queue
    print(json.dumps([queue.Empty]), flush=True)
    while True:
        await asyncio.sleep(.05)
asyncio.run(main())
"""
    with running([str(python_of(version)), "-c", code], cwd=tmp_path) as child:
        assert json.loads(child.stdout.readline()) is False
        entry.install(child.pid, by_ptrace=by_ptrace, spool=str(tmp_path / "spool"))
        (tmp_path / "now").touch()
        assert json.loads(child.stdout.readline()) == ["its own"]
        assert answers(child.pid) or until(lambda: answers(child.pid))
        entry.uninstall(child.pid, by_ptrace=by_ptrace)


def test_the_script_is_the_targets_alone_and_is_removed(tmp_path, monkeypatch):
    """Seen while it waits for a main thread that does not come by; afterwards neither it nor the interpreter's flag is left."""
    if os.geteuid():
        pytest.skip("needs root to become somebody else")
    seen = []
    run = entry.pep768.run

    def look(pid, switches, script):
        folder = Path(f"/proc/{pid}/root{script}").parent
        seen.append([(oct(path.stat().st_mode & 0o777), path.stat().st_uid) for path in (folder, folder / "entry.py")])
        taken = run(pid, switches, script)
        seen.extend((folder, switches, taken))
        return taken

    monkeypatch.setattr(entry.pep768, "run", look)
    code = "import asyncio, os\nos.setgid(60123); os.setuid(60123)\nprint('[0]', flush=True)\nasyncio.run(asyncio.Event().wait())"
    with running([str(python_of("3.14")), "-c", code], cwd="/") as child:
        Target(child)
        with pytest.raises(CannotLook, match="safe point"):
            entry.install(child.pid)
        modes, folder, switches, taken = seen
        assert modes == [("0o700", 60123), ("0o600", 60123)]
        assert not taken and not folder.exists()
        assert switches.memory.fresh([(switches.path, 1), (switches.pending, 4)]) == [b"\0", bytes(4)]


def test_no_symbolic_link_is_followed_to_the_script(tmp_path):
    """A container's /tmp that is a link would lead into the file system of whoever looks."""
    from hangwatch.attach.entry.place import Place

    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("this process may not make namespaces")
    (tmp_path / "root" / "dev").mkdir(parents=True)
    (tmp_path / "root" / "dev" / "shm").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root" / "tmp").symlink_to(tmp_path / "elsewhere")
    code = f"import os, time; os.chroot({str(tmp_path / 'root')!r}); os.chdir('/'); print(1, flush=True); time.sleep(60)"
    with running([sys.executable, "-c", code]) as child:
        child.stdout.readline()
        place = Place(child.pid)
        assert place.inside.startswith("/dev/shm/")
        assert not list((tmp_path / "elsewhere").iterdir())
        place.remove()
        assert not list((tmp_path / "root" / "dev" / "shm").iterdir())


def test_without_a_door_it_says_what_there_is(tmp_path):
    with stressed("3.12", cwd=tmp_path) as child, pytest.raises(CannotLook) as refused:
        entry.install(Target(child).pid)
    assert "3.14" in str(refused.value)
    assert "--by-ptrace" in refused.value.help_text
    assert "gdb -p" in refused.value.help_text


@pytest.mark.skipif(not shutil.which("gdb"), reason="no gdb on this machine")
def test_the_line_for_gdb_does_what_it_says(tmp_path):
    with stressed("3.12", "idle", cwd=tmp_path) as child:
        target = Target(child)
        with pytest.raises(CannotLook) as refused:
            entry.install(target.pid, spool=str(tmp_path / "spool"))
        (line,) = [line for line in refused.value.help_text.splitlines() if "gdb -p" in line]
        command, _, told = line.partition(": ")[2].partition(" (its script waits in ")
        folder = Path(told.partition(";")[0])
        assert folder.exists()
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        until(lambda: answers(target.pid))
        assert not folder.exists()
        assert target.fresh()[1] == 0


def test_on_a_machine_without_code_for_it_gdb_is_what_there_is(tmp_path, monkeypatch):
    """arm64: no switch is advised that would then be refused."""
    monkeypatch.setattr(entry.platform, "machine", lambda: "aarch64")
    with stressed("3.12", cwd=tmp_path) as child:
        for by_ptrace in (False, True):
            with pytest.raises(CannotLook) as refused:
                entry.install(child.pid if child.stdout.readline() else 0, by_ptrace=by_ptrace)
            assert ("this is aarch64" in str(refused.value)) == by_ptrace
            assert "gdb -p" in refused.value.help_text and "--by-ptrace" not in refused.value.help_text
        assert child.poll() is None


def test_a_main_thread_that_does_not_come_by(tmp_path):
    """Asleep in the selector without a timer: the script is taken back, and the thread way reaches it."""
    code = "import asyncio\nprint('[0]', flush=True)\nasyncio.run(asyncio.Event().wait())"
    with running([str(python_of("3.14")), "-c", code], cwd=tmp_path) as child:
        target = Target(child)
        with pytest.raises(CannotLook, match="safe point"):
            entry.install(target.pid)
        if platform.machine() == "x86_64":
            entry.install(target.pid, by_ptrace=True, spool=str(tmp_path / "spool"))
            entry.uninstall(target.pid, by_ptrace=True)
        assert child.poll() is None


@pytest.mark.parametrize("version", ["3.12", "3.14"])
def test_its_owner_said_no(version, tmp_path):
    with stressed(version, cwd=tmp_path, env={**os.environ, "PYTHON_DISABLE_REMOTE_DEBUG": "1"}) as child:
        target = Target(child)
        with pytest.raises(CannotLook, match="switched off"):
            entry.install(target.pid, by_ptrace=True)
        if platform.machine() == "x86_64":
            entry.install(target.pid, by_ptrace=True, force=True, spool=str(tmp_path / "spool"))
            entry.uninstall(target.pid, by_ptrace=True, force=True)


def test_too_old_and_without_a_loop(tmp_path):
    with stressed("3.9", cwd=tmp_path) as child, pytest.raises(CannotLook, match=r"needs 3\.10"):
        entry.install(Target(child).pid)
    with (
        running([sys.executable, "-c", "import time; print('[0]', flush=True); time.sleep(60)"]) as child,
        pytest.raises(CannotLook, match="no event loop"),
    ):
        entry.install(Target(child).pid)


def test_the_payload_needs_only_the_standard_library():
    """What it would hand over is importable without site-packages, and binds nothing where it runs."""
    names: dict[str, object] = {}
    text = payload.script("install", "token", {})
    assert compile(text, "entry", "exec").co_names == ("exec", "compile", "__builtins__")
    assert names == {}
    assert not [
        name for name in payload._sources(Path(attach.__file__).parent.parent, "") if name.startswith(("console", "watcher", "attach"))
    ]
