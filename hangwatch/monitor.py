"""``install(console=True)``: aiomonitor's console over telnet, on loopback, with hangwatch's commands added to its own.

    stalls    what is stalled now      waits    who waits for what      holders    what is held, by whom, and who waits for it

Its cancel, its REPL and its signal command are not there unless ``console_allows`` names them. Its web page is never served: it cancels
tasks for whatever page a browser on this machine shows (a DELETE from another site, without a credential). Threads other than the loop's
do all the work. aiomonitor is imported when the console starts, and only then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from hangwatch.config import Config
from hangwatch.graph import WaitGraph
from hangwatch.ledger import Ledger
from hangwatch.records import Primitive, Snapshot, from_json

HOST: Final = "127.0.0.1"
THREAD_NAME: Final = "hangwatch-console"
#: Workers of one service take the ports after the first.
MAX_WORKERS: Final = 64
#: aiomonitor's commands -> the word that allows them. ``exit`` and the tables of tasks only look.
GUARDED: Final = {"cancel": "cancel", "console": "repl", "signal": "signal"}
_MAX_LINES: Final = 200


class Console:
    """``start`` returns at once; ``port`` is where it listens, None before and when it does not."""

    def __init__(self, config: Config, ledger: Ledger, verbs: Mapping[str, Callable[[], Any]]) -> None:
        self.port: int | None = None
        self._config = config
        self._ledger = ledger
        self._verbs = verbs
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: socket.socket | None = None
        self._end: asyncio.Event | None = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        loop, end, thread = self._loop, self._end, self._thread
        if loop is not None and end is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(end.set)
        if thread is not None:
            thread.join(2.0)
        self.after_fork_in_child()

    def after_fork_in_child(self) -> bool:
        """The thread stayed with the parent; its listening socket must not stay open here. True: it can be started again."""
        if self._listener is not None:
            self._listener.close()
        self.port = self._thread = self._loop = self._listener = self._end = None
        return True

    # on its own thread

    def _run(self) -> None:
        try:
            import aiomonitor  # noqa: F401
        except ImportError as error:
            _say(f"console=True needs aiomonitor ({error}): pip install 'hangwatch[console]'. The service runs without the console")
            return
        try:
            asyncio.run(self._serve())
        except Exception as error:
            _say(f"the console could not be started: {type(error).__name__}: {error}")

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        # Not one of the service's: nobody is to watch it.
        self._ledger.loops.pop(id(self._loop), None)
        self._loop.set_task_factory(_unlisted)
        mark = next(iter(list(self._ledger.loops.values())), None)
        self._listener = self._listen()
        if mark is None or self._listener is None:
            return
        self.port = self._listener.getsockname()[1]
        monitor = _monitor(mark.loop, mark.ident, self.port, self._config.console_allows, self._texts())
        _say(f"console: telnet {HOST} {self.port}")
        await _telnet(monitor, self._listener, self._end)

    def _listen(self) -> socket.socket | None:
        first = self._config.console_port
        for port in [0] if not first else range(first, min(65536, first + MAX_WORKERS)):
            listener = socket.socket()
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((HOST, port))
                listener.listen(4)
                return listener
            except OSError:
                listener.close()
        _say(f"console: no free port from {first} on")
        return None

    def _texts(self) -> dict[str, Callable[[], Iterator[str]]]:
        def seen() -> Snapshot:
            found: Snapshot = from_json(Snapshot, self._verbs["snapshot"]())
            return found

        return {
            "stalls": lambda: stall_lines(self._verbs["stalls"](), time.time()),
            "waits": lambda: wait_lines(seen()),
            "holders": lambda: holder_lines(seen()),
        }


# hangwatch's commands, as lines of text


def stall_lines(stalls: list[dict[str, Any]], now: float) -> Iterator[str]:
    """``now``: seconds since the epoch."""
    for stall in stalls:
        yield f"{stall['stall']['kind']}, for {now - stall['opened_at']:.1f} s, {stall['count']} of them: {stall['title'] or 'no cause found'}"
        yield f"    hangwatch show {stall['id'].rpartition('-')[2]}"
    if not stalls:
        yield "nothing is stalled"


def wait_lines(snapshot: Snapshot) -> Iterator[str]:
    """Each waiter and what it waits for, the longest wait first."""
    names = _names(snapshot)
    primitives = {primitive.id: primitive for primitive in snapshot.primitives}
    for wait in sorted(snapshot.waits, key=lambda wait: wait.since_ns or snapshot.at_ns):
        since = f" for {(snapshot.at_ns - wait.since_ns) / 1e9:.1f} s" if wait.since_ns else ""
        primitive = primitives.get(wait.primitive_id)
        place = f"  {os.path.basename(wait.frame.file)}:{wait.frame.line}" if wait.frame else ""
        yield f"{names.get(wait.task_id, wait.task_id)} waits{since} for {_label(primitive) if primitive else wait.primitive_id}{place}"
    if not snapshot.waits:
        yield "nobody waits"


def holder_lines(snapshot: Snapshot) -> Iterator[str]:
    """Each thing that somebody has or waits for, those that most wait for first."""
    graph, names = WaitGraph(snapshot), _names(snapshot)
    rows: list[tuple[int, str, list[str], int]] = []
    for primitive in snapshot.primitives:
        holders, waiters = graph.holders(primitive.id), graph.waiters(primitive.id)
        if holders and primitive.kind not in ("task", "gather", "timer"):
            rows.append((-len(waiters), _label(primitive), [names.get(holder, holder) for holder in holders], len(waiters)))
    for _, label, owners, waiting in sorted(rows):
        yield f"{label}: {', '.join(owners[:5])}{' …' if len(owners) > 5 else ''} has it, {waiting} wait for it"
    if not rows:
        yield "nothing is held"


def _names(snapshot: Snapshot) -> dict[str, str]:
    names = {task.id: task.name for task in snapshot.tasks}
    names.update({thread.id: f"thread {thread.name}" for thread in snapshot.threads})
    for request in snapshot.requests:
        names[request.id] = f"{request.method} {request.route}"
        if request.task_id:
            names[request.task_id] = f"{request.method} {request.route} ({names.get(request.task_id, '')})"
    return names


def _label(primitive: Primitive) -> str:
    return f"{primitive.label} {primitive.id.rpartition(':')[2][-6:]}"


# aiomonitor


def _monitor(loop: Any, ident: int, port: int, allows: tuple[str, ...], texts: Mapping[str, Callable[[], Iterator[str]]]) -> Any:
    """aiomonitor's Monitor, as far as its commands need one: not started by itself, as that would serve the web page too."""
    from aiomonitor import Monitor
    from aiomonitor.termui.commands import monitor_cli

    class Guarded(Monitor):  # type: ignore[misc]
        commands = _commands(texts)
        allowed = frozenset(allows)

        async def cancel_monitored_task(self, task_id: str | int) -> str:
            if "cancel" not in self.allowed:
                raise PermissionError("cancelling is switched off (console_allows)")
            said: str = await super().cancel_monitored_task(task_id)
            return said

    _guard(monitor_cli)
    monitor = Guarded(loop, host=HOST, termui_port=port, console_enabled="repl" in allows)
    monitor.prompt = "hangwatch > "
    monitor._event_loop_thread_id = ident
    return monitor


def _guard(group: Any) -> None:
    """aiomonitor has one table of commands per process: only for consoles of ours it shows other commands, and fewer."""
    if getattr(group, "_hangwatch", False):
        return
    group._hangwatch = True
    get, listed = group.get_command, group.list_commands

    def get_command(context: Any, name: str) -> Any:
        found = get(context, name)
        own = getattr(context.obj, "commands", None)
        if own is None and not hasattr(context.obj, "allowed"):
            # Completion asks without a monitor: what one may not run is not offered to it.
            return found if context.obj is not None or found is None or found.name not in GUARDED else None
        if own and name in own:
            return own[name]
        word = GUARDED.get(found.name) if found is not None else None
        return found if word is None or word in context.obj.allowed else None

    def list_commands(context: Any) -> list[str]:
        own = getattr(context.obj, "commands", {}) or {}
        return [*own, *(name for name in listed(context) if get_command(context, name) is not None)]

    group.get_command, group.list_commands = get_command, list_commands


def _commands(texts: Mapping[str, Callable[[], Iterator[str]]]) -> dict[str, Any]:
    import click
    from aiomonitor.termui.commands import auto_command_done, custom_help_option

    helps = {
        "stalls": "What is stalled now",
        "waits": "Who waits for what, the longest first",
        "holders": "What is held, and who waits for it",
    }

    def make(name: str, lines: Callable[[], Iterator[str]]) -> Any:
        def show(context: Any) -> None:
            for count, line in enumerate(lines()):
                if count >= _MAX_LINES:
                    click.echo("…")
                    break
                click.echo(line)

        return click.command(name, help=helps[name])(click.pass_context(custom_help_option(auto_command_done(show))))

    return {name: make(name, lines) for name, lines in texts.items()}


def _unlisted(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    """A task that is in no list of the service's tasks: up to 3.13 asyncio has one for all loops."""
    task = asyncio.Task(coroutine, loop=loop, **options)
    with contextlib.suppress(AttributeError):
        asyncio.tasks._unregister_task(task)
    return task


async def _telnet(monitor: Any, listener: socket.socket, end: asyncio.Event) -> None:
    from aiomonitor.termui.commands import interact
    from prompt_toolkit.contrib.telnet.server import TelnetServer

    class Server(TelnetServer):
        @classmethod
        def _create_socket(cls, host: str, port: int) -> socket.socket:
            return listener

    async def talk(connection: Any) -> None:
        """What is raised here prompt_toolkit prints, with a traceback, into the service's output; of an EOFError it says nothing."""
        try:
            await interact(monitor, connection)
        except (Exception, asyncio.CancelledError):  # the client has dropped, or the console ends
            raise EOFError from None

    server = Server(interact=talk, host=HOST, port=monitor.port)
    monitor._ui_loop = asyncio.get_running_loop()
    with _nothing_said():
        serving = asyncio.ensure_future(server.run())
        await end.wait()
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


@contextlib.contextmanager
def _nothing_said() -> Iterator[None]:
    """prompt_toolkit warns of each piece that a client who dropped does not get, and that the service's input is no terminal."""
    from prompt_toolkit.input.vt100 import Vt100Input

    with contextlib.suppress(AttributeError, ValueError, OSError):
        Vt100Input._fds_not_a_terminal.add(sys.stdin.fileno())
    logger = logging.getLogger("prompt_toolkit.contrib.telnet")

    def of_others(record: logging.LogRecord) -> bool:
        return record.threadName != THREAD_NAME

    logger.addFilter(of_others)
    try:
        yield
    finally:
        logger.removeFilter(of_others)


def _say(sentence: str) -> None:
    """Past logging: a stuck thread may hold a handler's lock."""
    with contextlib.suppress(OSError):
        os.write(2, f"hangwatch: {sentence}\n".encode())
