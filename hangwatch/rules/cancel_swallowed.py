"""A task was told to end, and goes on: something caught the cancellation and dropped it."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Finding, Frame, Task
from hangwatch.rules.base import Case
from hangwatch.rules.frames import application, pick, place, waits_in, where
from hangwatch.rules.source import catches_cancel
from hangwatch.rules.words import because, waiter_name, waiters_name


def check(case: Case) -> Iterator[Finding]:
    for task in case.snapshot.tasks:
        if task.cancelling >= 1 and task.id in case.relevant and task.state != "done":
            waiters = case.graph.behind(task.id) - {task.id}
            if waiters or task.id in case.stalled:
                yield from _judge(case, task)


def _before(case: Case, task: Task) -> Task | None:
    return next((t for t in case.earlier.tasks if t.id == task.id), None) if case.earlier is not None else None


def _judge(case: Case, task: Task) -> Iterator[Finding]:
    before = _before(case, task)
    if case.earlier is not None and (before is None or before.cancelling < 1):
        return  # it was told only just now
    again = before is not None and task.cancelling > before.cancelling
    went_on = before is not None and (task.frames, task.waits_on) != (before.frames, before.waits_on)
    yield _finding(case, task, before, again, went_on)


def _finding(case: Case, task: Task, before: Task | None, again: bool, went_on: bool) -> Finding:
    graph = case.graph
    waiters = sorted(graph.behind(task.id) - {task.id})
    direct = [w for p in graph.held_by(task.id) for w in graph.waiters(p)]
    name = waiter_name(graph, task.id)
    # One that is cancelled again and again moves all the time: what one look missed of its stack, the other may have.
    stacks = [application(frames) for frames in (task.frames, before.frames if before is not None else ())]
    own = [frame for frames in stacks for frame in frames]
    catchers = list({(frame.file, line): (frame, line) for frame in own if (line := catches_cancel(frame)) is not None}.values())
    times = f"{task.cancelling} times" if task.cancelling > 1 else "once"
    return Finding(
        cause="cancel-swallowed",
        title=f"{name} was cancelled {times} and goes on"
        + (f"; {waiters_name(graph, waiters)} {'wait' if len(waiters) > 1 else 'waits'} for its end" if waiters else ""),
        because=because(
            f"{name} has {task.cancelling} requests to cancel that it has not honoured.",
            "Between the two looks it was cancelled again and again." if again else "",
            "It went on to another place between the two looks." if went_on else "",
            [f"{place(frame)} catches the cancellation (line {line}) and does not raise it again." for frame, line in catchers[:2]],
        ),
        culprit=pick(
            _lines(catchers), where(graph, direct[:2]), stacks[1][:1], where(graph, [task.id], depth=3), waits_in(graph, [task.id])
        ),
        subjects=(task.id, *waiters[:20]),
        confidence="likely" if again or went_on or catchers or task.cancelling > 1 or direct else "suspected",
        advice="Catch Exception, not BaseException, around what may be cancelled, and raise CancelledError again; before Python 3.12 wait_for() itself may drop a cancellation that comes with the result.",
        frees=len(waiters) + 1,
    )


def _lines(catchers: list[tuple[Frame, int]]) -> list[Frame]:
    return [Frame(frame.file, line, frame.function) for frame, line in catchers]
