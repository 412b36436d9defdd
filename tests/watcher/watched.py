"""A real uvicorn, clients of every kind, and a watcher beside it."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

from hangwatch.config import Config
from hangwatch.watcher import Choice, Watcher
from tests.processes import running, until

ROOT = Path(__file__).resolve().parents[2]
LOOP_AFTER_S, STALL_AFTER_S = 0.3, 1.0


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def uvicorn(policy="asyncio", *options, python=sys.executable, under=()):
    """The running service; ``.port`` is where. ``under``: a module that runs it, with what goes before the command."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = free_port()
        command = [
            python,
            "-m",
            *under,
            "uvicorn",
            "tests.watcher.service:app",
            "--loop",
            policy,
            "--port",
            str(port),
            "--log-level",
            "critical",
        ]
        environ = {**os.environ, "SILENT": str(silent.getsockname()[1]), "PYTHONPATH": str(ROOT)}
        with running([*command, "--timeout-keep-alive", "600", *options], cwd=ROOT, env=environ) as child:
            child.port = port
            until(lambda: answers(port) or child.poll() is not None)
            assert child.poll() is None
            yield child


def answers(port):
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        return True


class Client:
    """One connection, kept open until the test ends."""

    def __init__(self, port, *, window=None, tls=None):
        self.socket = socket.socket()
        if window:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self.socket.connect(("127.0.0.1", port))
        self.address = "{}:{}".format(*self.socket.getsockname())
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket)
        self.socket.settimeout(30)

    def ask(self, path, method="GET", headers=(), body=b""):
        head = "".join(f"{line}\r\n" for line in (f"{method} {path} HTTP/1.1", "Host: x", *headers))
        self.socket.sendall(f"{head}\r\n".encode() + body)
        return self

    def answer(self, end=b"\r\n\r\nok"):
        got = b""
        while not got.endswith(end):
            piece = self.socket.recv(65536)
            assert piece, got
            got += piece
        return got

    def websocket(self):
        keys = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: MDAwMDAwMDAwMDAwMDAwMA=="]
        self.ask("/", headers=keys)
        assert b"101" in self.socket.recv(4096)
        return self

    def say(self):
        self.socket.sendall(b"\x81\x82\0\0\0\0hi")

    def close(self):
        self.socket.close()


def no_verification():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def certificate(folder):
    """A key and a certificate of its own, made by openssl; None without it."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    with contextlib.suppress(FileNotFoundError):
        done = subprocess.run([*command, "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"], capture_output=True)
        if done.returncode == 0:
            return f"{folder}/key.pem", f"{folder}/cert.pem"
    return None


class Told(list):
    """Incidents, as they are told. ``at`` holds when, in monotonic ns."""

    def __init__(self):
        super().__init__()
        self.at = []

    def take(self, incident):
        self.at.append(time.monotonic_ns())
        self.append(incident)


@contextlib.contextmanager
def watching(spool, *names, **options):
    """A watcher on a thread of its own; what it tells."""
    told = Told()
    limits = {
        "stall_after": options.pop("stall_after", STALL_AFTER_S),
        "loop_after": options.pop("loop_after", LOOP_AFTER_S),
        "routes": options.pop("routes", {}),
    }
    config = Config.make({}, spool=spool, again_after=1e-3, **limits)
    choice = options.pop("choice", None) or Choice(tuple(map(str, names)))
    watcher = Watcher(config, choice, told=told.take, note=lambda text: told.notes.append(text), rate_per_minute=0, **options)
    told.notes, told.watcher = [], watcher
    thread = threading.Thread(target=watcher.run)
    thread.start()
    try:
        until(lambda: watcher.roster.workers or not names or told.notes)
        # One reading after the worker was found.
        time.sleep(0.3)
        yield told
    finally:
        watcher.stop()
        thread.join(30)


def waits_for(told, wanted, begun=0):
    """The first incident after ``begun`` for which ``wanted(incident)`` is true."""
    return until(lambda: next((incident for incident in told[begun:] if wanted(incident)), None))


def kernel_facts(incident):
    (found,) = [evidence for evidence in incident.evidence if evidence.tool == "ebpf"]
    return found
