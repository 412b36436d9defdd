"""A real program whose threads all wait for something that will not come; what it is told to do stands in its arguments.

Prints one JSON line when all threads have been started: {"pid", "threads": {mode: native id}, "fds": {...}, "ports": {...}}.
Run by `tests.processes.waiting(...)`. It ends when its standard input is closed, so that nothing is left behind.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import socket
import sys
import threading
import time

listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
server_side, _ = listener.accept()
six = socket.create_server(("::1", 0), family=socket.AF_INET6) if socket.has_ipv6 and os.path.exists("/proc/net/if_inet6") else None
reading_end, writing_end = os.pipe()
pair = socket.socketpair()
lock = threading.Lock()
lock.acquire()


def fill():
    client.setblocking(False)
    try:
        while client.send(b"x" * 65536):
            pass
    except BlockingIOError:
        pass
    client.setblocking(True)
    client.send(b"more than the peer ever takes" * 1000)


def connect_to_full_backlog():
    """A listening socket with a full queue drops further SYNs: connect() then waits like for a dead host."""
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    keep = [full]
    for _ in range(8):
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex(full.getsockname())
        keep.append(s)
    facts["ports"]["full"] = full.getsockname()[1]
    blocked = socket.socket()
    blocked.connect(full.getsockname())


def poll_two():
    poller = select.poll()
    poller.register(client.fileno(), select.POLLIN)
    poller.register(reading_end, select.POLLIN)
    poller.poll(3_600_000)


def epoll():
    poller = select.epoll()
    poller.register(reading_end, select.POLLIN)
    poller.poll()


def spin():
    while True:
        pass


MODES = {
    "recv": lambda: client.recv(1),
    "recv-unix": lambda: pair[0].recv(1),
    "send": fill,
    "connect": connect_to_full_backlog,
    "accept": listener.accept,
    "pipe": lambda: os.read(reading_end, 1),
    "lock": lock.acquire,
    "lock-with-timeout": lambda: lock.acquire(timeout=3600),
    "poll": poll_two,
    "select": lambda: select.select([client], [], [], 3600),
    "epoll": epoll,
    "sleep": lambda: time.sleep(3600),
    "spin": spin,
    # A call into C that keeps the GIL: no other Python thread of this process runs from here on.
    "hold-gil": lambda: ctypes.PyDLL(None).usleep(600_000_000),
}
facts: dict = {
    "pid": os.getpid(),
    "threads": {},
    "fds": {"client": client.fileno(), "server_side": server_side.fileno(), "listener": listener.fileno(), "pipe": reading_end},
    "ports": {"listener": listener.getsockname()[1], "client": client.getsockname()[1]},
}


def begin(mode):
    facts["threads"][mode] = threading.get_native_id()
    started.release()
    if mode == "hold-gil":
        told.acquire()
    MODES[mode]()


def end_with_the_test():
    sys.stdin.read()
    os._exit(0)


started, told = threading.Semaphore(0), threading.Semaphore(0)
for mode in sys.argv[1:]:
    threading.Thread(target=begin, args=(mode,), name=f"waits-{mode}", daemon=True).start()
    started.acquire()
if "connect" in sys.argv:
    while "full" not in facts["ports"]:
        time.sleep(0.01)
print(json.dumps(facts), flush=True)
told.release()
end_with_the_test()
