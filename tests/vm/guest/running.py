"""Services in their roots, clients, and hangwatch as a command, inside the virtual machine."""

import contextlib
import json
import os
import queue
import resource
import socket
import subprocess
import sys
import threading
import time

#: An emulated processor is some twenty times slower than a real one: these are there so that nothing lasts for ever.
START_S, COMMAND_S = 180, 180


class Service:
    """A uvicorn in its own root. ``said`` is what it wrote."""

    def __init__(self, target, port, agent=None):
        self.target, self.port = target, port
        home = "/roots/" + target["root"]
        environ = {
            "PYTHONPATH": f"/opt/{target['version']}:/srv:/srv/guest", "PATH": "/usr/bin", "HOME": "/tmp",
            "PYTHONUNBUFFERED": "1", **(agent or {}),
        }  # fmt: skip
        inside = home if os.path.isdir(home + "/usr/bin") else "/"
        app = "installed:app" if agent else "service:app"
        command = [f"/usr/bin/python{target['version']}", "-m", "uvicorn", app, "--loop", target["loop"], "--port", str(port)]
        self.log = f"/tmp/service-{port}.log"
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen(
                [*command, "--log-level", "warning", "--timeout-keep-alive", "600"],
                env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=lambda: enter(inside),
            )  # fmt: skip
        self.pid = self.child.pid
        self.clients = []

    def ready(self):
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self.child.poll() is not None:
                raise AssertionError(f"the service ended: {self.said()[-400:]}")
            with contextlib.suppress(OSError):
                client = Client(self.port)
                client.ask("/")
                client.until(b"ok")
                client.close()
                return
            time.sleep(0.2)
        raise AssertionError(f"the service did not answer: {self.said()[-400:]}")

    def said(self):
        with open(self.log, errors="replace") as file:
            return file.read()

    def ask(self, path, window=None):
        client = Client(self.port, window)
        self.clients.append(client)
        return client.ask(path)

    def close(self):
        self.child.kill()
        self.child.wait()
        for client in self.clients:
            client.close()


def enter(root):
    os.chroot(root)
    os.chdir("/")
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class Client:
    """One connection, kept open."""

    def __init__(self, port, window=None):
        self.socket = socket.socket()
        if window:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self.socket.settimeout(START_S)
        self.socket.connect(("127.0.0.1", port))
        self.address = "{}:{}".format(*self.socket.getsockname())

    def ask(self, path):
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return self

    def until(self, end):
        got = b""
        while not got.endswith(end):
            piece = self.socket.recv(65536)
            if not piece:
                raise OSError(f"closed after {got!r}")
            got += piece
        return got

    def close(self):
        self.socket.close()


def hangwatch(*words, expect=(0, 1), before=None):
    """(exit status, standard output, standard error) of the command; ``before`` runs in its process first."""
    done = subprocess.run(
        [sys.executable, "-m", "hangwatch", *words],
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        stdin=subprocess.DEVNULL,
        preexec_fn=before,
    )
    if done.returncode not in expect:
        raise AssertionError(f"hangwatch {' '.join(words)} ended with {done.returncode}: {done.stdout[-400:]} {done.stderr[-1500:]}")
    return done.returncode, done.stdout, done.stderr


def look(service):
    """The incident that ``hangwatch attach`` tells."""
    return json.loads(hangwatch("attach", str(service.pid), "--json")[1])


class Watching:
    """``hangwatch watch --json`` beside a service; its incidents as they come."""

    def __init__(self, service, *options):
        self.incidents, self.notes = [], []
        self._lines = queue.Queue()
        words = ["watch", str(service.pid), "--json", "--spool", "/tmp/spool", "--loop-after", "2", "--stall-after", "4", "--cpu", "90"]
        self.child = subprocess.Popen(
            [sys.executable, "-m", "hangwatch", *words, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._note, daemon=True).start()

    def _read(self):
        for line in self.child.stdout:
            self._lines.put(json.loads(line))

    def _note(self):
        self.notes.extend(self.child.stderr)

    def until(self, wanted, seconds=90):
        """The first incident for which ``wanted`` is true, those told before included."""
        end = time.monotonic() + seconds
        seen = 0
        while True:
            while seen < len(self.incidents):
                if wanted(self.incidents[seen]):
                    return self.incidents[seen]
                seen += 1
            try:
                self.incidents.append(self._lines.get(timeout=max(0.01, end - time.monotonic())))
            except queue.Empty:
                told = [
                    (
                        i["stall"]["kind"],
                        [f["cause"] for f in i["findings"]],
                        facts(i).get("verdict"),
                        [c["state"] for c in facts(i).get("connections", ())],
                    )
                    for i in self.incidents
                ]
                raise AssertionError(
                    f"not told in {seconds} s; told: {told}; notes: {self.notes[-5:]}; ended: {self.child.poll()}"
                ) from None

    def close(self):
        self.child.terminate()
        try:
            self.child.wait(30)
        except subprocess.TimeoutExpired:
            self.child.kill()


def facts(incident):
    """What the kernel said, as the watcher kept it."""
    return next((evidence["data"] for evidence in incident["evidence"] if evidence["tool"] == "ebpf"), {}) or {}
