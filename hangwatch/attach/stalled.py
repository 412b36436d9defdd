"""Which of the things seen in two looks is the stall: without an agent nobody was there when it began.

From outside no age is known. What counts is what did not move between two looks: a loop whose thread stayed in the same
callback, a request at the same line, a parked task that has no right to wait for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from hangwatch.records import FOREVER, Loop, Primitive, Request, Snapshot, Stall, Task, Thread

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


def stall_between(earlier: Snapshot, snapshot: Snapshot) -> Stall | None:
    """The stall that the two looks show; None when everything moves or may rightly wait."""
    since, limit = earlier.at_ns, max(1, snapshot.at_ns - earlier.at_ns)
    for kind, subject in _candidates(earlier, snapshot):
        return Stall(kind, subject, since, limit)
    return None


def _candidates(earlier: Snapshot, snapshot: Snapshot) -> Iterable[tuple[str, str]]:
    yield from ((kind, subject) for kind, subject in _phases(earlier, snapshot))
    yield from (("loop", loop.id) for loop in snapshot.loops if _is_blocked(loop, earlier, snapshot))
    requests = [request for request in snapshot.requests if _stands_still(request, earlier, snapshot)]
    yield from (("request", request.id) for request in sorted(requests, key=lambda request: _order(request, snapshot)))
    yield from (("task", task.id) for task in _parked(earlier, snapshot))
    yield from (("task", thread.id) for thread in _stuck_threads(earlier, snapshot))


def _phases(earlier: Snapshot, snapshot: Snapshot) -> Iterable[tuple[str, str]]:
    """A task or thread that was starting or stopping the service in both looks, and did not move."""
    old: list[Task | Thread] = [*earlier.tasks, *earlier.threads]
    new: list[Task | Thread] = [*snapshot.tasks, *snapshot.threads]
    before = {owner.id: owner.frames for owner in old}
    for owner in new:
        for frame in owner.frames:
            for (file, function), kind in _PHASES.items():
                if frame.file.endswith(file) and frame.function.rpartition(".")[2] == function and before.get(owner.id) == owner.frames:
                    yield kind, owner.id


def _is_blocked(loop: Loop, earlier: Snapshot, snapshot: Snapshot) -> bool:
    """Its thread was not asleep in the selector in either look, and what it runs is the same."""
    old = next((other for other in earlier.loops if other.id == loop.id), None)
    if old is None or loop.asleep is not False or old.asleep is not False or loop.thread_id is None:
        return False
    if loop.running_task_id != old.running_task_id:
        return False
    now, before = _thread(snapshot, loop.thread_id), _thread(earlier, loop.thread_id)
    if now is None or before is None:
        return False
    common = sum(1 for _ in _shared(now, before))
    ran = next((place for place, frame in enumerate(now.frames) if frame.function.rpartition(".")[2] == "_run_once"), -1)
    # Below the loop's own turn at least one frame of the callback is the same: it is still in that callback. A look that
    # caught the loop between two callbacks, or on its way out of the selector, shares nothing below.
    inner = now.frames[ran + 1 : common]
    return any(not frame.file.endswith(("selectors.py", "asyncio/events.py")) for frame in inner) if ran >= 0 else common > 0


def _shared(one: Thread, other: Thread) -> Iterable[object]:
    """The frames, outermost first, that are in both stacks."""
    for left, right in zip(one.frames, other.frames, strict=False):
        if (left.file, left.function) != (right.file, right.function):
            return
        yield left


def _thread(snapshot: Snapshot, thread_id: str) -> Thread | None:
    return next((thread for thread in snapshot.threads if thread.id == thread_id), None)


def _stands_still(request: Request, earlier: Snapshot, snapshot: Snapshot) -> bool:
    old = next((other for other in earlier.requests if other.id == request.id), None)
    if old is None or old.phase != request.phase:
        return False
    if request.task_id is None:
        return True
    now, before = _task(snapshot, request.task_id), _task(earlier, request.task_id)
    if now is None or before is None or now.frames != before.frames or now.waits_on != before.waits_on:
        return False
    return not _patient(now, snapshot)


def _task(snapshot: Snapshot, task_id: str) -> Task | None:
    return next((task for task in snapshot.tasks if task.id == task_id), None)


def _primitive(snapshot: Snapshot, primitive_id: str | None) -> Primitive | None:
    return next((primitive for primitive in snapshot.primitives if primitive.id == primitive_id), None)


def _patient(task: Task, snapshot: Snapshot) -> bool:
    """It waits for what may rightly never come, or under a deadline of its own that has not passed."""
    primitive = _primitive(snapshot, task.waits_on)
    if primitive is None:
        return False
    wait = next((wait for wait in snapshot.waits if wait.task_id == task.id and wait.primitive_id == primitive.id), None)
    if wait is not None and wait.deadline_ns is not None and wait.deadline_ns > snapshot.at_ns:
        return True
    if primitive.ready:
        return False
    return primitive.kind in ("timer", "disconnect") or (primitive.patience_ns is not None and primitive.patience_ns >= FOREVER)


def _order(request: Request, snapshot: Snapshot) -> tuple[bool, int, str]:
    """Older tasks have lower numbers; a request that was answered already (background work) comes last."""
    task = _task(snapshot, request.task_id) if request.task_id else None
    number = re.search(r"(\d+)$", task.name) if task is not None else None
    return request.phase == "background", int(number[1]) if number else 1 << 40, request.id


def _parked(earlier: Snapshot, snapshot: Snapshot) -> list[Task]:
    """Tasks that wait in both looks for the same, without a right to do so for ever; those that hold something first."""
    before = {task.id: task for task in earlier.tasks}
    found = [
        task
        for task in snapshot.tasks
        if task.state != "running" and task.id in before and before[task.id].frames == task.frames and before[task.id].waits_on == task.waits_on
        and task.waits_on is not None and not _patient(task, snapshot) and _named(task, snapshot)
    ]  # fmt: skip
    return sorted(found, key=lambda task: (not task.holds, len(task.name), task.name))


def _named(task: Task, snapshot: Snapshot) -> bool:
    """A task that waits for another task or for nothing in particular is stuck only if that other is; the end of the chain is told."""
    primitive = _primitive(snapshot, task.waits_on)
    return primitive is not None and primitive.kind not in ("task", "gather", "other", "future", "group", "server-close")


def _stuck_threads(earlier: Snapshot, snapshot: Snapshot) -> list[Thread]:
    """Threads that wait for a lock in both looks."""
    before = {thread.id: thread for thread in earlier.threads}
    return [
        thread
        for thread in snapshot.threads
        if thread.id in before and before[thread.id].frames == thread.frames and not thread.idle
        and (primitive := _primitive(snapshot, thread.waits_on)) is not None and primitive.kind == "thread-lock" and not primitive.ready
    ]  # fmt: skip
