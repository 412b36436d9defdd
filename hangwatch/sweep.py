"""Requests of servers without hooks (aiohttp, hypercorn, gunicorn's own worker): found in the frames of tasks, now and then.

Only where such a server is imported, at most four times within the limit of a request, and never for more than a fiftieth of the
time. When a request began is not known then: when it was first seen is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from hangwatch import stalls
from hangwatch.config import Config
from hangwatch.ledger import Follow, Ledger
from hangwatch.records import FOREVER, Request

#: Modules that only a process that serves by them imports.
SERVERS: Final = ("aiohttp.web_protocol", "hypercorn.asyncio", "gunicorn.asgi.protocol")
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
        self._seen: dict[tuple[str, str | None], Follow] = {}

    def wanted(self) -> bool:
        return any(name in sys.modules for name in SERVERS)

    def look(self, now_ns: int) -> list[Follow]:
        """Requests that have passed their limit since the last look, oldest first."""
        begun_ns = time.monotonic_ns()
        found = self.judge(now_ns, self._requests(now_ns))
        took_ns = time.monotonic_ns() - begun_ns
        self.due_ns = now_ns + max(self.every_ns, REST * took_ns)
        return found

    def judge(self, now_ns: int, requests: Iterable[Request]) -> list[Follow]:
        """Follows each request from its first sight to the first look that does not find it."""
        present = {(request.id, request.task_id): request for request in requests}
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

    def _first_sight(self, now_ns: int, key: tuple[str, str | None], request: Request) -> Follow | None:
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
        for task in reader.tasks():
            requests_of(task.frames()[:FRAMES], desk, f"task:{task.id:x}", task)
            reader.slice()
        hooked = {f"request:{id(subject):x}" for subject, *_ in self.ledger.in_flight(MAX_SEEN)}
        workers = {request_id: task_id for task_id, request_id in reversed(list(desk.bound.items()))}
        return [
            request if request.task_id is not None else replace(request, task_id=workers.get(request.id))
            for request in desk.requests.values()
            if request.id not in hooked
        ]
