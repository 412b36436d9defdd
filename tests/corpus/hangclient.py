"""Blocking HTTP helper shared by every trigger.py (standard library only, 127.0.0.1 only)."""

import argparse
import http.client
import os
import socket
import struct
import threading
import time
from pathlib import Path


def args(hang_after=6.0):
    ap = argparse.ArgumentParser()
    ap.add_argument("--port", type=int, default=8000)
    ap.add_argument("--hang-after", type=float, default=hang_after, help="seconds without an answer after which a request counts as hung")
    ap.add_argument("--hold", type=float, default=0.0, help="keep the stuck connections open this much longer before exiting")
    a = ap.parse_args()
    wait_up(a)
    return a


def wait_up(a, limit=10.0):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", a.port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    print("server not reachable")
    os._exit(2)


class Req(threading.Thread):
    """One request in its own thread; .status is None while unanswered."""

    def __init__(self, a, method, path, body=None, headers=None, timeout=25.0):
        super().__init__(daemon=True)
        self.a, self.method, self.path, self.body = a, method, path, body
        self.headers, self.timeout = headers or {}, timeout
        self.status = self.error = self.text = None
        self.started = time.monotonic()
        self.took = None
        self.start()

    def run(self):
        try:
            conn = http.client.HTTPConnection("127.0.0.1", self.a.port, timeout=self.timeout)
            conn.request(self.method, self.path, self.body, self.headers)
            resp = conn.getresponse()
            self.text = resp.read(65536)
            self.status = resp.status
            conn.close()
        except Exception as exc:
            self.error = exc
        self.took = time.monotonic() - self.started

    @property
    def answered(self):
        return self.took is not None

    def __str__(self):
        what = "no answer" if not self.answered else (self.error and repr(self.error)) or self.status
        took = time.monotonic() - self.started if self.took is None else self.took
        return f"{self.method} {self.path}: {what} after {took:.2f}s"


def fire(a, path, method="GET", **kw):
    return Req(a, method, path, **kw)


def ask(a, path, method="GET", limit=10.0, **kw):
    """Fire and wait; the caller looks at .answered / .status."""
    r = Req(a, method, path, **kw)
    r.join(limit)
    return r


def drop(a, path, after, method="GET", headers="", body=b"", reset=False):
    """Send a request, never read the answer, hang up after `after` seconds."""
    s = socket.create_connection(("127.0.0.1", a.port), 5)
    s.sendall((f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n").encode() + body)
    time.sleep(after)
    if reset:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def open_slow_reader(a, path, rcvbuf=4096):
    """Send a request over a socket with a tiny receive buffer and never read."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    s.connect(("127.0.0.1", a.port))
    s.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    return s


def unanswered(reqs, limit):
    end = time.monotonic() + limit
    for r in reqs:
        r.join(max(0.0, end - time.monotonic()))
    return [r for r in reqs if not r.answered]


def server_pid(port):
    """Pid that listens on 127.0.0.1:port (from /proc)."""
    want = f":{port:04X}"
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        f = line.split()
        if f[1].endswith(want) and f[3] == "0A":
            inodes.add(f"socket:[{f[9]}]")
    pids = []
    for p in os.listdir("/proc"):
        if p.isdigit():
            try:
                for fd in os.listdir(f"/proc/{p}/fd"):
                    if os.readlink(f"/proc/{p}/fd/{fd}") in inodes:
                        pids.append(int(p))
                        break
            except OSError:
                pass
    return min(pids) if pids else None


def pid_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def verdict(a, stuck, reqs=(), note=""):
    for r in reqs:
        print("  ", r)
    if note:
        print("  ", note)
    if stuck:
        print("HUNG", flush=True)
        time.sleep(a.hold)
        os._exit(3)
    print("OK", flush=True)
    os._exit(0)
