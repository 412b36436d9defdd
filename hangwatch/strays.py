"""Tasks that hang where no server is known: a program of its own, a worker that takes jobs from a queue, a server without an integration.

No request tells their age there. So now and then every task is looked at, and one that has waited for the same lock, pool or
client for as long as a request may take is a stall. What may rightly last (a queue, an event, a timer, a peer) is none.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Final

from hangwatch import stalls
from hangwatch.config import Config
from hangwatch.ledger import Ledger
from hangwatch.records import Stall

if TYPE_CHECKING:
    from hangwatch.integrations.desk import SnapshotDesk
    from hangwatch.reading.view import TaskView

#: Where one of these is imported, requests are known, and what hangs is told by them.
KNOWN: Final = (
    "uvicorn.server", "aiohttp.web_protocol", "hypercorn.asyncio", "gunicorn.asgi.protocol", "gunicorn.workers.gthread", "gunicorn.workers.sync",
    "websockets.sync.server",
)  # fmt: skip
#: Nobody should wait for these for long.
KINDS: Final = ("lock", "semaphore", "pool", "limiter", "thread-lock", "client")
MAX_SEEN: Final = 10_000
#: Pause after a look, as a multiple of what it took.
REST: Final = 50


class Strays:
    """``look`` when ``due_ns`` has come. Used by one thread."""

    def __init__(self, config: Config, ledger: Ledger) -> None:
        self.config = config
        self.ledger = ledger
        self.limit_ns = stalls.least_limit_ns(config)
        self.due_ns = 0
        #: (task, what it waits for) -> since when it was seen so.
        self._seen: dict[tuple[str, str], int] = {}
        #: What a stall was told of -> its subject.
        self._told: dict[str, str] = {}

    def wanted(self) -> bool:
        return bool(self.ledger.loops) and not any(name in sys.modules for name in KNOWN)

    def look(self, now_ns: int) -> tuple[list[Stall], list[str]]:
        """Stalls that are new, one for each thing waited for; and subjects told before that have gone on."""
        begun_ns = time.monotonic_ns()
        found = self.judge(now_ns, self._waits(now_ns))
        took_ns = time.monotonic_ns() - begun_ns
        self.due_ns = now_ns + max(self.limit_ns // 4, REST * took_ns)
        return found

    def judge(self, now_ns: int, waits: list[tuple[str, str]]) -> tuple[list[Stall], list[str]]:
        """``waits``: (task, primitive) of everybody who waits for what nobody should wait for long."""
        present = set(waits)
        self._seen = {key: self._seen.get(key, now_ns) for key in waits[:MAX_SEEN]}
        over = [primitive for primitive, subject in self._told.items() if (subject, primitive) not in present]
        gone = [self._told.pop(primitive) for primitive in over]
        new = []
        for (task_id, primitive_id), since_ns in sorted(self._seen.items(), key=lambda item: item[1]):
            if now_ns - since_ns >= self.limit_ns and primitive_id not in self._told:
                self._told[primitive_id] = task_id
                new.append(Stall("task", task_id, since_ns, self.limit_ns))
        return new, gone

    def _waits(self, now_ns: int) -> list[tuple[str, str]]:
        from hangwatch.integrations.desk import SnapshotDesk
        from hangwatch.reading.live import LiveReader

        marks = list(self.ledger.loops.values())
        reader: Any = LiveReader([mark.loop for mark in marks], loop_threads={id(mark.loop): mark.ident for mark in marks})
        desk = SnapshotDesk(reader, now_ns)
        found = []
        for task in reader.tasks():
            primitive_id = self._wait_of(task, desk)
            if primitive_id is not None:
                found.append((f"task:{task.id:x}", primitive_id))
            reader.slice()
        return found

    def _wait_of(self, task: TaskView, desk: SnapshotDesk) -> str | None:
        from hangwatch.integrations.recognise import facts_of, holds_of, wait_of

        chain = task.frames()
        facts = facts_of(chain, desk)
        if task.running or facts.own is None:
            return None
        task_id = f"task:{task.id:x}"
        seen = wait_of(chain, desk, task_id, task, facts)
        if seen.sighting is None or seen.deadline_ns is not None or holds_of(chain, desk, task_id, seen.index, facts) is not None:
            return None
        primitive = seen.sighting.primitive
        return primitive.id if primitive.kind in KINDS and primitive.ready is not True and primitive.patience_ns is None else None
