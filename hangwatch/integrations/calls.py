"""A thread that no frame explains, in a system call that can last: inside a C library (libpq, SQLite), opening a FIFO, waiting for a file's lock."""

from __future__ import annotations

import re

from hangwatch.integrations.base import Sighting
from hangwatch.reading.view import ThreadView
from hangwatch.records import Plain, Primitive

#: Calls in which a thread waits for somebody or something else. Not futex: that may be any lock, and the frames know it better.
_LAST = frozenset((
    "open", "openat", "flock", "fcntl", "read", "readv", "pread64", "write", "writev", "recvfrom", "recvmsg", "sendto", "sendmsg", "connect",
    "poll", "ppoll", "select", "pselect6", "wait4", "waitid", "fsync", "fdatasync", "ioctl", "clock_nanosleep", "nanosleep",
))  # fmt: skip
_PEER = re.compile(r"\b(?:tcp|udp)6? (\S+:\d+)")


def in_a_call(thread: ThreadView) -> Sighting | None:
    """``peer`` when the call is on a socket whose other side is known, ``timer`` when it sleeps, else ``file``. None for a thread that runs or waits for a lock."""
    text = thread.syscall
    name = (text or "").partition(" ")[0]
    if text is None or name not in _LAST:
        return None
    state: dict[str, Plain] = {"system call": text}
    peer = _PEER.search(text)
    if peer is not None:
        return Sighting(Primitive(f"peer:{thread.native_id}", "peer", f"the peer {peer[1]}", "kernel", {**state, "address": peer[1]}), name)
    if name.endswith("nanosleep"):
        return Sighting(Primitive(f"timer:{thread.native_id}", "timer", f"the timer of {name} in C code", "kernel", state), name)
    return Sighting(Primitive(f"file:{thread.native_id}", "file", f"the file of the system call {text}", "kernel", state), name)
