"""aiomonitor's console with hangwatch's commands: what it shows, and what cannot be reached in it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hangwatch.monitor import holder_lines, stall_lines, wait_lines
from tests.benchmarks.bench_incident import free_port
from tests.cases import Scene
from tests.processes import running, until

SERVICE = """
import asyncio, sys
import hangwatch
hangwatch.install(console=True, console_port=int(sys.argv[1]), spool=sys.argv[2], pyspy=False, console_allows=sys.argv[3:])
async def hold(lock):
    async with lock:
        await asyncio.Event().wait()
async def want(lock):
    async with lock:
        pass
async def main():
    lock = asyncio.Lock()
    tasks = [asyncio.create_task(hold(lock), name="holder")]
    await asyncio.sleep(0.1)
    tasks.append(asyncio.create_task(want(lock), name="wanter"))
    await asyncio.sleep(0.1)
    print(id(tasks[1]), flush=True)
    while True:
        if tasks[1].done():
            print("cancelled", flush=True)
            return
        await asyncio.sleep(0.05)
asyncio.run(main())
"""
PROMPT = "hangwatch >"


class Telnet:
    def __init__(self, port):
        self.socket = until(lambda: connected(port))
        self.socket.sendall(bytes([255, 250, 31, 0, 200, 0, 50, 255, 240, 255, 250, 24, 0]) + b"xterm" + bytes([255, 240]))
        self.heard()

    def heard(self, patience_s=20.0):
        """What comes until the next prompt."""
        text, end = "", time.monotonic() + patience_s
        self.socket.settimeout(0.5)
        while time.monotonic() < end:
            try:
                part = self.socket.recv(65536)
            except TimeoutError:
                if text.rstrip().endswith(PROMPT):
                    return text
                continue
            if not part:
                return text
            text += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", part.decode("utf-8", "replace"))
        return text

    def say(self, line):
        self.socket.sendall(line.encode() + b"\r")
        return self.heard()


def connected(port):
    try:
        return socket.create_connection(("127.0.0.1", port), 10)
    except OSError:
        return None


def descriptors(pid):
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            yield os.readlink(f"/proc/{pid}/fd/{name}")


@pytest.fixture
def service(tmp_path, request):
    pytest.importorskip("aiomonitor")
    port = free_port()
    allowed = getattr(request, "param", [])
    with running([sys.executable, "-c", SERVICE, str(port), str(tmp_path / "spool"), *allowed], stderr=subprocess.PIPE) as child:
        task = child.stdout.readline().decode().strip()
        yield child, port, task


def test_shows_who_waits_for_whom(service):
    _, port, _ = service
    console = Telnet(port)
    assert re.search(r"wanter waits .*for asyncio\.Lock", said := console.say("waits"))
    assert "bare future" not in said  # the console's own
    assert re.search(r"asyncio\.Lock [\w ]+: holder has it, 1 wait for it", console.say("holders"))
    assert "nothing is stalled" in console.say("stalls")
    assert "holders" in console.say("help")
    assert "wanter" in console.say("ps")


def test_nothing_in_it_acts(service):
    child, port, task = service
    console = Telnet(port)
    for line in (f"cancel {task}", f"ca {task}", "console", "signal SIGKILL", f"cancel {task} --help"):
        assert "No such command" in console.say(line)
    listed = console.say("help")
    assert not re.search(r"^\s*(cancel|console|signal)", listed, re.M)
    assert child.poll() is None
    assert "wanter" in console.say("ps")


def test_no_web_page_and_loopback_only(service):
    child, port, _ = service
    Telnet(port)
    inodes = set(descriptors(child.pid))
    listening = []
    for line in [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]:
        columns = line.split()
        if columns[3] == "0A" and f"socket:[{columns[9]}]" in inodes:
            listening.append(columns[1])
    assert listening == [f"0100007F:{port:04X}"]


def test_a_client_that_drops_leaves_nothing_in_the_services_output(service):
    """With a reset, at the prompt and while a command answers; and a client that is still there when the service ends."""
    child, port, _ = service
    for line in ("", "waits\r", "ps\r" * 20):
        console = Telnet(port)
        console.socket.sendall(line.encode())
        console.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        console.socket.close()
    still = Telnet(port)
    assert "wanter" in still.say("ps")
    child.terminate()
    _, said = child.communicate(timeout=20)
    assert [line for line in said.decode().splitlines() if not line.startswith("hangwatch: console: telnet")] == [], said.decode()


@pytest.mark.parametrize("service", [["cancel"]], indirect=True)
def test_what_is_named_is_there(service):
    child, port, task = service
    console = Telnet(port)
    console.socket.sendall(f"cancel {task}\r".encode())
    assert child.stdout.readline() == b"cancelled\n"


def test_without_aiomonitor_one_clear_line(tmp_path):
    (tmp_path / "aiomonitor.py").write_text("raise ImportError('No module named aiomonitor')")
    command = [sys.executable, "-c", "import sys; sys.path.insert(0, '.')\n" + SERVICE, str(free_port()), "spool"]
    with running(command, cwd=tmp_path, stderr=subprocess.PIPE) as child:
        assert b"pip install 'hangwatch[console]'" in child.stderr.readline()
        assert child.poll() is None


def test_lines_of_nothing():
    empty = Scene().snapshot()
    assert list(stall_lines([], 0.0)) == ["nothing is stalled"]
    assert list(wait_lines(empty)) == ["nobody waits"]
    assert list(holder_lines(empty)) == ["nothing is held"]
