"""The server was told to stop and does not: it waits for a connection, a stream, a task or a thread that nobody ends."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Finding
from hangwatch.rules.base import Case
from hangwatch.rules.frames import innermost, is_application, is_standard
from hangwatch.rules.lifecycle import finding, frames_with, tasks_with

_SERVER = ("shutdown", "_wait_tasks_to_complete", "wait_closed", "worker_serve", "_shutdown", "stop", "cleanup")
_ADVICE = "Have the server close its connections and end its streams before it waits for them (newer releases do), and set a limit for a graceful stop."


def check(case: Case) -> Iterator[Finding]:
    if case.stall.kind == "shutdown":
        stopping = tasks_with(case, *_SERVER)
        first = sorted(frames_with(stopping, *_SERVER), key=lambda frame: is_standard(frame.file))
        yield finding(case, "stuck-shutdown", "The server was told to stop and has not ended", _holding(case, [t.id for t in stopping]), first, _ADVICE)
        return
    for primitive, _ in case.waiting_on("server-close"):
        waiters = case.impatient(primitive)
        if waiters and primitive.ready is not True:
            holders = [h for h in case.graph.live_holders(primitive.id) if h not in waiters]
            first = frames_with([case.graph.tasks[w] for w in waiters if w in case.graph.tasks], "wait_closed")
            what = "A server that was closed still has open connections, and closing it waits for them"
            yield finding(case, "stuck-shutdown", what, [*waiters, *holders], first, _ADVICE)


def _holding(case: Case, stopping: list[str]) -> list[str]:
    """The tasks that the server may be waiting for: of requests first, then others of the application; its own stop last."""
    requests = [t.id for t in case.snapshot.tasks if case.graph.request_of(t.id) is not None]
    other = [t.id for t in case.snapshot.tasks if (frame := innermost(t.frames)) is not None and is_application(frame.file)]
    found = [i for i in dict.fromkeys([*requests, *other]) if i not in stopping]
    return [*found[:10], *stopping]
