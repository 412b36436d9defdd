"""From a chain of frames to what it waits on, what it holds and whose request it works for, by what the integrations know.

The wait is named by the innermost run of library frames: of the spots recognised there the outermost wins, because
``RequestResponseCycle.receive`` says more than the ``Event.wait`` under it. What lies outside an application's frame
is not what the application waits on; only its deadlines count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from hangwatch.integrations import DEADLINES, HOLDS, REQUESTS, WAITS, asyncio_tasks
from hangwatch.integrations.base import Desk, Look, Sighting, Spot
from hangwatch.reading.view import FrameView, ObjectView, TaskView
from hangwatch.records import Frame, Request

_LIBRARY = re.compile(r"/site-packages/|/dist-packages/|/lib(?:64)?/python3\.\d+/|^<frozen |/hangwatch/(?:integrations|reading|patching)")
#: The agent's wrappers. They are ours: not shown, but that of Event.wait is read, as it keeps the begin of the wait in its frame.
_WRAPPERS = re.compile(r"/hangwatch/integrations/\w+_hooks\.py$")
_known_files: dict[str, bool] = {}


def is_library(file: str) -> bool:
    """Is it somebody else's code (the standard library, an installed package, ours), not the application's?"""
    known = _known_files.get(file)
    if known is None:
        if len(_known_files) > 20_000:
            _known_files.clear()
        known = _known_files[file] = _LIBRARY.search(file.replace("\\", "/")) is not None
    return known


def is_wrapper(frame: FrameView) -> bool:
    return _WRAPPERS.search(frame.file) is not None


def record_of(frame: FrameView) -> Frame:
    return Frame(frame.file, frame.line, frame.function)


def innermost_own(chain: list[FrameView]) -> FrameView | None:
    """The innermost frame of the application."""
    return next((frame for frame in reversed(chain) if not is_library(frame.file)), None)


@dataclass(frozen=True, slots=True)
class Found:
    """What one chain says: its wait, and the earliest moment at which a timeout of its own ends that."""

    sighting: Sighting | None
    deadline_ns: int | None
    since_ns: int | None


def spots_of(frame: FrameView, index: dict[tuple[str, str], list[Spot]]) -> list[Spot]:
    file = frame.file
    spots = index.get((file[file.rfind("/") + 1 :], frame.name))
    if not spots:
        return []
    return [spot for spot in spots if file.endswith(spot.file)]


def wait_of(chain: list[FrameView], desk: Desk, waiter_id: str, task: TaskView | None = None) -> Found:
    """What the chain is parked on."""
    awaited = task.awaits() if task is not None else None
    best: Sighting | None = None
    since: int | None = None
    deadlines: list[int] = []
    in_library = True
    for index in range(len(chain) - 1, -1, -1):
        frame = chain[index]
        if is_wrapper(frame):
            value = frame.local("since_ns")
            known = value.value() if value is not None else None
            since = known if isinstance(known, int) else since
            continue
        in_library = in_library and is_library(frame.file)
        for spot in spots_of(frame, WAITS):
            if not in_library and not spot.transparent:
                continue
            seen = _look(spot, Look(frame, chain, index, desk, waiter_id, task, awaited))
            if seen is None:
                continue
            if seen.deadline_ns is not None:
                deadlines.append(seen.deadline_ns)
            if not spot.transparent:
                best = seen
    if best is None and awaited is not None:
        best = asyncio_tasks.awaited(awaited, desk)
    return Found(best, min(deadlines, default=None), since)


def _look(spot: Spot, look: Look) -> Sighting | None:
    try:
        seen = spot.look(look)
    except Exception as error:
        look.desk.gap(f"what waits in {spot.function} of {spot.file} could not be read: {type(error).__name__}: {error}")
        return None
    return seen if isinstance(seen, Sighting) else None


def requests_of(chain: list[FrameView], desk: Desk, task_id: str, task: TaskView | None) -> None:
    """Tells the desk which request the task works for, where a frame says so."""
    for index, frame in enumerate(chain):
        for spot in spots_of(frame, REQUESTS):
            try:
                told = spot.look(Look(frame, chain, index, desk, task_id, task))
            except Exception as error:
                desk.gap(f"the request in {spot.function} of {spot.file} could not be read: {type(error).__name__}: {error}")
                continue
            if isinstance(told, Request):
                desk.add_request(told)
                desk.bind(task_id, told.id)
            elif isinstance(told, str):
                desk.bind(task_id, told)


def opened(chain: list[FrameView]) -> Iterator[tuple[ObjectView, FrameView]]:
    """Every open context manager of every frame, outermost first, those inside an exit stack included."""
    for frame in chain:
        for manager in frame.held():
            yield manager, frame
            for inner in _in_exit_stack(manager):
                yield inner, frame


def _in_exit_stack(manager: ObjectView) -> Iterator[ObjectView]:
    """contextlib's ExitStack and AsyncExitStack keep bound exit methods in a deque of pairs."""
    callbacks = manager.attr("_exit_callbacks")
    for pair in callbacks.items(200) if callbacks is not None else []:
        parts = pair.items(2)
        owner = parts[1].attr("__self__") if len(parts) == 2 else None
        if owner is not None:
            yield owner


def holds_of(chain: list[FrameView], desk: Desk, owner_id: str) -> int | None:
    """Tells the desk what the chain holds; gives the earliest deadline among the open timeouts."""
    deadlines = []
    for manager, frame in opened(chain):
        for name in manager.base_names:
            deadline = DEADLINES.get(name)
            if deadline is not None:
                when = deadline(manager)
                deadlines += [when] if when is not None else []
                break
            look = HOLDS.get(name)
            if look is not None:
                _hold(look, manager, desk, owner_id, frame)
                break
    return min(deadlines, default=None)


def _hold(look: object, manager: ObjectView, desk: Desk, owner_id: str, frame: FrameView) -> None:
    try:
        primitive = look(manager, desk)  # type: ignore[operator]
    except Exception as error:
        desk.gap(f"a held {manager.type_name} could not be read: {type(error).__name__}: {error}")
        return
    if primitive is not None:
        desk.add_primitive(primitive)
        desk.hold(owner_id, primitive.id, record_of(frame))
