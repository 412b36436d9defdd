"""Threads: what one is blocked in (locks, conditions, events, queues, joins, futures, sockets, child processes, imports), and what it holds.

Python's own wrappers are recognised by frame; a call that goes straight into C (``lock.acquire()``, ``with lock:``,
``sock.recv()``) by what the innermost frame is calling.
"""

from __future__ import annotations

from hangwatch.integrations import executors
from hangwatch.integrations.asyncio_streams import socket_peer
from hangwatch.integrations.base import Desk, Look, Sighting, Spot
from hangwatch.reading.view import FrameView, ObjectView, is_a, length, number, plain
from hangwatch.records import FOREVER, Plain, Primitive

NAME = "threading"
DISTRIBUTION = None
TESTED = ">=3.10,<3.16"

_THREADING = "/threading.py"
_QUEUE = "/queue.py"
_IMPORTLIB = "<frozen importlib._bootstrap>"
_LOCK_TYPES = ("_thread.lock", "_thread.RLock", "threading._RLock")


def thread_of(ident: int | None, desk: Desk) -> tuple[str, ...]:
    """The id of the thread with this ident, as holders; empty when there is none."""
    known = desk.memo.get(__name__)
    if known is None:
        known = desk.memo[__name__] = {thread.ident: thread.native_id for thread in desk.reader.threads()}
    return (f"thread:{known[ident]}",) if ident in known else ()


def lock_primitive(lock: ObjectView, desk: Desk) -> Primitive:
    """A threading.Lock or RLock. An RLock knows its owner, a Lock does not: its holder is found by open ``with`` blocks."""
    locked = plain(lock, "locked")
    holders: tuple[str, ...] = ()
    if not is_a(lock, "_thread.lock"):
        owner = number(lock, "owner") if is_a(lock, "_thread.RLock") else number(lock, "_owner")
        locked = owner is not None
        holders = thread_of(owner, desk)
    label = "threading.Lock" if is_a(lock, "_thread.lock") else "threading.RLock"
    state: dict[str, Plain] = {"locked": locked}
    if locked and not holders and not is_a(lock, "_thread.lock"):
        state["owner_gone"] = True
    return Primitive(
        desk.id_of("thread-lock", lock), "thread-lock", label, NAME, state, holders=holders, ready=None if locked is None else not locked
    )


def condition_lock(condition: ObjectView, desk: Desk) -> Primitive | None:
    lock = condition.attr("_lock")
    return lock_primitive(lock, desk) if lock is not None and is_a(lock, *_LOCK_TYPES) else None


def semaphore_primitive(semaphore: ObjectView, desk: Desk) -> Primitive:
    value = number(semaphore, "_value")
    bound = number(semaphore, "_initial_value")
    in_use = bound - value if bound is not None and value is not None else None
    ready = value > 0 if value is not None else None
    return Primitive(
        desk.id_of("semaphore", semaphore),
        "semaphore",
        "threading.Semaphore",
        NAME,
        {"value": value},
        ready=ready,
        capacity=bound,
        in_use=in_use,
    )


def _threading_wait(look: Look) -> Sighting | None:
    """Condition.wait, Event.wait and Barrier.wait of the threading module."""
    obj = look.frame.local("self")
    if obj is None:
        return None
    if is_a(obj, "threading.Condition"):
        lock = condition_lock(obj, look.desk)
        state: dict[str, Plain] = {"waiting": length(obj, "_waiters")}
        primitive = Primitive(look.desk.id_of("condition", obj), "condition", "threading.Condition", NAME, state)
        return Sighting(primitive, "wait", releases=(lock.id,) if lock is not None else ())
    if is_a(obj, "threading.Event"):
        is_set = plain(obj, "_flag")
        ready = is_set if isinstance(is_set, bool) else None
        return Sighting(
            Primitive(look.desk.id_of("thread-event", obj), "thread-event", "threading.Event", NAME, {"set": is_set}, ready=ready), "wait"
        )
    if is_a(obj, "threading.Barrier"):
        state = {"parties": number(obj, "_parties"), "arrived": number(obj, "_count")}
        return Sighting(Primitive(look.desk.id_of("barrier", obj), "barrier", "threading.Barrier", NAME, state), "wait")
    return None


def _semaphore(look: Look) -> Sighting | None:
    obj = look.frame.local("self")
    return Sighting(semaphore_primitive(obj, look.desk), "acquire") if is_a(obj, "threading.Semaphore") and obj is not None else None


def _join(look: Look) -> Sighting | None:
    thread = look.frame.local("self")
    if thread is None or not is_a(thread, "threading.Thread"):
        return None
    holders = thread_of(number(thread, "_ident"), look.desk)
    name = plain(thread, "_name")
    return Sighting(
        Primitive(look.desk.id_of("thread", thread), "thread", f"thread {name} to end", NAME, holders=holders, ready=not holders), "join"
    )


def _end_of_main(look: Look) -> Sighting | None:
    """The main program is through; the interpreter waits for every thread that is no daemon."""
    module = look.desk.reader.module("threading")
    active = module.attr("_active") if module is not None else None
    kept = [thread for _, thread in (active.pairs() if active is not None else ()) if plain(thread, "_daemonic") is False]
    holders = tuple(h for thread in kept for h in thread_of(number(thread, "_ident"), look.desk) if h != look.waiter_id)
    label = "the threads that are no daemons to end"
    return Sighting(
        Primitive(f"thread:end:{look.waiter_id}", "thread", label, NAME, {"threads": len(holders)}, holders=holders), "shutdown"
    )


def _queue(look: Look) -> Sighting | None:
    queue = look.frame.local("self")
    if queue is None or not is_a(queue, "queue.Queue"):
        return None
    size, maximum = length(queue, "queue"), number(queue, "maxsize") or 0
    unfinished, op = number(queue, "unfinished_tasks"), look.frame.name
    state: dict[str, Plain] = {"size": size, "maxsize": maximum, "unfinished": unfinished}
    ready = None
    if size is not None:
        ready = {"get": size > 0, "put": maximum <= 0 or size < maximum, "join": unfinished == 0}.get(op)
    mutex = queue.attr("mutex")
    releases = (look.desk.id_of("thread-lock", mutex),) if mutex is not None else ()
    primitive = Primitive(
        look.desk.id_of("thread-queue", queue),
        "thread-queue",
        "queue.Queue",
        NAME,
        state,
        ready=ready,
        capacity=maximum or None,
        in_use=size,
    )
    return Sighting(primitive, op, releases=releases)


def _result(look: Look) -> Sighting | None:
    future = look.frame.local("self")
    if future is None or not is_a(future, "concurrent.futures._base.Future"):
        return None
    primitive = executors.job_primitive(future, look.desk)
    condition = future.attr("_condition")
    lock = condition_lock(condition, look.desk) if condition is not None else None
    return Sighting(primitive, look.frame.name, releases=(lock.id,) if lock is not None else ())


def _idle_worker(look: Look) -> Sighting | None:
    """A pool's thread that waits for work may do so for ever."""
    queue = look.frame.local("work_queue")
    if queue is None or look.index != len(look.chain) - 1:
        return None
    state: dict[str, Plain] = {"size": len(queue.items(10_000))}
    primitive = Primitive(
        look.desk.id_of("thread-queue", queue), "thread-queue", "work for a thread pool", NAME, state, patience_ns=FOREVER
    )
    return Sighting(primitive, "idle")


def _child(look: Look) -> Sighting | None:
    """subprocess.Popen.wait and communicate."""
    process = look.frame.local("self")
    if process is None or not is_a(process, "subprocess.Popen"):
        return None
    pid, returned = number(process, "pid"), number(process, "returncode")
    state: dict[str, Plain] = {"pid": pid, "returncode": returned}
    primitive = Primitive(
        look.desk.id_of("process", process), "process", f"process {pid}", "subprocess", state, ready=True if returned is not None else None
    )
    return Sighting(primitive, look.frame.name.lstrip("_"))


def _multiprocess_child(look: Look) -> Sighting | None:
    popen = look.frame.local("self")
    pid = number(popen, "pid")
    if popen is None or pid is None:
        return None
    return Sighting(Primitive(look.desk.id_of("process", popen), "process", f"process {pid}", "multiprocessing", {"pid": pid}), "join")


def _pipe(look: Look) -> Sighting | None:
    connection = look.frame.local("self")
    if connection is None or not is_a(connection, "multiprocessing.connection._ConnectionBase"):
        return None
    state: dict[str, Plain] = {"fd": number(connection, "_handle")}
    return Sighting(
        Primitive(look.desk.id_of("pipe", connection), "pipe", "a pipe to another process", "multiprocessing", state),
        look.frame.name.lstrip("_"),
    )


def _process_queue(look: Look) -> Sighting | None:
    queue = look.frame.local("self")
    if queue is None or not is_a(queue, "multiprocessing.queues.Queue", "multiprocessing.queues.SimpleQueue"):
        return None
    return Sighting(Primitive(look.desk.id_of("pipe", queue), "pipe", "a queue between processes", "multiprocessing"), look.frame.name)


def _python_socket(look: Look) -> Sighting | None:
    """socket.SocketIO.readinto and ssl.SSLSocket's reads."""
    stream = look.frame.local("self")
    sock = (stream.attr("_sock") if stream is not None and not is_a(stream, "_socket.socket") else None) or stream
    return Sighting(_peer(sock, look.desk), look.frame.name) if sock is not None and is_a(sock, "_socket.socket") else None


def _peer(sock: ObjectView, desk: Desk, accepting: bool = False) -> Primitive:
    where = socket_peer(sock)
    label = "a new connection" if accepting else f"the peer {where}" if where else "a socket"
    state: dict[str, Plain] = {"address": where, "fd": number(sock, "fileno")}
    return Primitive(desk.id_of("peer", sock), "peer", label, "socket", state, patience_ns=FOREVER if accepting else None)


def _import_lock(look: Look) -> Sighting | None:
    lock = look.frame.local("self")
    if lock is None or "_ModuleLock" not in lock.type_name:
        return None
    name, owner = plain(lock, "name"), number(lock, "owner")
    holders = thread_of(owner, look.desk)
    state: dict[str, Plain] = {"module": name, "locked": owner is not None}
    primitive = Primitive(
        look.desk.id_of("import-lock", lock),
        "import-lock",
        f"the import lock of {name}",
        "importlib",
        state,
        holders=holders,
        ready=owner is None,
    )
    return Sighting(primitive, "import")


_SOCKET_CALLS = (
    "recv",
    "recv_into",
    "recvfrom",
    "recvfrom_into",
    "recvmsg",
    "send",
    "sendall",
    "sendmsg",
    "sendto",
    "connect",
    "accept",
    "_accept",
)


#: asyncio's own transports: their sockets are non-blocking, a loop seen in one of their calls is on its way.
_NEVER_BLOCKS = ("asyncio/selector_events.py", "asyncio/unix_events.py")


def called(frame: FrameView, desk: Desk) -> Sighting | None:
    """What the innermost frame of a thread waits for inside a C function."""
    found = frame.calling()
    if found is None:
        return None
    receiver, method = found
    if method in ("acquire", "__enter__") and is_a(receiver, *_LOCK_TYPES):
        return Sighting(lock_primitive(receiver, desk), "acquire")
    if method == "get" and is_a(receiver, "_queue.SimpleQueue"):
        size = len(receiver.items(10_000))
        state: dict[str, Plain] = {"size": size}
        return Sighting(
            Primitive(desk.id_of("thread-queue", receiver), "thread-queue", "queue.SimpleQueue", NAME, state, ready=size > 0), "get"
        )
    if method in _SOCKET_CALLS and is_a(receiver, "_socket.socket") and not frame.file.endswith(_NEVER_BLOCKS):
        return Sighting(_peer(receiver, desk, method.endswith("accept")), method.lstrip("_"))
    if method == "sleep" and receiver.type_name == "module" and plain(receiver, "__name__") == "time":
        return Sighting(Primitive(f"timer:{frame.id:x}", "timer", "time.sleep", "time"), "sleep")
    return None


def takes_its_own(thread_id: str, sighting: Sighting) -> bool:
    """An RLock that it has already, which never waits: a thread in motion, whose stack and whose call were read at different moments."""
    return sighting.op == "acquire" and sighting.primitive.kind == "thread-lock" and thread_id in sighting.primitive.holders


WAITS = (
    Spot(_THREADING, "wait", _threading_wait, target="threading:Condition.wait"),
    Spot(_THREADING, "acquire", _semaphore, target="threading:Semaphore.acquire"),
    Spot(_THREADING, "join", _join, target="threading:Thread.join"),
    Spot(_THREADING, "_shutdown", _end_of_main, target="threading:_shutdown"),
    Spot(_QUEUE, "get", _queue, target="queue:Queue.get"),
    Spot(_QUEUE, "put", _queue, target="queue:Queue.put"),
    Spot(_QUEUE, "join", _queue, target="queue:Queue.join"),
    Spot("concurrent/futures/_base.py", "result", _result, target="concurrent.futures._base:Future.result"),
    Spot("concurrent/futures/_base.py", "exception", _result, target="concurrent.futures._base:Future.exception"),
    Spot("concurrent/futures/thread.py", "_worker", _idle_worker, target="concurrent.futures.thread:_worker"),
    Spot("/subprocess.py", "wait", _child, target="subprocess:Popen.wait"),
    Spot("/subprocess.py", "communicate", _child, target="subprocess:Popen.communicate"),
    Spot("multiprocessing/popen_fork.py", "wait", _multiprocess_child, target="multiprocessing.popen_fork:Popen.wait"),
    Spot("multiprocessing/connection.py", "recv", _pipe, target="multiprocessing.connection:_ConnectionBase.recv"),
    Spot("multiprocessing/connection.py", "recv_bytes", _pipe, target="multiprocessing.connection:_ConnectionBase.recv_bytes"),
    Spot("multiprocessing/connection.py", "poll", _pipe, target="multiprocessing.connection:_ConnectionBase.poll"),
    Spot("multiprocessing/connection.py", "send", _pipe, target="multiprocessing.connection:_ConnectionBase.send"),
    Spot("multiprocessing/queues.py", "get", _process_queue, target="multiprocessing.queues:Queue.get"),
    Spot("multiprocessing/queues.py", "put", _process_queue, target="multiprocessing.queues:Queue.put"),
    Spot("/socket.py", "readinto", _python_socket, target="socket:SocketIO.readinto"),
    Spot("/ssl.py", "read", _python_socket, target="ssl:SSLSocket.read"),
    Spot("/ssl.py", "recv_into", _python_socket, target="ssl:SSLSocket.recv_into"),
    Spot("/ssl.py", "recv", _python_socket, target="ssl:SSLSocket.recv"),
    Spot(_IMPORTLIB, "acquire", _import_lock),
)

HOLDS = {
    "_thread.lock": lock_primitive,
    "_thread.RLock": lock_primitive,
    "threading._RLock": lock_primitive,
    "threading.Condition": condition_lock,
    "threading.Semaphore": semaphore_primitive,
}
