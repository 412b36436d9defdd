"""Tasks and threads, those with the same stack told once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hangwatch.console.style import Paint, cut, cut_path, safe
from hangwatch.evidence.base import OWN_THREADS
from hangwatch.graph import WaitGraph
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


def groups(owners: Iterable[Task | Thread], involved: Sequence[str]) -> list[Group]:
    """What the incident is about first, in the order of ``involved``; then the larger groups first. Threads of the agent are left out."""
    rank = {any_id: at for at, any_id in enumerate(involved)}
    found: dict[tuple[object, ...], list[Task | Thread]] = {}
    for owner in owners:
        if not is_own(owner):
            state = owner.state if isinstance(owner, Task) else ""
            found.setdefault((tuple(shown(owner.frames)), state), []).append(owner)
    made = []
    for members in found.values():
        members.sort(key=lambda owner: rank.get(owner.id, len(rank)))
        made.append(Group(tuple(members), tuple(shown(members[0].frames)), members[0].id in rank))
    return sorted(made, key=lambda g: (rank.get(g.owners[0].id, len(rank)), -len(g.owners)))


def is_own(owner: Task | Thread) -> bool:
    """A thread of the agent's: no part of the service."""
    return isinstance(owner, Thread) and owner.name.startswith(OWN_THREADS)


def involved_ids(incident: Incident) -> tuple[str, ...]:
    """Ids that the stall and the findings name, in this order, requests' tasks and loops' threads included."""
    stands_for = {r.id: r.task_id for r in incident.snapshot.requests if r.task_id} | {
        loop.id: loop.thread_id for loop in incident.snapshot.loops if loop.thread_id
    }
    named = (incident.stall.subject_id, *(s for f in incident.findings for s in f.subjects))
    return tuple(dict.fromkeys(i for name in named for i in (name, stands_for.get(name)) if i))


def request_names(incident: Incident) -> dict[str, str]:
    """``POST /orders`` by the id of the task that works for it."""
    graph = WaitGraph(incident.snapshot)
    found = {task.id: graph.request_of(task.id) for task in incident.snapshot.tasks}
    return {task_id: f"{request.method} {request.route}" for task_id, request in found.items() if request is not None}


def task_lines(incident: Incident, width: int, paint: Paint, everything: bool = False) -> Iterator[str]:
    yield from _lines(groups(incident.snapshot.tasks, involved_ids(incident)), request_names(incident), width, paint, everything)


def thread_lines(incident: Incident, width: int, paint: Paint, everything: bool = False) -> Iterator[str]:
    yield from _lines(groups(incident.snapshot.threads, involved_ids(incident)), {}, width, paint, everything)


def _lines(found: Sequence[Group], requests: dict[str, str], width: int, paint: Paint, everything: bool) -> Iterator[str]:
    kept = found if everything else found[:MAX_GROUPS]
    for group in kept:
        yield "  " + paint(cut(header(group, requests), width - 2), "strong" if group.involved else "dim")
        yield from _frames(group.frames, width, paint, everything)
    rest = sum(len(group.owners) for group in found[len(kept) :])
    if rest:
        yield "  " + paint(f"… {rest} more in {len(found) - len(kept)} other places (--all shows them)", "dim")


def header(group: Group, requests: Mapping[str, str]) -> str:
    """``38 × parked: POST /orders (Task-7), …`` or ``MainThread (the event loop's), in epoll_wait``."""
    first = group.owners[0]
    names = ", ".join(_name(owner, requests) for owner in group.owners[:3]) + (", …" if len(group.owners) > 3 else "")
    count = f"{len(group.owners)} × " if len(group.owners) > 1 else ""
    if isinstance(first, Task):
        cancelled = ", asked to cancel" if first.cancelling else ""
        return safe(f"{count}{first.state}{cancelled}: {names}")
    call = f", in {first.syscall}" if first.syscall else ""
    return safe(f"{count}{names}{call}")


def _name(owner: Task | Thread, requests: Mapping[str, str]) -> str:
    if isinstance(owner, Thread):
        return (owner.name or f"thread {owner.native_id}") + (" (the event loop's)" if owner.is_loop else "")
    name, request = owner.name or owner.id, requests.get(owner.id)
    return f"{request} ({name})" if request and request != name else name


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
