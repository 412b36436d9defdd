"""Dumps that the real C timer wrote, whole and cut short."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from hangwatch.evidence import faulthandler
from hangwatch.evidence.base import Target
from tests import interpreters
from tests.processes import until

_PROGRAM = """
import ctypes, faulthandler, sys, threading, time
def wait_in_thread():
    time.sleep(600)
def hold(): ctypes.PyDLL(None).usleep(600_000_000)
class Printer:
    def wait_ready(self): hold()
t = threading.Thread(target=wait_in_thread, daemon=True)
t.start()
faulthandler.dump_traceback_later(0.05, repeat=len(sys.argv) > 2, file=open(sys.argv[1], "w"))
Printer().wait_ready()
"""


def dump(python, path, *more):
    """Runs the program until its timer has written, then kills it."""
    child = subprocess.Popen([python, "-c", _PROGRAM, str(path), *more])
    try:
        wanted = 2 if more else 1
        whole = "in <module>\n"
        until(lambda: (path.exists() and path.read_text().count(whole) >= wanted) or child.poll() is not None)
    finally:
        child.kill()
        child.wait()
    return path.read_text()


@pytest.mark.parametrize("version", ["3.9", *interpreters.INSIDE])
def test_a_thread_that_holds_the_gil_in_c(version, tmp_path):
    python = interpreters.found(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    dump(python, tmp_path / "dump")
    evidence = faulthandler.read(tmp_path / "dump")
    assert evidence.error is None
    assert (evidence.data["dumps"], evidence.data["complete"]) == (1, True)
    stacks = [[frame["function"] for frame in thread["frames"]] for thread in evidence.data["threads"]]
    assert ["<module>", "wait_ready", "hold"] in stacks
    assert any(stack[-1] == "wait_in_thread" for stack in stacks)
    assert [frame["line"] for frame in evidence.data["threads"][-1]["frames"]] == [11, 7, 5]
    assert evidence.data["threads"][-1]["frames"][0]["file"] == "<string>"


def test_of_several_dumps_the_last_counts(tmp_path):
    dump(sys.executable, tmp_path / "dump", "repeat")
    evidence = faulthandler.read(tmp_path / "dump")
    assert evidence.data["dumps"] >= 2
    assert evidence.text.count("Timeout (") == 1


def test_a_file_cut_anywhere_gives_what_is_there(tmp_path):
    text = dump(sys.executable, tmp_path / "dump")
    whole = faulthandler.parse(text)
    for size in range(len(text)):
        (tmp_path / "cut").write_text(text[:size])
        evidence = faulthandler.read(tmp_path / "cut")
        threads = evidence.data["threads"]
        assert len(threads) <= len(whole)
        for got, true in zip(threads, whole, strict=False):
            # Frames were inserted innermost first: what is there is the inner end, and its last line may be cut in the function's name.
            assert len(got["frames"]) <= len(true["frames"])
            if len(got["frames"]) > 1:
                assert got["frames"][-1] == true["frames"][-1]


@pytest.mark.parametrize(
    "last",
    [
        '  File "/srv/app.p',
        '  File "/srv/app.py", line 6',
        "Thread 0x00007f00 (most recent",
        "Thread 0x00007f00000000a0 (most recent call first):",
    ],
)
def test_a_dump_that_ends_in_the_middle_is_not_complete(tmp_path, last):
    text = 'Timeout (0:00:00.500000)!\nThread 0x00007f00000000b0 (most recent call first):\n  File "/srv/app.py", line 5 in first\n'
    (tmp_path / "dump").write_text(text)
    assert faulthandler.read(tmp_path / "dump").data["complete"] is True
    (tmp_path / "dump").write_text(text + last)
    assert faulthandler.read(tmp_path / "dump").data["complete"] is False
    assert faulthandler.read(tmp_path / "dump").data["threads"][0]["frames"][0]["function"] == "first"


def test_a_dump_without_any_thread_is_not_complete(tmp_path):
    (tmp_path / "dump").write_text("Timeout (0:00:00.500000)!\n")
    assert faulthandler.read(tmp_path / "dump").data["complete"] is False


def test_a_timer_that_never_fired_is_said(tmp_path):
    (tmp_path / "dump").touch()
    evidence = faulthandler.capture(Target(os.getpid(), faulthandler_file=tmp_path / "dump"))
    assert "not fired" in evidence.error
    assert evidence.data["threads"] == []


def test_no_file_and_no_agent(tmp_path):
    assert "cannot read" in faulthandler.read(tmp_path / "none").error
    assert "hangwatch run" in faulthandler.capture(Target(os.getpid())).hint


def test_own_threads_get_their_names(tmp_path):
    import faulthandler as timer

    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="worker-7", daemon=True)
    thread.start()
    with open(tmp_path / "dump", "w") as file:
        timer.dump_traceback_later(0.01, file=file)
        until(lambda: "Timeout" in (tmp_path / "dump").read_text() and "File" in (tmp_path / "dump").read_text())
        timer.cancel_dump_traceback_later()
    done.set()
    thread.join()
    found = {t["ident"]: t for t in faulthandler.parse((tmp_path / "dump").read_text())}
    assert thread.ident in found
    evidence = faulthandler.read(tmp_path / "dump", os.getpid())
    assert threading.main_thread().native_id in [t.get("native_id") for t in evidence.data["threads"]]


def test_words_of_newer_interpreters():
    """3.14 writes the thread's name; a collection and the cut of a deep stack have lines of their own."""
    text = (
        "Timeout (0:00:00.500000)!\n"
        "Current thread 0x00007f00000000a0 [worker-7] (most recent call first):\n"
        "  Garbage-collecting\n"
        '  File "/srv/a [b].py", line 3 in inner\n'
        '  File "/srv/a.py", line ??? in <module>\n'
        "  ...\n"
    )
    (thread,) = faulthandler.parse(text)
    assert (thread["ident"], thread["name"], thread["current"], thread["collecting"]) == (0x7F00000000A0, "worker-7", True, True)
    assert thread["frames"] == [
        {"file": "/srv/a.py", "line": 0, "function": "<module>"},
        {"file": "/srv/a [b].py", "line": 3, "function": "inner"},
    ]
