"""Which of the things seen in two looks is the stall: without an agent nobody was there when it began.

From outside no age is known. What counts is what did not move between two looks: a loop whose thread stayed in the same
callback, a request at the same line, a parked task that has no right to wait for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hangwatch.records import FOREVER, Frame, Loop, Primitive, Request, Snapshot, Stall, Task, Thread
from hangwatch.rules.endless_retry import ATTEMPTS
from hangwatch.rules.frames import is_application

#: Frames whose task means that the service is starting or stopping: end of the file, function -> kind.
_PHASES = {
    ("uvicorn/server.py", "startup"): "startup", ("uvicorn/lifespan/on.py", "startup"): "startup", ("uvicorn/lifespan/on.py", "shutdown"): "shutdown",
    ("uvicorn/server.py", "shutdown"): "shutdown", ("uvicorn/server.py", "_wait_tasks_to_complete"): "shutdown",
    ("hypercorn/asyncio/lifespan.py", "wait_for_startup"): "startup", ("hypercorn/asyncio/lifespan.py", "wait_for_shutdown"): "shutdown",
    ("aiohttp/web_runner.py", "setup"): "startup", ("aiohttp/web_runner.py", "cleanup"): "shutdown",
    ("aiohttp/web_runner.py", "shutdown"): "shutdown", ("asyncio/runners.py", "_cancel_all_tasks"): "shutdown",
    ("asyncio/base_events.py", "shutdown_default_executor"): "shutdown", ("asyncio/base_events.py", "wait_closed"): "shutdown",
    ("concurrent/futures/thread.py", "_python_exit"): "shutdown", ("threading.py", "_shutdown"): "shutdown",
}  # fmt: skip
#: Functions of asyncio and uvloop below which callbacks run.
_RUNNING = ("_run_once", "run_forever", "run_until_complete", "run")


def stall_between(earlier: Snapshot, snapshot: Snapshot, turned: frozenset[str] = frozenset(), gil_kept: bool = False) -> Stall | None:
    """The stall that the two looks show; None when everything moves or may rightly wait.

    ``turned``: ids of loops known to have gone on to another callback. ``gil_kept``: one thread had the GIL all the time.
    """
    since, limit = earlier.at_ns, max(1, snapshot.at_ns - earlier.at_ns)
    for kind, subject in _Two(earlier, snapshot, turned, gil_kept).candidates():
        return Stall(kind, subject, since, limit)
    return None


class _Two:
    """Two looks, and what is asked of them by id."""

    def __init__(self, earlier: Snapshot, now: Snapshot, turned: frozenset[str], gil_kept: bool) -> None:
        self.turned = turned
        self.gil_kept = gil_kept
        self.earlier = earlier
        self.now = now
        self.tasks = {task.id: task for task in now.tasks}
        self.primitives = {primitive.id: primitive for primitive in now.primitives}
        self.deadlines = {(wait.task_id, wait.primitive_id): wait.deadline_ns for wait in now.waits}
        self.old: dict[str, Task | Thread] = {task.id: task for task in earlier.tasks}
        self.old.update({thread.id: thread for thread in earlier.threads})

    def candidates(self) -> Iterator[tuple[str, str]]:
        yield from self._phases()
        yield from (("loop", loop.id) for loop in self.now.loops if self._is_blocked(loop))
        requests = [request for request in self.now.requests if self._waits_on(request)]
        yield from (("request", request.id) for request in sorted(requests, key=self._age))
        yield from (("task", task.id) for task in self._parked())
        yield from (("task", thread.id) for thread in self._stuck_threads())
        yield from (("task", task.id) for task in self._unknown_waits())

    def _stands_still(self, owner: Task | Thread) -> bool:
        """The same lines and the same wait in both looks."""
        old = self.old.get(owner.id)
        return old is not None and old.frames == owner.frames and old.waits_on == owner.waits_on

    def _phases(self) -> Iterator[tuple[str, str]]:
        """A task or thread that was starting or stopping the service in both looks, at the same lines. What it waits for may be between two
        rounds: servers ask ten times a second whether the last connection is closed."""
        owners: list[Task | Thread] = [*self.now.tasks, *self.now.threads]
        kinds: dict[int, list[str]] = {}  # equal chains are one tuple within a snapshot
        for owner in owners:
            told = kinds.get(id(owner.frames))
            if told is None:
                told = kinds[id(owner.frames)] = [kind for frame in owner.frames for kind in _phase_of(frame)]
            old = self.old.get(owner.id)
            if told and old is not None and old.frames == owner.frames:
                for kind in told:
                    yield kind, owner.id

    def _is_blocked(self, loop: Loop) -> bool:
        """Its thread was not asleep in the selector in either look, and it is still in the same callback."""
        old = next((other for other in self.earlier.loops if other.id == loop.id), None)
        if old is None or loop.asleep is not False or old.asleep is not False or loop.thread_id is None or loop.id in self.turned:
            return False
        if self.gil_kept:
            return True
        if loop.running_task_id != old.running_task_id:
            return False
        now = next((thread for thread in self.now.threads if thread.id == loop.thread_id), None)
        before = self.old.get(loop.thread_id)
        if now is None or before is None:
            return False
        # Below the frames that run the loop at least one of the callback's is in both stacks. A look that caught the loop
        # between two callbacks, or on its way out of the selector, shares nothing there.
        common = sum(1 for _ in _shared(now.frames, before.frames))
        ran = max((place for place, frame in enumerate(now.frames) if _runs_loop(frame)), default=-1)
        inner = now.frames[ran + 1 : common]
        return ran >= 0 and any(not frame.file.endswith(("selectors.py", "asyncio/events.py")) for frame in inner)

    def _waits_on(self, request: Request) -> bool:
        """A request that did not move between the looks, and has no right to wait."""
        old = next((other for other in self.earlier.requests if other.id == request.id), None)
        if old is None or old.phase != request.phase:
            return False
        if request.task_id is None:
            return True
        task = self.tasks.get(request.task_id)
        return task is not None and (self._retries(task) or (self._stands_still(task) and not self._patient(task)))

    def _patient(self, task: Task) -> bool:
        """It waits for what may rightly never come, or under a deadline of its own that has not passed."""
        primitive = self.primitives.get(task.waits_on or "")
        if primitive is None:
            return False
        if self._retries(task):
            return False
        deadline = self.deadlines.get((task.id, primitive.id))
        if deadline is not None and deadline > self.now.at_ns:
            return not self._leaks(primitive)
        if primitive.ready:
            return False
        return primitive.kind in ("timer", "disconnect") or (primitive.patience_ns is not None and primitive.patience_ns >= FOREVER)

    def _retries(self, task: Task) -> bool:
        """It sleeps until it tries once more what has failed many times: each attempt moves it, and none brings it on."""
        primitive = self.primitives.get(task.waits_on or "")
        tried = primitive.state.get("attempts") if primitive is not None and primitive.kind == "timer" else None
        return isinstance(tried, int) and tried >= ATTEMPTS

    def _leaks(self, primitive: Primitive) -> bool:
        """A pool of which something is out with nobody alive: its waiters' time limit will pass, and the next ones' after that."""
        found = primitive.state.get("out with the living")
        living = max(found if isinstance(found, int) else 0, len(primitive.holders))
        return primitive.kind == "pool" and not primitive.ready and primitive.in_use is not None and living < primitive.in_use

    def _age(self, request: Request) -> tuple[bool, int, str]:
        """Older tasks have lower numbers; a request that was answered already (background work) comes last."""
        task = self.tasks.get(request.task_id or "")
        number = re.search(r"(\d+)$", task.name) if task is not None else None
        return request.phase == "background", int(number[1]) if number else 1 << 40, request.id

    def _parked(self) -> list[Task]:
        """Tasks that wait in both looks for the same, without a right to do so for ever; those that hold something first."""
        found = [
            task
            for task in self.now.tasks
            if task.state != "running" and task.waits_on is not None and self._names_an_end(task) and self._stands_still(task)
            and not self._patient(task)
        ]  # fmt: skip
        return sorted(found, key=lambda task: (not task.holds, len(task.name), task.name))

    def _names_an_end(self, task: Task) -> bool:
        """A task that waits for another task or for nothing in particular is stuck only if that other is: the end of the chain is told."""
        primitive = self.primitives.get(task.waits_on or "")
        return primitive is not None and primitive.kind not in ("task", "gather", "other", "future", "group", "server-close")

    def _unknown_waits(self) -> list[Task]:
        """Tasks of the application's own code that wait for a bare future: of a library that is not known, or of nobody."""
        return [
            task
            for task in self.now.tasks
            if task.state != "running" and (primitive := self.primitives.get(task.waits_on or "")) is not None and primitive.kind in ("future", "other")
            and any(is_application(frame.file) for frame in task.frames) and self._stands_still(task) and not self._patient(task)
        ]  # fmt: skip

    def _stuck_threads(self) -> list[Thread]:
        """Threads that wait for a lock in both looks."""
        locks = {primitive.id for primitive in self.now.primitives if primitive.kind == "thread-lock" and not primitive.ready}
        return [thread for thread in self.now.threads if thread.waits_on in locks and not thread.idle and self._stands_still(thread)]


def _phase_of(frame: Frame) -> Iterator[str]:
    name = frame.function.rpartition(".")[2]
    return (kind for (file, function), kind in _PHASES.items() if function == name and frame.file.endswith(file))


def _runs_loop(frame: Frame) -> bool:
    """A frame of the machinery that runs a loop, or (uvloop has none) of what starts it."""
    name = frame.function.rpartition(".")[2]
    return name == "<module>" or (
        frame.file.endswith(("asyncio/base_events.py", "asyncio/runners.py", "uvloop/__init__.py")) and name in _RUNNING
    )


def _shared(one: tuple[Frame, ...], other: tuple[Frame, ...]) -> Iterator[Frame]:
    """The frames, outermost first, that are in both stacks."""
    for left, right in zip(one, other, strict=False):
        if (left.file, left.function) != (right.file, right.function):
            return
        yield left
