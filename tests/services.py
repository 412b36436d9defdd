"""Real services as processes of their own, for tests of what runs inside; all of them are ended, whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.bench_incident import free_port

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 30.0

#: An ASGI application that can be asked to misbehave, one path for each way.
APP = """
import asyncio, ctypes, os, threading, time

lock = asyncio.Lock()
never = asyncio.Event()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if os.environ.get("STUCK_IN") == message["type"]:
                await never.wait()
            if os.environ.get("SLOW_START") and message["type"] == "lifespan.startup":
                time.sleep(float(os.environ["SLOW_START"]))
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    path = scope["path"]
    if path == "/park":
        await asyncio.wait([asyncio.ensure_future(never.wait()), asyncio.ensure_future(wait_for_end(receive))], return_when="FIRST_COMPLETED")
    elif path == "/release":
        never.set()
    elif path == "/block":
        time.sleep(1.5)
    elif path == "/crowd":
        for _ in range(40):
            asyncio.get_running_loop().call_soon(time.sleep, 0.1)
        await asyncio.sleep(0)
    elif path == "/gil":
        ctypes.PyDLL(None).usleep(int(float(os.environ.get("HELD_S", "1.2")) * 1e6))
    elif path == "/background":
        await answer(send)
        await asyncio.sleep(3)
        return
    elif path == "/fork":
        if os.fork() == 0:
            os._exit(0)
    await answer(send, str(os.getpid()).encode())

async def wait_for_end(receive):
    while (await receive())["type"] != "http.disconnect":
        pass

async def answer(send, body=b"ok"):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})
"""


class Service:
    def __init__(self, process: subprocess.Popen[str], port: int, spool: Path, log: Path) -> None:
        self.process = process
        self.port = port
        self.spool = spool
        self.log = log

    def get(self, path: str, timeout_s: float = 10.0) -> str | None:
        """The body of the answer, None when none came in time."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout_s) as s:
                s.settimeout(timeout_s)
                s.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
                said = b""
                while part := s.recv(65536):
                    said += part
        except OSError:
            return None
        return said.partition(b"\r\n\r\n")[2].decode()

    def open(self, path: str) -> socket.socket:
        """A request whose answer nobody waits for yet."""
        s = socket.create_connection(("127.0.0.1", self.port), 10)
        s.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        return s

    def incidents(self) -> list[dict[str, Any]]:
        found = []
        for path in sorted(self.spool.glob("incidents/[0-9]*/incident.json")):
            with contextlib.suppress(OSError, ValueError):
                found.append(json.loads(path.read_text()))
        return found

    def until(self, done: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """The incidents, as soon as they are as wanted."""
        end = time.monotonic() + PATIENCE_S
        while not done(found := self.incidents()):
            assert time.monotonic() < end, (
                f"only {[(i['stall']['kind'], i['count'], i['closed_at']) for i in found]}\n{self.log.read_text()[-2000:]}"
            )
            time.sleep(0.05)
        return found


@contextlib.contextmanager
def running(tmp_path: Path, command: Callable[[int], list[str]], *, listens: bool = True, **environ: str) -> Iterator[Service]:
    """``command(port)`` under `hangwatch run`, in a process group of its own."""
    (tmp_path / "service.py").write_text(APP)
    port, spool, log = free_port(), tmp_path / "spool", tmp_path / "log"
    options = ["--spool", str(spool), "--stall-after", "1", "--loop-after", "0.5", "--no-pyspy"]
    line = [sys.executable, "-m", "hangwatch", "run", *options, "--", *command(port)]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "PYTHONUNBUFFERED": "1", "HANGWATCH_DEBUG": "1", **environ}
    with open(log, "w") as out:
        process = subprocess.Popen(
            line, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, text=True, start_new_session=True
        )
    try:
        if listens:
            _listening(port, process, log)
        service = Service(process, port, spool, log)
        if listens:
            service.get("/")  # while its start-up has not quite ended, a blocked loop is no stall
        yield service
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _listening(port: int, process: subprocess.Popen[str], log: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert process.poll() is None and time.monotonic() < end, log.read_text()[-2000:]
            time.sleep(0.05)


def uvicorn(*options: str) -> Callable[[int], list[str]]:
    return lambda port: [sys.executable, "-m", "uvicorn", "service:app", "--port", str(port), "--log-level", "warning", *options]
