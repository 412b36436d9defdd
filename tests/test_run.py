"""`hangwatch run`: any way to start a service, its children too; what is wrong is said before anything runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.services import ROOT, running, uvicorn


def run(*words: str, timeout: float = 60, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    return subprocess.run([sys.executable, "-m", "hangwatch", "run", *words], capture_output=True, text=True, timeout=timeout, env=env)


def gunicorn(port: int) -> list[str]:
    worker = "uvicorn_worker.UvicornWorker"
    return [sys.executable, "-m", "gunicorn", "-k", worker, "-w", "2", "-b", f"127.0.0.1:{port}", "--log-level", "warning", "service:app"]


def worked(service) -> list[str]:
    """Pids of the processes in which the agent's threads run."""
    return [folder.name.partition("-")[0] for folder in (service.spool / "workers").iterdir()]


@pytest.mark.parametrize(
    "command",
    [uvicorn(), uvicorn("--workers", "2"), gunicorn, lambda port: uvicorn("--reload")(port)],
    ids=["uvicorn", "workers", "gunicorn", "reload"],
)
def test_a_parked_request_is_caught_however_the_service_is_started(tmp_path, command):
    if command is gunicorn:
        pytest.importorskip("gunicorn")
        pytest.importorskip("uvicorn_worker")
    with running(tmp_path, command) as service:
        answered_by = service.get("/")
        parked = service.open("/park")
        incident, *_ = service.until(lambda found: len(found) >= 1)
        assert incident["stall"]["kind"] == "request"
        assert incident["service"]
        parked.close()
        pids = worked(service)
        assert answered_by in pids
        assert str(incident["snapshot"]["pid"]) in pids
        # Nothing runs in the master: the process that `run` became has no folder unless it is the worker itself.
        assert str(service.process.pid) not in pids or answered_by == str(service.process.pid)


def test_python_script(tmp_path):
    def command(port: int) -> list[str]:
        (tmp_path / "started.py").write_text(f"import uvicorn, service\nuvicorn.run(service.app, port={port}, log_level='warning')\n")
        return [sys.executable, "started.py"]

    with running(tmp_path, command) as service:
        parked = service.open("/park")
        (incident,) = service.until(lambda found: len(found) == 1)
        assert incident["service"] == "started"
        parked.close()


def test_a_fork_in_a_request_neither_hangs_nor_is_watched(tmp_path):
    with running(tmp_path, uvicorn()) as service:
        pid = service.get("/")
        assert service.get("/fork") == pid
        time.sleep(1.5)
        assert service.get("/") == pid
        assert worked(service) == [pid]
        assert service.incidents() == []


def test_exit_status_and_signals_are_the_commands_own(tmp_path):
    assert run("--", sys.executable, "-c", "raise SystemExit(7)").returncode == 7
    with running(tmp_path, uvicorn()) as service:
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "which command"),
        (("--", "no-such-program-here"), "not found"),
        (("--stall-after", "soon", "--", "true"), "stall_after is a number"),
        (("--route", "reports=5", "--", "true"), "begins with '/'"),
        (("--otlp", "collector:4318", "--", "true"), "is not an OTLP/HTTP address"),
    ],
)
def test_what_is_wrong_is_said_with_status_2(words, said):
    done = run(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_another_sitecustomize_still_runs(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import builtins\nbuiltins.theirs = 'came too'\n")
    code = "import builtins, hangwatch.agent, sys; print(builtins.theirs, hangwatch.agent.current() is not None, sys.modules['sitecustomize'].__file__)"
    done = run("--", sys.executable, "-c", code, PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")
    assert done.stdout.split()[:4] == ["came", "too", "True", str(tmp_path / "sitecustomize.py")], done.stderr


def test_switched_off_it_leaves_the_process_alone():
    code = "import sys; print([name for name in sys.modules if name.startswith('hangwatch')])"
    assert run("--", sys.executable, "-c", code, HANGWATCH_DISABLED="1").stdout == "[]\n"


def test_an_interpreter_without_hangwatch_has_the_agent_all_the_same(tmp_path):
    home = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    code = "import asyncio, hangwatch.agent; asyncio.run(asyncio.sleep(0.3)); print(hangwatch.agent.current().watchdog is not None)"
    done = run("--spool", str(tmp_path / "spool"), "--", str(home / "bin" / "python"), "-c", code, PYTHONPATH="")
    if "No module named hangwatch" in done.stderr:
        pytest.skip("hangwatch is not installed in this interpreter")
    assert done.stdout == "True\n", done.stderr
    assert done.stderr == ""
