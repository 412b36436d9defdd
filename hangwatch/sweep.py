"""Requests of servers without hooks (aiohttp, hypercorn, gunicorn's own workers, websockets' threads), and websockets that wait for
what nobody should wait for long: found in the frames of tasks and threads, now and then.

Only where such a server is imported or such a websocket lives, at most four times within the limit of a request, and never for more than a fiftieth of the
time. When a request began is not known then: when it was first seen is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from hangwatch import stalls
from hangwatch.config import Config
from hangwatch.integrations import uvicorn_hooks
from hangwatch.ledger import Follow, Ledger
from hangwatch.records import FOREVER, Request

if TYPE_CHECKING:
    from hangwatch.integrations.desk import SnapshotDesk
    from hangwatch.reading.view import FrameView, TaskView

#: Modules that only a process that serves by them imports.
SERVERS: Final = ("aiohttp.web_protocol", "hypercorn.asyncio", "gunicorn.asgi.protocol")
#: Those whose requests are worked on by threads.
THREADED: Final = ("websockets.sync.server", "gunicorn.workers.gthread", "gunicorn.workers.sync")
#: What a connection that may live for ever (a websocket) cannot rightly wait for as long as a request may take.
NOT_PATIENT: Final = ("lock", "semaphore", "pool", "limiter", "thread-lock", "thread", "import-lock")
#: A request shows in the outermost frames of its task.
FRAMES: Final = 20
MAX_SEEN: Final = 10_000
#: Pause after a sweep, as a multiple of what it took.
REST: Final = 50


class Sweep:
    """``look`` when ``due_ns`` has come. Used by one thread."""

    def __init__(self, config: Config, ledger: Ledger) -> None:
        self.config = config
        self.ledger = ledger
        self.every_ns = stalls.least_limit_ns(config) // 4
        self.due_ns = 0
        self._seen: dict[tuple[str, str | None, str | None], Follow] = {}
        self._waits: dict[str, str] = {}

    def wanted(self) -> bool:
        """Also where a websocket has lived for longer than a request may: the ledger does not tell such ones apart."""
        if self._seen or any(name in sys.modules for name in (*SERVERS, *THREADED)):
            return True
        try:
            return any(uvicorn_hooks.endless(subject) for subject in list(self.ledger.followed))
        except RuntimeError:  # one ended while they were copied; it is asked again soon
            return False

    def look(self, now_ns: int) -> list[Follow]:
        """Requests that have passed their limit since the last look, oldest first."""
        begun_ns = time.monotonic_ns()
        found = self.judge(now_ns, self._requests(now_ns))
        took_ns = time.monotonic_ns() - begun_ns
        self.due_ns = now_ns + max(self.every_ns, REST * took_ns)
        return found

    def judge(self, now_ns: int, requests: Iterable[Request]) -> list[Follow]:
        """Follows each request from its first sight to the first look that does not find it."""
        present = {(request.id, request.task_id, self._waits.get(request.id)): request for request in requests}
        for key in [key for key in self._seen if key not in present]:
            self._seen.pop(key).ended_ns = now_ns
        overdue = []
        for key, request in present.items():
            follow = self._seen.get(key)
            if follow is None:
                follow = self._first_sight(now_ns, key, request)
            if follow is None or follow.reported or request.phase == "background" or follow.limit_ns is None:
                continue
            if now_ns - follow.since_ns >= follow.limit_ns:
                follow.reported = True
                follow.subject = replace(request, since_ns=follow.since_ns, limit_ns=follow.limit_ns)
                overdue.append(follow)
        return sorted(overdue, key=lambda follow: follow.since_ns)

    def _first_sight(self, now_ns: int, key: tuple[str, str | None, str | None], request: Request) -> Follow | None:
        if len(self._seen) >= MAX_SEEN:
            self.ledger.drop("requests")
            return None
        limit_ns = stalls.limit_ns(self.config, request.route)
        since_ns = request.since_ns if request.since_ns is not None else now_ns
        follow = Follow(request, request.id, since_ns, None if limit_ns >= FOREVER else limit_ns)
        self._seen[key] = follow
        return follow

    def _requests(self, now_ns: int) -> list[Request]:
        from hangwatch.integrations.desk import SnapshotDesk
        from hangwatch.integrations.recognise import requests_of
        from hangwatch.reading.live import LiveReader

        marks = list(self.ledger.loops.values())
        reader: Any = LiveReader([mark.loop for mark in marks], loop_threads={id(mark.loop): mark.ident for mark in marks})
        desk = SnapshotDesk(reader, now_ns)
        self._waits = {}
        for task in reader.tasks():
            chain = task.frames()
            requests_of(chain[:FRAMES], desk, f"task:{task.id:x}", task)
            self._note_wait(chain, desk, f"task:{task.id:x}", task)
            reader.slice()
        if any(name in sys.modules for name in THREADED):
            for thread in reader.threads():
                chain = thread.frames()
                requests_of(chain[:FRAMES], desk, f"thread:{thread.native_id}", None)
                self._note_wait(chain, desk, f"thread:{thread.native_id}", None)
                reader.slice()
        hooked = {f"request:{id(subject):x}" for subject, *_ in self.ledger.in_flight(MAX_SEEN)}
        workers = {request_id: task_id for task_id, request_id in reversed(list(desk.bound.items()))}
        found = [
            request if request.task_id is not None else replace(request, task_id=workers.get(request.id))
            for request in desk.requests.values()
            if (request.id in self._waits if _may_last(request) else request.id not in hooked)
        ]
        return [*found, *self._endless({request.connection_id for request in found})]

    def _note_wait(self, chain: list[FrameView], desk: SnapshotDesk, owner_id: str, task: TaskView | None) -> None:
        """What a websocket's task or thread waits for, where that is nothing to wait for long."""
        from hangwatch.integrations import threads
        from hangwatch.integrations.recognise import wait_of

        request = desk.requests.get(desk.bound.get(owner_id, ""))
        if request is None or not _may_last(request) or not chain:
            return
        seen = wait_of(chain, desk, owner_id, task).sighting or (threads.called(chain[-1], desk) if task is None else None)
        if seen is not None and seen.primitive.kind in NOT_PATIENT:
            self._waits[request.id] = seen.primitive.id

    def _endless(self, busy: set[str | None]) -> list[Request]:
        """Answered, as the server believes; their clients cannot see the end."""
        found = []
        for connection, (method, route, since_ns) in _copy(self.ledger.endless):
            connection_id, task = f"connection:{id(connection):x}", getattr(connection, "_task", None)
            if connection_id not in busy and not getattr(connection, "_closed", True) and task is not None:
                found.append(
                    Request(f"request:{id(connection):x}", connection_id, f"task:{id(task):x}", method, route, since_ns, "responding")
                )
        return found


def _may_last(request: Request) -> bool:
    """A websocket after its handshake."""
    return request.method == "WEBSOCKET" and request.phase == "responding"


def _copy(table: Any) -> list[tuple[Any, tuple[str, str, int]]]:
    try:
        return list(table.items())
    except RuntimeError:  # changed meanwhile; the next look will do
        return []
