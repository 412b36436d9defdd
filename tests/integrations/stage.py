"""Real loops and servers in a thread of this process, and looks at them from outside their thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from hangwatch import snapshot
from hangwatch.reading.live import LiveReader
from hangwatch.records import Primitive, Request, Snapshot, Task, Wait
from tests.processes import until


class Seen:
    """One snapshot, with questions that tests ask of it."""

    def __init__(self, taken: Snapshot) -> None:
        self.taken = taken
        self.primitives: dict[str, Primitive] = {p.id: p for p in taken.primitives}
        self.tasks: dict[str, Task] = {t.id: t for t in taken.tasks}

    def task(self, name: str) -> Task:
        return next(t for t in self.taken.tasks if t.name == name)

    def of(self, function: str) -> Task | None:
        """The task or thread in whose chain this function is."""
        everyone = (*self.taken.tasks, *self.taken.threads)
        return next((t for t in everyone if any(f.function.split(".")[-1] == function for f in t.frames)), None)

    def awaited_by(self, function: str) -> Primitive | None:
        """What the task or thread that runs this function waits on."""
        task = self.of(function)
        return self.primitives.get(task.waits_on or "") if task is not None else None

    def wait(self, function: str) -> Wait:
        task = self.of(function)
        return next(w for w in self.taken.waits if task is not None and w.task_id == task.id)

    def request(self, route: str) -> Request | None:
        return next((r for r in self.taken.requests if r.route == route), None)

    def kinds(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for wait in self.taken.waits:
            kind = self.primitives[wait.primitive_id].kind
            found[kind] = found.get(kind, 0) + 1
        return found


def look(**options: Any) -> Seen:
    seen = Seen(snapshot.take(LiveReader(), **options))
    assert not seen.taken.gaps, seen.taken.gaps
    return seen


def when(ready: Callable[[Seen], Any]) -> Seen:
    """The first look at which ``ready(seen)`` is true."""
    found: list[Seen] = []

    def once() -> bool:
        found[:] = [look()]
        return bool(ready(found[0]))

    until(once, 10.0)
    return found[0]


def parked(function: str, kind: str) -> Seen:
    """The first look at which that function waits for something of that kind."""
    seen: list[Any] = []

    def once(now: Seen) -> bool:
        primitive = now.awaited_by(function)
        task = now.of(function)
        seen[:] = [primitive, task.frames if task else None]
        return primitive is not None and primitive.kind == kind

    try:
        return when(once)
    except AssertionError:
        raise AssertionError(f"{function} never waited for a {kind}; last seen: {seen}") from None


@contextlib.contextmanager
def loop_running(main: Callable[[], Awaitable[Any]]) -> Iterator[asyncio.AbstractEventLoop]:
    """``main()`` in a loop of a thread of its own, cancelled with all other tasks at the end."""
    loop = asyncio.new_event_loop()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()

    thread = threading.Thread(target=run, name="stage-loop", daemon=True)
    thread.start()
    holder: list[asyncio.Task] = []
    loop.call_soon_threadsafe(lambda: holder.append(loop.create_task(main(), name="main")))
    try:
        yield loop
    finally:
        _end(loop, thread)


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    async def everything() -> None:
        for _ in range(50):
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            if not others:
                break
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=0.1)
        loop.stop()

    asyncio.run_coroutine_threadsafe(everything(), loop)
    thread.join(10)
    if not thread.is_alive():
        loop.close()


@contextlib.contextmanager
def client(port: int, sent: bytes = b"", *, small: bool = False) -> Iterator[socket.socket]:
    """A connection to a local port; ``small``: takes next to nothing before it stops the sender."""
    sock = socket.socket()
    if small:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    try:
        sock.connect(("127.0.0.1", port))
        sock.sendall(sent)
        yield sock
    finally:
        sock.close()


@contextlib.contextmanager
def uvicorn_running(app: Any, **options: Any) -> Iterator[int]:
    """A real uvicorn server with this application; gives its port."""
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", loop="asyncio", **options)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    with loop_running(lambda: server.serve(sockets=[listener])):
        until(lambda: server.started or server.should_exit)
        yield listener.getsockname()[1]
        server.force_exit = True
    listener.close()
