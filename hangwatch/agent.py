"""The composition root: builds the ledger, the patches, the watchdog and the reporter; follows forks; takes it all out again.

``install`` patches and imports next to nothing: threads start with the first loop, so a process that runs none (gunicorn's master,
uvicorn's supervisor, a short-lived script) has only a few replaced attributes.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from hangwatch.config import Config
from hangwatch.errors import ConfigError
from hangwatch.integrations import asyncio_hooks, gunicorn_hooks, server_hooks, uvicorn_hooks
from hangwatch.ledger import Ledger, LoopMark
from hangwatch.patching import Patcher
from hangwatch.records import to_json

if TYPE_CHECKING:
    from hangwatch.export import Exporters
    from hangwatch.export.board import Board
    from hangwatch.records import Incident, Snapshot
    from hangwatch.reporter import Reporter
    from hangwatch.stacktimer import StackTimer
    from hangwatch.store import Store
    from hangwatch.watchdog import Watchdog

#: Loops started from these files serve the server itself, not requests (gunicorn's control socket in its master).
NOT_SERVED: Final = ("/gunicorn/ctl/",)

_current: Agent | None = None
_fork_followed = False


class Agent:
    """Everything of one process. ``extras``: more to start and stop with it (objects with ``start()`` and ``stop()``)."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.patcher = Patcher()
        self.ledger = Ledger(config.max_requests, config.ring)
        self.extras: list[Any] = []
        self.watchdog: Watchdog | None = None
        self.reporter: Reporter | None = None
        self.timer: StackTimer | None = None
        self.board: Board | None = None
        self._endpoint: Any = None
        self._control: Any = None
        self._console: Any = None
        #: What killed workers left: their incidents, and their open incidents that ended with them.
        self._left: list[Incident] = []
        self._ended: list[Incident] = []
        self._starting = threading.Lock()
        self._note_collection = self.ledger.gc_watcher()
        self._pid = os.getpid()

    def install(self) -> None:
        self.ledger.on_loop = self._loop_started
        gc.callbacks.append(self._note_collection)
        self.ledger.on_server = self._server_started
        for hooks in (asyncio_hooks, uvicorn_hooks, server_hooks, gunicorn_hooks):
            hooks.install(self.patcher, self.ledger, self.config)
        for ident, loop in running_loops():
            self.ledger.loop_found(loop, ident)

    def _loop_started(self, mark: LoopMark) -> None:
        """Called on the loop's thread: the first loop starts the threads."""
        if self.watchdog is not None:
            return
        if _is_not_served():
            self.ledger.loops.pop(id(mark.loop), None)
            return
        self._server_started()

    def _server_started(self) -> None:
        with self._starting:
            if self.watchdog is None:
                self._start()

    def _start(self) -> None:
        from hangwatch.reporter import Reporter
        from hangwatch.watchdog import Watchdog

        self.timer = self._make_timer()
        self.reporter = Reporter(self.config, self.ledger, self.timer, self._open_store, self._finish_orphans, self._open_exporters)
        self.board = self._make_board()
        self._make_extras()
        each_tick = self._measure if self.board is not None else None
        self.watchdog = Watchdog(self.config, self.ledger, self.timer, self.reporter.report, self.reporter.recovered, each_tick)
        self.reporter.start()
        self.watchdog.start()
        for extra in self.extras:
            extra.start()

    def _make_board(self) -> Board | None:
        """Only where somebody wants metrics."""
        if self.config.metrics_port is None and not self.config.metrics_otlp:
            return None
        from hangwatch.export.board import Board

        if self.config.metrics_port is not None and self._endpoint is None:
            from hangwatch.export.endpoint import Endpoint

            self._endpoint = Endpoint(
                self.config.metrics_host, self.config.metrics_port, lambda: self.board.families() if self.board else []
            )
            self.extras.append(self._endpoint)
        return Board(
            self.config,
            self.ledger,
            lambda: self.watchdog.silences() if self.watchdog else {},
            lambda: self.reporter.book.exporters.counts() if self.reporter and self.reporter.book.exporters else {},
        )

    def _make_extras(self) -> None:
        """What a person talks to; started again after a fork, so made once."""
        if self.config.control and self._control is None:
            from hangwatch.control import Control

            self._control = Control(lambda: self.reporter.folder if self.reporter else None, self._verbs())
            self.extras.append(self._control)
        if self.config.console and self._console is None:
            from hangwatch.monitor import Console

            self._console = Console(self.config, self.ledger, self._verbs())
            self.extras.append(self._console)

    def _verbs(self) -> dict[str, Callable[[], Any]]:
        """What the control socket tells."""
        from hangwatch.samples import requests

        return {
            "snapshot": lambda: to_json(self.reporter.look()) if self.reporter else None,
            "stalls": lambda: self.reporter.book.told() if self.reporter else [],
            "requests": lambda: to_json(requests(self.ledger, [])),
        }

    def _measure(self, now_ns: int) -> None:
        if self.board is not None and self.watchdog is not None:
            self.board.tick(now_ns, self.watchdog.tick_s)

    def _make_timer(self) -> StackTimer | None:
        if not self.config.faulthandler:
            return None
        from hangwatch.stacktimer import StackTimer

        timer = StackTimer(self.config.loop_after, None)
        timer.watch_for_others(self.patcher)
        self.ledger.on_collection = timer.collection
        return timer

    def _open_store(self) -> Store:
        from hangwatch.store import Store

        store = Store(self.config.spool, self.config.spool_max_mb, self.config.spool_max_days)
        if self.timer is not None:
            self.timer.move_to(store.files_dir(os.getpid()))
        return store

    def _finish_orphans(self, store: Store) -> None:
        """Whoever looks at the spool next finds what killed workers left behind."""
        from hangwatch import orphans

        self._left = orphans.finish(store, live=False, ended=self._ended)

    def _open_exporters(self, store: Store | None) -> Exporters:
        from hangwatch.export import Exporters

        exporters = Exporters(self.config, store, {}, self.board)
        for incident in self._left:
            exporters.offer(incident)
        for incident in (*self._left, *self._ended):
            exporters.recovered(incident, "killed")
        self._left, self._ended = [], []
        return exporters

    def uninstall(self) -> list[str]:
        """Returns what could not be put back, as someone else has wrapped it since."""
        stayed = self.patcher.restore_all()
        self.ledger.on_loop = self.ledger.on_server = self.ledger.on_collection = None
        if self._note_collection in gc.callbacks:
            gc.callbacks.remove(self._note_collection)
        self.stop()
        return stayed

    def stop(self, timeout_s: float = 2.0) -> None:
        """Ends the threads. In a child that was forked meanwhile there are none."""
        if self._pid != os.getpid():
            return
        for extra in self.extras:
            extra.stop()
        if self.watchdog is not None:
            self.watchdog.stop(timeout_s)
        if self.reporter is not None:
            self.reporter.stop(timeout_s)
        if self.timer is not None:
            self.timer.stop()
        self.watchdog = self.reporter = self.timer = None

    # fork

    def before_fork(self) -> None:
        if self.timer is not None:
            self.timer.before_fork()

    def after_fork_in_parent(self) -> None:
        if self.timer is not None:
            self.timer.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """No thread of the parent's lives here, and its loops and requests are not ours. A loop that starts brings the threads back."""
        if self.timer is not None:
            self.timer.after_fork_in_child()
        self.watchdog = self.reporter = self.timer = None
        self.extras = [extra for extra in self.extras if not hasattr(extra, "after_fork_in_child") or extra.after_fork_in_child()]
        self._starting = threading.Lock()
        self._pid = os.getpid()
        self.ledger.forget_all()


def install(**settings: Any) -> None:
    """See `hangwatch.install`."""
    global _current
    if _is_on(os.environ.get("HANGWATCH_DISABLED", "")):
        return
    config = Config.make(**settings)
    if _current is not None:
        if _current.config == config:
            return
        raise ConfigError("hangwatch is installed already, with other settings", "Install it once, or call hangwatch.uninstall() first.")
    agent = Agent(config)
    _current = agent
    _follow_forks()
    try:
        agent.install()
    except Exception as error:
        _warn(f"not installed: {type(error).__name__}: {error}; the service runs without it")
        agent.uninstall()
        _current = None


def uninstall() -> None:
    """See `hangwatch.uninstall`."""
    global _current
    agent, _current = _current, None
    if agent is not None:
        stayed = agent.uninstall()
        if stayed:
            _warn(f"{', '.join(stayed)} stay wrapped: something else has wrapped them since")


def current() -> Agent | None:
    """The agent of this process, None when there is none."""
    return _current


def snapshot_now() -> Snapshot:
    """Looks at this process now, agent or not."""
    from hangwatch.reading.live import LiveReader
    from hangwatch.snapshot import take

    agent = _current
    if agent is not None and agent.reporter is not None:
        return agent.reporter.look()
    reader: Any = LiveReader([loop for _, loop in running_loops()])
    return take(reader, history=agent.ledger.acts() if agent is not None else ())


def running_loops() -> list[tuple[int, Any]]:
    """(thread ident, loop) of the loops that run now, read off the threads' stacks."""
    found = []
    for ident, innermost in sys._current_frames().items():
        frame: FrameType | None = innermost
        while frame is not None:
            if frame.f_code.co_name in ("run_forever", "run_until_complete", "run") and "asyncio" in frame.f_code.co_filename:
                loop: Any = frame.f_locals.get("self")
                loop = getattr(loop, "_loop", loop)
                if loop is not None and hasattr(loop, "call_soon_threadsafe") and loop.is_running():
                    found.append((ident, loop))
                    break
            frame = frame.f_back
    events = sys.modules.get("asyncio.events")
    here = events._get_running_loop() if events is not None else None
    if here is not None and all(loop is not here for _, loop in found):
        found.append((threading.get_ident(), here))
    return found


def _is_not_served() -> bool:
    frame: FrameType | None = sys._getframe(1)
    for _ in range(12):
        if frame is None:
            return False
        if any(part in frame.f_code.co_filename for part in NOT_SERVED):
            return True
        frame = frame.f_back
    return False


def _is_on(word: str) -> bool:
    return word.strip().lower() not in ("", "0", "false", "no", "off")


def _warn(sentence: str) -> None:
    try:
        os.write(2, f"hangwatch: {sentence}\n".encode())
    except OSError:
        pass


def _follow_forks() -> None:
    """Once per process: hooks cannot be taken out again, so they look for the agent of the moment."""
    global _fork_followed
    if _fork_followed:
        return
    _fork_followed = True
    os.register_at_fork(
        before=lambda: _each("before_fork"),
        after_in_parent=lambda: _each("after_fork_in_parent"),
        after_in_child=lambda: _each("after_fork_in_child"),
    )
    atexit.register(_at_exit)


def _each(step: str) -> None:
    if _current is not None:
        try:
            getattr(_current, step)()
        except Exception as error:  # a fork of the application's must go on
            _current.patcher.notes.append(f"{step}: {type(error).__name__}: {error}")


def _at_exit() -> None:
    if _current is not None:
        _current.stop()
