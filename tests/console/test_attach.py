"""``hangwatch attach`` as a person runs it: exit status, words, JSON, and the board of --watch."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from click.testing import CliRunner

from hangwatch.attach.target import Worker
from hangwatch.console import attach, watching
from hangwatch.console.board import Board
from hangwatch.console.boardlines import lines
from hangwatch.console.style import columns, plain
from hangwatch.errors import CannotLook
from hangwatch.records import SCHEMA, Frame, Loop, Primitive, Request, Snapshot, Task
from tests.processes import running
from tests.reading.remote.target import needs_ptrace, python_of, target


def hangwatch(*arguments):
    return subprocess.run([sys.executable, "-m", "hangwatch", "attach", *arguments], capture_output=True, text=True, timeout=60)


@needs_ptrace
def test_findings_are_exit_status_1_and_one_json_object():
    with target(python_of("3.12"), "crossed.py") as (pid, _):
        done = hangwatch(str(pid), "--json")
    incident = json.loads(done.stdout)
    assert (done.returncode, incident["findings"][0]["cause"], incident["snapshot"]["source"]) == (1, "deadlock", "attach")


@needs_ptrace
def test_the_page_names_the_place():
    with target(python_of("3.12"), "crossed.py") as (pid, _):
        done = hangwatch(str(pid))
    assert done.returncode == 1
    assert "deadlock" in done.stdout and "crossed.py:12" in done.stdout


@needs_ptrace
def test_nothing_found_is_exit_status_0():
    with target(python_of("3.12"), "crossed.py", "healthy") as (pid, _):
        done = hangwatch(str(pid))
    assert (done.returncode, done.stderr) == (0, "")
    assert "Nothing stands still" in done.stdout


@pytest.mark.parametrize(
    "arguments", [(), ("99999999",), (":1",), ("no such command line",), ("1", "--core", "/etc/passwd"), ("--core", "/etc/passwd")]
)
def test_what_cannot_be_looked_at_is_exit_status_2_with_the_next_step(arguments):
    done = hangwatch(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    said = done.stderr.splitlines()
    assert said[0].startswith("hangwatch: ") and len(said) >= 2 and "Traceback" not in done.stderr


def test_a_process_that_is_not_python():
    with running(["sleep", "60"]) as child:
        done = hangwatch(str(child.pid))
    assert done.returncode == 2 and "is not Python" in done.stderr


def test_help_says_the_exit_statuses():
    assert "2 it cannot be looked at" in CliRunner().invoke(attach.command, ["--help"]).output


def test_watching_needs_a_terminal():
    with pytest.raises(CannotLook, match="terminal"):
        watching.run([Worker(1, "x")])


def seen(at_ns=0, place=5, waits="lock:1"):
    frame = Frame("/app/main.py", place, "pay")
    return Snapshot(
        SCHEMA, 0.0, at_ns, 7, "attach",
        loops=(Loop("loop:1", "asyncio", "thread:7", asleep=True, ready=0),),
        tasks=(Task("task:1", "Task-9", "loop:1", "parked", (frame,), waits), Task("task:2", "sweeper", "loop:1", "parked", (), None)),
        primitives=(Primitive("lock:1", "lock", "asyncio.Lock", "asyncio", ready=False),),
        requests=(Request("request:1", None, "task:1", "GET", "/pay\x1b[31m", None, "app"),),
        versions={"python": "3.12.1"},
    )  # fmt: skip


def board():
    found = Board(Worker(7, "python main.py"))
    found.take_in(seen(), 100.0)
    return found


def drawn(found, now_s=104.0, width=120, height=20):
    return list(lines(found, now_s, width, height, plain))


def test_board_counts_how_long_a_task_has_not_moved():
    found = board()
    found.take_in(seen(at_ns=1), 104.0)
    rows = {row.name: row for row in found.rows(104.0)}
    assert {name: row.still_s for name, row in rows.items()} == {"GET /pay\x1b[31m (app)": 4.0, "sweeper": 4.0}
    found.take_in(seen(at_ns=2, place=6), 105.0)
    assert [row.still_s for row in found.rows(106.0)] == [6.0, 1.0]


def test_board_shows_no_control_characters_and_fits():
    lines = drawn(board(), width=80, height=12)
    assert all("\x1b" not in line and len(line) <= 80 for line in lines) and len(lines) <= 12
    assert any("asyncio.Lock" in line for line in lines)


def test_keys_sort_filter_select_and_open():
    found = board()
    assert [(found.press("s"), found.sort)[1] for _ in range(3)] == ["waits", "name", "age"]
    for key in "/swee":
        found.press(key)
    assert [row.name for row in found.rows(104.0)] == ["sweeper"]
    found.press("\r")
    found.press("\x1b")
    assert len(found.rows(104.0)) == 2
    found.press("\r")
    assert any("pay  /app/main.py:5" in line for line in drawn(found))
    assert (found.press("w"), found.press("q")) == ("write", "quit")


def test_the_selected_row_is_a_task_not_a_place():
    found = board()
    assert [row.id for row in found.rows(104.0)] == ["task:1", "task:2"]
    found.press("j")
    assert found.chosen == "task:2" and found.selected == 1
    found.take_in(seen(at_ns=1, place=6), 105.0)  # the other moved: it is the younger one now
    assert [row.id for row in found.rows(106.0)] == ["task:2", "task:1"] and found.selected == 0
    found.press("\r")
    assert found.opened == "task:2"
    found.press("\r")
    found.take_in(replace(seen(at_ns=2, place=6), tasks=seen(place=6).tasks[:1]), 106.0)
    assert [row.id for row in found.rows(107.0)] == ["task:1"] and found.chosen == "task:1"


def test_who_moved_nowhere_stays_at_the_top():
    found = board()
    found.take_in(seen(at_ns=1, place=6), 105.0)
    found.rows(106.0)
    assert (found.selected, found.chosen) == (0, "")


def test_request_that_stands_still_is_named():
    found = board()
    found.take_in(seen(at_ns=1_000_000_000), 101.0)
    assert any(line.startswith("stands still: request GET /pay") for line in drawn(found))


def test_two_locks_of_one_name_are_told_apart():
    one, two = (Primitive(f"lock:7f00{end}", "lock", "asyncio.Lock", "asyncio", ready=False) for end in ("0d40", "0d80"))
    found = Board(Worker(7, "x"))
    found.take_in(replace(seen(waits=one.id), primitives=(one, two)), 100.0)
    assert {row.waits for row in found.rows(104.0)} == {"Lock 0d40", "parked"}


def test_help_stays_until_the_next_key():
    found = board()
    found.press("?")
    assert any("end" in line for line in drawn(found)) and not any("sweeper" in line for line in drawn(found))
    found.press("")  # no key within the second
    assert found.helping
    found.press("j")
    assert not found.helping


@pytest.mark.parametrize(("width", "height"), [(48, 8), (80, 24), (200, 50)])
def test_board_fills_the_screen_and_keeps_its_columns(width, height):
    screen = drawn(board(), width=width, height=height)
    assert len(screen) == height
    assert all(columns(line) <= width for line in screen)
    assert any("where" in line for line in screen) and any("main.py:5" in line for line in screen) == (width > 48)
    assert screen[-1].startswith("q quit")


@needs_ptrace
def test_watching_on_a_real_terminal(tmp_path):
    """Every key that it documents; the target ends meanwhile."""
    with target(python_of("3.12"), "crossed.py") as (pid, _):
        control, terminal = pty.openpty()
        environ = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "100", "LINES": "30", "HANGWATCH_SPOOL": str(tmp_path)}
        command = [sys.executable, "-m", "hangwatch", "attach", str(pid), "--watch"]
        with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environ, start_new_session=True) as child:
            os.close(terminal)
            shown = Shown(control)
            shown.until("suspect: deadlock (proved)")
            assert "\x1b[1" not in shown.text and "\x1b[3" not in shown.text  # NO_COLOR
            for key, said in [
                ("s", "by waits"), ("?", "end"), ("?", "waits for"), ("/tran", "filter: tran"), ("\r", "filter 'tran'"), ("\x1b[B", "transfer"),
                ("\r", "Lock.acquire"), ("\x1b", "by waits"), ("w", "written: hangwatch show"),
            ]:  # fmt: skip
                shown.text = ""
                os.write(control, key.encode())
                shown.until(said)
            assert len(list((tmp_path / "incidents").iterdir())) == 1
            os.kill(pid, signal.SIGKILL)
            shown.until("what is shown is from before")
            os.write(control, b"q")
            assert child.wait(20) == 0
            assert "Traceback" not in shown.text
        os.close(control)


class Shown:
    """What a terminal was sent since ``text`` was last emptied."""

    def __init__(self, control):
        self.control, self.text = control, ""

    def until(self, wanted, patience_s=30.0):
        end = time.monotonic() + patience_s
        while wanted not in self.text:
            assert time.monotonic() < end, self.text[-3000:]
            if select.select([self.control], [], [], 0.2)[0]:
                self.text += os.read(self.control, 65536).decode("utf-8", "replace")
