"""What stuck-startup and stuck-shutdown have in common: which await of the server's own start or stop has not come back."""

from __future__ import annotations

from hangwatch.records import FOREVER, Finding, Frame, Primitive, Task
from hangwatch.rules.base import Case
from hangwatch.rules.frames import frames_of, innermost, pick, place, waits_in, where
from hangwatch.rules.words import because, path_sentence, primitive_name, seconds, state_sentence, waiter_name


def tasks_with(case: Case, *words: str) -> list[Task]:
    """Tasks in whose await chain a function's plain name is one of these."""
    return [task for task in case.snapshot.tasks if any(frame.function.split(".")[-1] in words for frame in task.frames)]


def frames_with(tasks: list[Task], *words: str) -> list[Frame]:
    """Their frames of these names, innermost first."""
    return [frame for task in tasks for frame in reversed(task.frames) if frame.function.split(".")[-1] in words]


def finding(case: Case, cause: str, what: str, ids: list[str], first: list[Frame], advice: str) -> Finding:
    """``ids``: the tasks that hold it up, the most telling first; ``first``: frames of the server's own wait."""
    graph = case.graph
    path = graph.final(ids[0]) if ids else ()
    end = graph.primitives.get(path[-1]) if path and len(path) % 2 == 0 else None
    ago = case.snapshot.at_ns - case.stall.since_ns
    at = place(innermost(frames_of(graph, ids[0]))) if ids else ""
    waits = f": {waiter_name(graph, ids[0])} waits{f' in {at}' if at else ''}{f' for {primitive_name(end)}' if end else ''}" if ids else ""
    return Finding(
        cause=cause,
        title=f"{what}{f' after {seconds(ago)}' if case.stall.kind in ('startup', 'shutdown') and ago > 0 else ''}{waits}",
        because=because(
            f"The chain: {path_sentence(graph, path)}." if len(path) > 1 else "",
            [_told(case, i) for i in ids[:5]],
            state_sentence(end) if end else "",
            [f"The server itself waits in {place(frame)}." for frame in first[:2]],
        ),
        culprit=pick(where(graph, ids[:3]), first[:3], waits_in(graph, ids[:2]), where(graph, ids[:3], depth=3)),
        subjects=(*ids[:20], *path[1:2]),
        confidence="likely" if ids and not any(case.stands_still(i) is False and _is_work(end) for i in ids[:1]) else "suspected",
        advice=advice,
        frees=max(len(graph.behind(*ids)), len(ids), 1),
    )


def _is_work(end: Primitive | None) -> bool:
    return end is None or (end.patience_ns or 0) < FOREVER


def _told(case: Case, waiter_id: str) -> str:
    at = place(innermost(frames_of(case.graph, waiter_id)))
    return f"{waiter_name(case.graph, waiter_id)} is in {at}." if at else ""
