"""The server does not come up: the application's start-up awaits something that does not end."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Finding, Frame
from hangwatch.rules.base import Case
from hangwatch.rules.frames import application, innermost, is_application
from hangwatch.rules.lifecycle import finding, frames_with, tasks_with

_SERVER = ("startup", "_startup", "_serve", "serve", "wait_for_startup", "worker_serve", "setup")
_ADVICE = "Start what runs for ever with asyncio.create_task() (kept, and cancelled after the yield), and give what start-up waits for a time limit."


def check(case: Case) -> Iterator[Finding]:
    if case.stall.kind != "startup":
        return
    ours = [task for task in case.snapshot.tasks if (frame := innermost(task.frames)) is not None and is_application(frame.file)]
    lifespan = [
        task
        for task in ours
        if any("lifespan" in f.file or f.function.split(".")[-1] in ("lifespan", "startup", "__aenter__") for f in task.frames)
    ]
    first = [*_a_moment_ago(case), *frames_with(tasks_with(case, *_SERVER), *_SERVER)]
    ids = [task.id for task in lifespan or ours]
    yield finding(case, "stuck-startup", "The application's start-up has not ended", ids, first, _ADVICE)


def _a_moment_ago(case: Case) -> list[Frame]:
    """Where a start-up that tries again and again was at the first look: a task that runs at the second shows only its outermost frames then."""
    running = {task.id for task in case.snapshot.tasks if task.state == "running"}
    before = case.earlier.tasks if case.earlier is not None else ()
    return [frame for task in before if task.id in running for frame in application(task.frames)[:2] if is_application(frame.file)]
