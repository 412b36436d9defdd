"""Tasks and threads, those with the same stack told once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hangwatch.console.style import Paint, cut, cut_path, safe
from hangwatch.records import Frame, Incident, Task, Thread
from hangwatch.rules.frames import is_application, shown

#: Groups, and frames of one, that are shown unless all are asked for.
MAX_GROUPS, MAX_FRAMES = 8, 12


@dataclass(frozen=True, slots=True)
class Group:
    """Owners of one stack (without our own frames), those of the incident first."""

    owners: tuple[Task | Thread, ...]
    frames: tuple[Frame, ...]
    involved: bool


def groups(owners: Iterable[Task | Thread], involved: frozenset[str]) -> list[Group]:
    """What the incident is about first, then the larger groups first."""
    found: dict[tuple[object, ...], list[Task | Thread]] = {}
    for owner in owners:
        frames = tuple(shown(owner.frames))
        state = owner.state if isinstance(owner, Task) else ""
        found.setdefault((frames, state), []).append(owner)
    made = [
        Group(tuple(sorted(g, key=lambda o: o.id not in involved)), tuple(shown(g[0].frames)), any(o.id in involved for o in g))
        for g in found.values()
    ]
    return sorted(made, key=lambda g: (not g.involved, -len(g.owners)))


def involved_ids(incident: Incident) -> frozenset[str]:
    """Ids that the findings and the stall name, requests' tasks included."""
    named = {incident.stall.subject_id, *(s for f in incident.findings for s in f.subjects)}
    named |= {r.task_id for r in incident.snapshot.requests if r.id in named and r.task_id}
    named |= {loop.thread_id for loop in incident.snapshot.loops if loop.id in named and loop.thread_id}
    return frozenset(named)


def task_lines(incident: Incident, width: int, paint: Paint, everything: bool = False) -> Iterator[str]:
    yield from _lines(groups(incident.snapshot.tasks, involved_ids(incident)), width, paint, everything)


def thread_lines(incident: Incident, width: int, paint: Paint, everything: bool = False) -> Iterator[str]:
    yield from _lines(groups(incident.snapshot.threads, involved_ids(incident)), width, paint, everything)


def _lines(found: Sequence[Group], width: int, paint: Paint, everything: bool) -> Iterator[str]:
    kept = found if everything else found[:MAX_GROUPS]
    for group in kept:
        yield "  " + paint(cut(header(group), width - 2), "strong" if group.involved else "dim")
        yield from _frames(group.frames, width, paint, everything)
    rest = sum(len(group.owners) for group in found[len(kept) :])
    if rest:
        yield "  " + paint(f"… {rest} more in {len(found) - len(kept)} other places (--all shows them)", "dim")


def header(group: Group) -> str:
    """``38 × parked: Task-7, Task-9, …`` or ``MainThread (the event loop's), epoll_wait``."""
    first = group.owners[0]
    names = ", ".join(_name(owner) for owner in group.owners[:3]) + (", …" if len(group.owners) > 3 else "")
    count = f"{len(group.owners)} × " if len(group.owners) > 1 else ""
    if isinstance(first, Task):
        cancelled = ", asked to cancel" if first.cancelling else ""
        return safe(f"{count}{first.state}{cancelled}: {names}")
    call = f", in {first.syscall}" if first.syscall else ""
    return safe(f"{count}{names}{call}")


def _name(owner: Task | Thread) -> str:
    if isinstance(owner, Thread):
        return (owner.name or f"thread {owner.native_id}") + (" (the event loop's)" if owner.is_loop else "")
    return owner.name or owner.id


def _frames(frames: Sequence[Frame], width: int, paint: Paint, everything: bool) -> Iterator[str]:
    """Innermost last, as a traceback; of a long one both ends."""
    left_out = 0 if everything else max(0, len(frames) - MAX_FRAMES)
    kept = [*frames[:3], None, *frames[3 + left_out :]] if left_out else list(frames)
    for frame in kept:
        if frame is None:
            yield "      " + paint(f"… {left_out} frames", "dim")
            continue
        own = is_application(frame.file)
        where = f"{short_path(frame.file)}:{frame.line}"
        function = cut(safe(frame.function), max(16, width // 2 - 8))
        text = f"      {function}  " + cut_path(safe(where), max(12, width - 8 - len(function)))
        yield paint(text, "" if own else "dim") if not own else text
    if not frames:
        yield "      " + paint("(no Python frame)", "dim")


def short_path(file: str) -> str:
    """A library's file from its package on; others as they are, the home folder as ``~``."""
    for mark in ("/site-packages/", "/dist-packages/"):
        if mark in file:
            return file.rpartition(mark)[2]
    _, lib, tail = file.rpartition("/lib/python3")
    if lib and "/" in tail:
        return tail.partition("/")[2]
    home = os.path.expanduser("~")
    return "~" + file[len(home) :] if len(home) > 1 and file.startswith(home + "/") else file
