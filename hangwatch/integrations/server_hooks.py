"""What an agent replaces in servers other than uvicorn: their start-up, their shutdown, and the begin of those that serve by threads.

Their requests need no hook: `sweep` finds them in the frames of tasks and threads.
"""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any, Final

from hangwatch.config import Config
from hangwatch.ledger import Ledger
from hangwatch.patching import Patcher

NAME = "servers"
DISTRIBUTION = None

#: Module, class, coroutine method, and what lasts while it runs.
PHASES: Final = (
    ("aiohttp.web_runner", "BaseRunner", "setup", "startup"),
    ("aiohttp.web_runner", "BaseRunner", "cleanup", "shutdown"),
    ("hypercorn.asyncio.lifespan", "Lifespan", "wait_for_startup", "startup"),
    ("hypercorn.asyncio.lifespan", "Lifespan", "wait_for_shutdown", "shutdown"),
    ("gunicorn.asgi.lifespan", "LifespanManager", "startup", "startup"),
    ("gunicorn.asgi.lifespan", "LifespanManager", "shutdown", "shutdown"),
)
#: Module, class (it was renamed in websockets 13), and the method that serves by a thread for each connection.
THREADED: Final = (
    ("websockets.sync.server", "Server", "serve_forever"),
    ("websockets.sync.server", "WebSocketServer", "serve_forever"),
    ("gunicorn.workers.gthread", "ThreadWorker", "run"),
    ("gunicorn.workers.sync", "SyncWorker", "run"),
)


def install(patcher: Patcher, ledger: Ledger, config: Config) -> None:
    for row in PHASES:
        patcher.when_imported(row[0], lambda module, row=row: _follow(module, row[1], row[2], row[3], patcher, ledger))  # type: ignore[misc]
    for module, owner, method in THREADED:
        patcher.when_imported(module, lambda loaded, owner=owner, method=method: _threaded(loaded, owner, method, patcher, ledger))  # type: ignore[misc]
    patcher.when_imported("asyncio.base_events", lambda module: _closing(module, patcher, ledger))


def _follow(module: ModuleType, owner: str, method: str, kind: str, patcher: Patcher, ledger: Ledger) -> None:
    patcher.wrap(getattr(module, owner), method, lambda original: _during(original, kind, ledger))


def _during(original: Any, kind: str, ledger: Ledger) -> Any:
    async def phase(self: Any, *args: Any, **kwargs: Any) -> Any:
        mark = _begin(kind, ledger)
        try:
            return await original(self, *args, **kwargs)
        finally:
            if mark is not None:
                mark.phase = mark.phase_task_id = None

    return phase


def _begin(kind: str, ledger: Ledger) -> Any:
    """The loop's mark, whose phase is set from now on; None where another phase is running already: it is the wider one."""
    from asyncio import current_task, get_running_loop

    mark = ledger.loops.get(id(get_running_loop()))
    if mark is None or mark.phase is not None:
        return None
    mark.phase, mark.phase_task_id = (kind, time.monotonic_ns()), f"task:{id(current_task()):x}"
    return mark


def _closing(module: ModuleType, patcher: Patcher, ledger: Ledger) -> None:
    """Every server on asyncio ends by waiting for its closed sockets' connections (since Python 3.12 that may last)."""

    def make(original: Any) -> Any:
        async def wait_closed(self: Any) -> Any:
            mark = _begin("shutdown", ledger) if self._sockets is None else None
            try:
                return await original(self)
            finally:
                if mark is not None:
                    mark.phase = mark.phase_task_id = None

        return wait_closed

    patcher.wrap(module.Server, "wait_closed", make)
    # The end of asyncio.run(): jobs in threads are waited for, however long they take.
    patcher.wrap(module.BaseEventLoop, "shutdown_default_executor", lambda original: _during(original, "shutdown", ledger))


def _threaded(module: ModuleType, owner: str, method: str, patcher: Patcher, ledger: Ledger) -> None:
    found = getattr(module, owner, None)
    if isinstance(found, type) and found.__name__ == owner:
        patcher.before(found, method, lambda *_: ledger.server_started())
