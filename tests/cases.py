"""Snapshots built by hand, for everything that reads records only: rules, graph, investigate, rendering.

    scene = Scene()
    alice = scene.request("POST", "/transfer", frames=["app.py:transfer"], waits_on=scene.lock("alice"))
    case = scene.case(alice)

Times are relative to ``NOW``; requests are 12 s old and over their limit unless told otherwise.
"""

from __future__ import annotations

import dataclasses

from hangwatch.graph import WaitGraph
from hangwatch.records import (
    SCHEMA,
    Act,
    Connection,
    Evidence,
    Frame,
    Hold,
    Loop,
    Primitive,
    Request,
    Snapshot,
    Stall,
    Task,
    Thread,
    Wait,
)
from hangwatch.rules.base import Case

S = 1_000_000_000
NOW = 1_000 * S
LOOP = "loop:a0"
LOOP_THREAD = "thread:1"
LIMIT = 10 * S

_PLACES = {
    "asyncio/": "/usr/lib/python3.11/",
    "threading.py": "/usr/lib/python3.11/",
    "queue.py": "/usr/lib/python3.11/",
    "socket.py": "/usr/lib/python3.11/",
    "selectors.py": "/usr/lib/python3.11/",
    "concurrent/": "/usr/lib/python3.11/",
    "app.py": "/srv/shop/",
    "<": "",
}
SITE = "/srv/venv/lib/python3.11/site-packages/"


def frame(place: str) -> Frame:
    """``app.py:transfer:27``; ``asyncio/locks.py:acquire``; ``uvicorn/server.py:serve`` lies in site-packages."""
    file, function, line = [*place.split(":"), "1"][:3]
    folder = next((folder for start, folder in _PLACES.items() if file.startswith(start)), SITE)
    return Frame(folder + file, int(line), function)


class Scene:
    """Collects records; ``snapshot`` gives what was collected so far, ``case`` a Case about one of its requests."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.threads: dict[str, Thread] = {LOOP_THREAD: Thread(LOOP_THREAD, "MainThread", 1, (frame("selectors.py:select"),), is_loop=True)}
        self.primitives: dict[str, Primitive] = {}
        self.requests: dict[str, Request] = {}
        self.connections: dict[str, Connection] = {}
        self.waits: list[Wait] = []
        self.history: list[Act] = []
        self.versions: dict[str, str] = {"python": "3.11.7"}
        self.loop = Loop(LOOP, "asyncio", LOOP_THREAD, asleep=True, ready=0)
        self._number = 0x100

    def _id(self, kind: str) -> str:
        self._number += 0x10
        return f"{kind}:{self._number:x}"

    def primitive(self, kind: str, label: str = "", **fields: object) -> str:
        library = str(fields.pop("library", "asyncio"))
        primitive = Primitive(self._id(kind), kind, label or kind, library, **fields)  # type: ignore[arg-type]
        self.primitives[primitive.id] = primitive
        return primitive.id

    def lock(self, label: str = "asyncio.Lock", **fields: object) -> str:
        return self.primitive("lock", label, **{"state": {"locked": True}, "ready": False, **fields})

    def task(
        self, name: str = "", frames: list[str] | tuple[str, ...] = (), waits_on: str | None = None, holds: object = (), **fields: object
    ) -> str:
        deadline_ns = fields.pop("deadline_ns", None)
        since_ns = fields.pop("since_ns", NOW - 12 * S)
        task_id = self._id("task")
        state = str(fields.pop("state", "parked"))
        self.tasks[task_id] = Task(
            task_id,
            name or f"Task-{self._number}",
            LOOP,
            state,
            tuple(frame(f) for f in frames),
            waits_on,
            self._holds(holds),
            **fields,  # type: ignore[arg-type]
        )
        if waits_on:
            self.waits.append(Wait(task_id, waits_on, "wait", since_ns, None, deadline_ns))  # type: ignore[arg-type]
        return task_id

    def _holds(self, holds: object) -> tuple[Hold, ...]:
        pairs = [(h, None) if isinstance(h, str) else h for h in holds]  # type: ignore[attr-defined]
        return tuple(Hold(primitive_id, frame(place) if place else None) for primitive_id, place in pairs)

    def thread(self, name: str, frames: list[str], waits_on: str | None = None, holds: object = (), **fields: object) -> str:
        self._number += 0x10
        thread_id = f"thread:{self._number}"
        self.threads[thread_id] = Thread(
            thread_id, name, self._number, tuple(frame(f) for f in frames), False, waits_on, self._holds(holds), **fields
        )  # type: ignore[arg-type]
        return thread_id

    def loop_thread(self, frames: list[str], waits_on: str | None = None, **fields: object) -> str:
        """The loop's thread is in these frames, not in its selector."""
        old = self.threads[LOOP_THREAD]
        self.threads[LOOP_THREAD] = dataclasses.replace(old, frames=tuple(frame(f) for f in frames), waits_on=waits_on, **fields)  # type: ignore[arg-type]
        self.loop = dataclasses.replace(self.loop, asleep=False)
        return LOOP_THREAD

    def request(self, method: str, route: str, frames: list[str], waits_on: str | None = None, holds: object = (), **fields: object) -> str:
        """A request with its task; gives the task's id."""
        names = ("phase", "since_ns", "body_complete", "limit_ns", "connection_id")
        own = {name: fields.pop(name) for name in names if name in fields}
        task_id = self.task(f"{method} {route}", frames, waits_on, holds, **fields)
        request_id = self._id("request")
        settings = {"since_ns": NOW - 12 * S, "phase": "app", "connection_id": None, "limit_ns": LIMIT, **own}
        self.requests[request_id] = Request(request_id, task_id=task_id, method=method, route=route, **settings)  # type: ignore[arg-type]
        self.tasks[task_id] = dataclasses.replace(self.tasks[task_id], request_id=request_id)
        return task_id

    def change(self, record_id: str, **fields: object) -> None:
        """Replaces fields of a primitive, task, thread or request."""
        for records in (self.primitives, self.tasks, self.threads, self.requests, self.connections):
            if record_id in records:
                records[record_id] = dataclasses.replace(records[record_id], **fields)  # type: ignore[attr-defined, type-var]
                return
        raise KeyError(record_id)

    def act(
        self, op: str, primitive_id: str, task_id: str | None = None, thread_id: str | None = None, place: str = "", at_ns: int = NOW - S
    ) -> None:
        self.history.append(Act(at_ns, op, primitive_id, task_id, thread_id, frame(place) if place else None))

    def snapshot(self, **fields: object) -> Snapshot:
        base = Snapshot(
            SCHEMA, 1.8e9, NOW, 4242, "agent", (self.loop,), tuple(self.tasks.values()), tuple(self.threads.values()), tuple(self.primitives.values()),
            tuple(self.waits), tuple(self.connections.values()), tuple(self.requests.values()), dict(self.versions), history=tuple(self.history),
        )  # fmt: skip
        return dataclasses.replace(base, **fields)  # type: ignore[arg-type]

    def stall(self, subject_id: str, kind: str = "request", limit_ns: int = LIMIT) -> Stall:
        request = next((r.id for r in self.requests.values() if r.task_id == subject_id), subject_id)
        return Stall(kind, request, NOW - 12 * S, S // 2 if kind == "loop" else limit_ns)

    def case(
        self,
        subject_id: str = "",
        *,
        twice: bool = True,
        earlier: Snapshot | None = None,
        kind: str = "request",
        evidence: tuple[Evidence, ...] = (),
    ) -> Case:
        """``twice``: a sample 0.3 s before saw the same. ``earlier``: what it saw instead."""
        subject = subject_id or next(iter(self.requests.values())).id
        now = self.snapshot()
        before = earlier or (self.snapshot(at_ns=NOW - 300_000_000) if twice else None)
        return Case(self.stall(subject, kind), now, WaitGraph(now), before, evidence)


def blocked_case(scene: Scene, **fields: object) -> Case:
    """A case about the scene's blocked loop."""
    return scene.case(LOOP, kind="loop", **fields)  # type: ignore[arg-type]
