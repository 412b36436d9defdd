"""The control socket: who may ask, what it answers, and that nothing is left of it."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading

import pytest

from hangwatch.control import FILE_NAME, MAX_QUESTION, THREAD_NAME, Control
from tests.processes import until


def broken():
    raise RuntimeError("of a verb")


@pytest.fixture
def control(tmp_path):
    folder = tmp_path / "worker"
    folder.mkdir(mode=0o700)
    made = Control(lambda: folder, {"requests": lambda: [1, 2], "broken": broken})
    made.start()
    until(lambda: made.path is not None and made.path.exists())
    yield made
    made.stop()


class Client:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(5)
        until(lambda: self.socket.connect_ex(str(path)) == 0)
        self.file = self.socket.makefile("rb")
        self.greeting = json.loads(self.file.readline())

    def ask(self, line):
        self.socket.sendall(line + b"\n")
        return json.loads(self.file.readline())

    def close(self):
        self.file.close()
        self.socket.close()


def test_answers_its_verbs_and_nothing_else(control):
    client = Client(control.path)
    assert client.greeting["pid"] == os.getpid()
    assert client.greeting["verbs"] == ["broken", "requests"]
    assert client.ask(b'{"ask": "requests"}') == {"answer": [1, 2]}
    assert client.ask(b'{"ask": "broken"}') == {"error": "RuntimeError: of a verb"}
    assert "error" in client.ask(b'{"ask": "cancel"}')
    assert "error" in client.ask(b"\x00\xff")
    assert "error" in client.ask(b"[]")
    assert client.ask(b'{"ask": "requests"}') == {"answer": [1, 2]}
    client.close()


def test_only_this_user_may_open_it(control):
    mode = os.stat(control.path).st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_another_user_is_turned_away(control):
    """Even where the file's mode would let them in."""
    os.chmod(control.path, 0o666)
    for folder in (control.path.parent, *control.path.parent.parents):
        if folder.stat().st_uid == 0 and len(folder.parts) > 2:
            os.chmod(folder, 0o755)
    seen_by, said = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534)
            other = socket.socket(socket.AF_UNIX)
            other.settimeout(5)
            other.connect(str(control.path))
            os.write(said, b"heard:" + other.recv(100))
        except OSError as error:
            os.write(said, b"error:" + str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(seen_by, 200) == b"heard:"
    os.close(seen_by)
    os.close(said)


def test_one_that_talks_too_long_is_cut_off(control):
    client = Client(control.path)
    with pytest.raises(OSError):
        for _ in range(100):
            client.socket.sendall(b"x" * MAX_QUESTION)
    client.close()
    assert Client(control.path).ask(b'{"ask": "requests"}') == {"answer": [1, 2]}


def test_nothing_is_left(control):
    path = control.path
    before = threading.active_count()
    control.stop()
    assert not path.exists()
    assert threading.active_count() == before - 1
    control.stop()


def test_a_forked_child_starts_its_own(control, tmp_path):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            again = control.after_fork_in_child()
            own = tmp_path / "child"
            own.mkdir(mode=0o700)
            control._folder = lambda: own
            control.start()
            until(lambda: control.path is not None and control.path.exists())
            client = Client(control.path)
            os.write(write, json.dumps([again, client.greeting["pid"] == os.getpid()]).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert json.loads(os.read(read, 100)) == [True, True]
    os.close(read)
    os.close(write)
    assert Client(control.path).greeting["pid"] == os.getpid()


def test_a_folder_with_a_long_name(tmp_path):
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    control = Control(lambda: folder, {})
    control.start()
    until(lambda: (folder / FILE_NAME).exists())
    control.stop()
    assert list(folder.iterdir()) == []


def test_no_folder_no_socket(tmp_path):
    control = Control(lambda: None, {})
    control.start()
    control.stop()
    assert THREAD_NAME not in {thread.name for thread in threading.enumerate()}
