"""The demo as a person runs it: the real uvicorn 0.12.2 hangs, is caught and explained; 0.12.3 answers and stays silent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hangwatch.console.demo_env import Environment, find_python
from hangwatch.errors import HangwatchError
from hangwatch.kernel import files

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """One run of it. Its environment is kept between test runs."""
    try:
        find_python((3, 10), (3, 11))
    except HangwatchError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("demo")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(ROOT / ".cache"), "COLUMNS": "100"}
    command = [sys.executable, "-m", "hangwatch", "demo", "-o", str(folder / "report.html")]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=folder, stdin=subprocess.DEVNULL)
    return done, folder


@pytest.mark.slow
class TestDemo:
    def test_it_goes_as_told(self, story):
        done, _ = story
        assert done.returncode == 0, done.stdout + done.stderr
        assert not done.stderr

    def test_it_tells_what_it_does_in_order(self, story):
        said = story[0].stdout
        order = [
            "uvicorn==0.12.2",
            "Started: hangwatch run",
            "POST /orders on the same",
            "Caught: on disk",
            "proved",
            "Known bug uvicorn-748",
            "uvicorn==0.12.3",
            "POST /orders → 201",
            "no incident",
        ]
        places = [said.find(words) for words in order]
        assert -1 not in places and places == sorted(places), list(zip(order, places, strict=True))

    def test_the_hang_is_explained(self, story):
        said = " ".join(story[0].stdout.split())
        assert "shared-event · proved" in said and "upgrade uvicorn to 0.12.3" in said
        assert "▶ 544 │" in said and "await self.message_event.wait()" in said
        assert "place_order" in said and "its body has arrived completely" in said and "trace " in said

    def test_the_report_is_written(self, story):
        text = (story[1] / "report.html").read_text()
        assert "uvicorn-748" in text and "message_event.wait()" in text

    def test_nothing_is_left_running_or_lying_about(self, story):
        home = Environment("uvicorn-748", (3, 10), (3, 11), (), print).home.name
        (found,) = (ROOT / ".cache" / "hangwatch" / "demo").glob(home)
        assert not list(found.glob("spool-*"))
        commands = [files.read_text(str(path)) or "" for path in Path("/proc").glob("[0-9]*/cmdline")]
        assert not [line for line in commands if str(found) in line]


def test_no_interpreter_that_is_old_enough_is_said_with_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HangwatchError, match=r"no Python 3\.2 or 3\.1 on this machine") as caught:
        find_python((3, 1), (3, 2))
    assert "uv python install 3.2" in caught.value.help_text


def test_a_cache_that_cannot_be_written(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    with pytest.raises(HangwatchError, match="cannot make /proc/none") as caught:
        Environment("x", (3, 10), (3, 11), (), print).make()
    assert "XDG_CACHE_HOME" in caught.value.help_text
