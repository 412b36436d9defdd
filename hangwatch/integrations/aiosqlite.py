"""aiosqlite: each connection has a thread, and a queue of what that thread is to do."""

from __future__ import annotations

from hangwatch.integrations.base import Look, Sighting, Spot
from hangwatch.reading.view import ObjectView
from hangwatch.records import FOREVER, Plain, Primitive

NAME = "aiosqlite"
DISTRIBUTION = "aiosqlite"
TESTED = ">=0.17,<1"

_FILE = "/aiosqlite/core.py"


def _thread_of(connection: ObjectView, look: Look) -> str | None:
    """Up to 0.21 the connection is the thread; since, the thread's frame has its queue."""
    queue = connection.attr("_tx")
    for thread in look.desk.reader.threads():
        for frame in thread.frames()[:6]:
            if not frame.file.endswith(_FILE):
                continue
            own, whole = frame.local("tx"), frame.local("self")
            if (own is not None and queue is not None and own.id == queue.id) or (whole is not None and whole.id == connection.id):
                return f"thread:{thread.native_id}"
    return None


def _execute(look: Look) -> Sighting | None:
    connection, future = look.frame.local("self"), look.awaited
    if connection is None or future is None or look.index != len(look.chain) - 1:
        return None
    thread = _thread_of(connection, look)
    queue = connection.attr("_tx")
    state: dict[str, Plain] = {"queued": len(queue.items(100)) if queue is not None else None, "dead_threads": None if thread else 1}
    known: dict[str, Plain] = {name: value for name, value in state.items() if value}
    holders = (thread,) if thread else ()
    return Sighting(
        Primitive(look.desk.id_of("job", future), "job", "a job of an aiosqlite connection", NAME, known, holders=holders), "execute"
    )


def _idle(look: Look) -> Sighting | None:
    """A connection's thread without work. It runs SQLite from the same frame: the system call tells the two apart."""
    queue = look.frame.local("tx")
    if queue is None or look.index != len(look.chain) - 1 or not _waits_for_a_lock(look):
        return None
    label = "work for an aiosqlite connection's thread"
    return Sighting(Primitive(look.desk.id_of("thread-queue", queue), "thread-queue", label, NAME, patience_ns=FOREVER), "idle")


def _waits_for_a_lock(look: Look) -> bool:
    """As who takes from an empty queue does; SQLite computes, reads, or naps until another connection's lock is gone."""
    number = look.waiter_id.rpartition(":")[2]
    thread = next((t for t in look.desk.reader.threads() if str(t.native_id) == number), None)
    return thread is None or (thread.syscall or "").startswith("futex")


WAITS = (
    Spot(_FILE, "_execute", _execute, target="aiosqlite.core:Connection._execute"),
    Spot(_FILE, "_connection_worker_thread", _idle, target="aiosqlite.core:_connection_worker_thread"),
)
