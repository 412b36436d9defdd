"""The server was told to stop and does not: it waits for a connection, a stream, a task or a thread that nobody ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from hangwatch.records import Finding, Task
from hangwatch.rules.base import Case
from hangwatch.rules.frames import innermost, is_application, is_standard
from hangwatch.rules.lifecycle import finding, frames_with, tasks_with

_SERVER = ("shutdown", "_wait_tasks_to_complete", "wait_closed", "worker_serve", "_shutdown", "stop", "cleanup")
_ADVICE = "Have the server close its connections and end its streams before it waits for them (newer releases do), and set a limit for a graceful stop."

_OF_THREADS = "Tell the thread to stop and join it at shutdown, or make it a daemon; a job that was handed to a pool must end before the interpreter can."


def check(case: Case) -> Iterator[Finding]:
    if case.stall.kind == "shutdown":
        stopping = tasks_with(case, *_SERVER)
        first = sorted(frames_with(stopping, *_SERVER), key=lambda frame: is_standard(frame.file))
        holding = _holding(case, [*(t.id for t in stopping), *_ending(case)])
        advice = _OF_THREADS if holding and holding[0] in case.graph.threads else _ADVICE
        yield finding(case, "stuck-shutdown", "The server was told to stop and has not ended", holding, first, advice)
        return
    yield from _on_the_way(case)
    for primitive, _ in case.waiting_on("server-close"):
        waiters = case.impatient(primitive)
        if waiters and primitive.ready is not True:
            holders = [h for h in case.graph.live_holders(primitive.id) if h not in waiters]
            first = frames_with([case.graph.tasks[w] for w in waiters if w in case.graph.tasks], "wait_closed")
            what = "A server that was closed still has open connections, and closing it waits for them"
            yield finding(case, "stuck-shutdown", what, [*waiters, *holders], first, _ADVICE)


def _on_the_way(case: Case) -> Iterator[Finding]:
    """A request is stuck while the server is stopping: it is what the stop waits for. Only suspected: the stop has a limit of its own."""
    stopping = [t for t in tasks_with(case, "shutdown", "_shutdown") if _is_servers_stop(t) and case.stands_still(t.id)]
    if stopping and case.stall.kind == "request":
        first = sorted(frames_with(stopping, *_SERVER), key=lambda frame: is_standard(frame.file))
        told = finding(
            case,
            "stuck-shutdown",
            "The server is stopping and waits for a request that does not end",
            _holding(case, [t.id for t in stopping]),
            first,
            _ADVICE,
        )
        yield dataclasses.replace(told, confidence="suspected")


def _is_servers_stop(task: Task) -> bool:
    """The innermost frames outside the standard library are the server's: it is the server that waits, no application's own shutdown()."""
    inner = next((frame for frame in reversed(task.frames) if not is_standard(frame.file)), None)
    return inner is not None and not is_application(inner.file) and inner.function.split(".")[-1] in _SERVER


def _ending(case: Case) -> list[str]:
    """Threads in which the interpreter itself ends: the main program is through, and other threads are waited for."""
    return [
        thread.id
        for thread in case.snapshot.threads
        if any(is_standard(frame.file) and frame.function.split(".")[-1] in ("_shutdown", "_python_exit") for frame in thread.frames)
    ]


def _holding(case: Case, stopping: list[str]) -> list[str]:
    """The tasks that the server may be waiting for: of requests first, then others of the application; its own stop last."""
    requests = [t.id for t in case.snapshot.tasks if case.graph.request_of(t.id) is not None]
    keeping = [h for s in stopping for p in case.graph.waits_of(s) for h in case.graph.live_holders(p)]
    other = [t.id for t in case.snapshot.tasks if (frame := innermost(t.frames)) is not None and is_application(frame.file)]
    found = [i for i in dict.fromkeys([*requests, *keeping, *other]) if i not in stopping]
    return [*found[:10], *stopping]
