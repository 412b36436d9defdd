"""From a chain of frames to what it waits on, what it holds and whose request it works for, by what the integrations know.

The wait is named by the innermost run of library frames: of the spots recognised there the outermost wins, because
``RequestResponseCycle.receive`` says more than the ``Event.wait`` under it. What lies outside an application's frame
is not what the application waits on; only its deadlines count.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from hangwatch.integrations import DEADLINES, HOLDS, REQUESTS, WAITS, asyncio_tasks, opentelemetry
from hangwatch.integrations.base import DeadlineLook, Desk, HeldLook, Look, Sighting, Spot
from hangwatch.reading.view import FrameView, ObjectView, TaskView
from hangwatch.records import Frame, Request

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARY = re.compile(r"/site-packages/|/dist-packages/|/lib(?:64)?/python3\.\d+/|^<frozen |/hangwatch/(?:integrations/|patching\.py)")
_STDLIB = re.compile(r"/lib(?:64)?/python3\.\d+/|^<frozen ")
#: Our own wrappers stand between the application's frames: they are read (Event.wait's keeps the begin of the wait), and not shown.
_WRAPPERS = re.compile(r"/hangwatch/(?:integrations/\w+_hooks|patching)\.py$")
#: Places remembered. They hold no objects of the application's, only names; a service has some thousand functions.
_PLACES_LIMIT = 50_000


@dataclass(frozen=True, slots=True)
class Place:
    """What is known of a function by its file and name alone.

    ``library``: somebody else's code (the standard library, an installed package, ours). ``stdlib``: Python's own. ``ours``: hangwatch's own, and
    no wrapper. ``wrapper``: one of our wrappers, not to be shown.
    """

    library: bool
    stdlib: bool
    wrapper: bool
    ours: bool
    waits: tuple[Spot, ...]
    requests: tuple[Spot, ...]


_places: dict[tuple[str, str], Place] = {}


def place_of(frame: FrameView) -> Place:
    key = (frame.file, frame.name)
    known = _places.get(key)
    if known is None:
        if len(_places) >= _PLACES_LIMIT:
            _places.clear()
        known = _places[key] = _place(*key)
    return known


def _place(file: str, name: str) -> Place:
    path = file.replace("\\", "/")
    key = (path.rpartition("/")[2], name)
    wrapper = _WRAPPERS.search(path) is not None
    return Place(
        library=_LIBRARY.search(path) is not None or path.endswith(_known_files()),
        stdlib=_STDLIB.search(path) is not None and "-packages/" not in path,
        wrapper=wrapper,
        ours=file.startswith(_OURS) and not wrapper,
        waits=tuple(spot for spot in WAITS.get(key, ()) if path.endswith(spot.file)),
        requests=tuple(spot for spot in REQUESTS.get(key, ()) if path.endswith(spot.file)),
    )


@functools.cache
def _known_files() -> tuple[str, ...]:
    """Files of libraries by package and name: where they lie outside of site-packages (pip install --target) they are no application's."""
    spots = (spot for table in (WAITS, REQUESTS) for found in table.values() for spot in found)
    return tuple({spot.file for spot in spots if spot.file.count("/") > 1})


def is_library(file: str) -> bool:
    path = file.replace("\\", "/")
    return _LIBRARY.search(path) is not None or path.endswith(_known_files())


def record_of(frame: FrameView, desk: Desk) -> Frame:
    """The frame as a record; equal ones are one object, as ten thousand parked tasks have the same few."""
    interned: dict[tuple[str, int, str], Frame] = desk.memo.setdefault(__name__, {})
    key = (frame.file, frame.line, frame.function)
    known = interned.get(key)
    if known is None:
        known = interned[key] = Frame(*key)
    return known


@dataclass(frozen=True, slots=True)
class Facts:
    """What a whole chain says by the places of its frames alone: ten thousand parked tasks stand in few different ones.

    ``shown``: the frames for people, without our own wrappers. ``own``: the innermost frame of the application. ``telling``: the frames, innermost
    first, that say something of the wait. ``library``: from which index on there is nothing but libraries' frames. ``requests``: what tells the request.
    """

    places: tuple[Place, ...]
    shown: tuple[Frame, ...]
    own: Frame | None
    telling: tuple[int, ...]
    library: int
    requests: tuple[tuple[int, Spot], ...]


def facts_of(chain: list[FrameView], desk: Desk) -> Facts:
    known: dict[tuple[tuple[str, int, str, str], ...], Facts] = desk.memo.setdefault(f"{__name__}.facts", {})
    key = tuple([frame.where for frame in chain])
    found = known.get(key)
    if found is None:
        found = known[key] = _facts(chain, desk)
    return found


def _facts(chain: list[FrameView], desk: Desk) -> Facts:
    places = tuple([place_of(frame) for frame in chain])
    shown = tuple([record_of(frame, desk) for frame, place in zip(chain, places, strict=True) if not place.wrapper])
    own = next((index for index in range(len(chain) - 1, -1, -1) if not places[index].library), None)
    foreign = (index for index in range(len(chain) - 1, -1, -1) if not places[index].library and not places[index].wrapper)
    return Facts(
        places,
        shown,
        record_of(chain[own], desk) if own is not None else None,
        tuple([index for index in range(len(chain) - 1, -1, -1) if places[index].wrapper or places[index].waits]),
        next(foreign, -1) + 1,
        tuple([(index, spot) for index, place in enumerate(places) for spot in place.requests]),
    )


@dataclass(frozen=True, slots=True)
class Found:
    """What one chain says: its wait, the earliest moment at which a timeout of its own ends that, and since when it waits.

    ``index``: where in the chain the frame stands that named the wait.
    """

    sighting: Sighting | None = None
    deadline_ns: int | None = None
    since_ns: int | None = None
    index: int = sys.maxsize


NOTHING = Found()


def wait_of(chain: list[FrameView], desk: Desk, waiter_id: str, task: TaskView | None = None, facts: Facts | None = None) -> Found:
    """What the chain is parked on."""
    facts = facts or facts_of(chain, desk)
    # A thread runs its innermost coroutine: what a task that is parked there would wait for is not what the thread waits for.
    first = 0 if task is not None else 1 + max((index for index, frame in enumerate(chain) if frame.suspendable), default=-1)
    awaited = task.awaits() if task is not None else None
    best: Sighting | None = None
    at = sys.maxsize
    since: int | None = None
    deadlines: list[int] = []
    for index in facts.telling:
        if index < first:
            break
        frame, place, in_library = chain[index], facts.places[index], index >= facts.library
        if place.wrapper:
            since = _since(frame) if in_library and since is None else since
            continue
        for spot in place.waits:
            if not in_library and not spot.transparent:
                continue
            seen = _look(spot, Look(frame, chain, index, desk, waiter_id, task, awaited))
            if seen is None:
                continue
            if seen.deadline_ns is not None:
                deadlines.append(seen.deadline_ns)
            if not spot.transparent:
                best, at = seen, index
    if best is None and awaited is not None:
        best = asyncio_tasks.awaited(awaited, desk)
    return Found(best, min(deadlines, default=None), since, at)


def _since(wrapper: FrameView) -> int | None:
    held = wrapper.local("since_ns") if wrapper.name == "wait" else None
    value = held.value() if held is not None else None
    return value if isinstance(value, int) else None


def _look(spot: Spot, look: Look) -> Sighting | None:
    try:
        seen = spot.look(look)
    except Exception as error:
        look.desk.gap(f"what waits in {spot.function} of {spot.file} could not be read: {type(error).__name__}: {error}")
        return None
    return seen if isinstance(seen, Sighting) else None


def requests_of(chain: list[FrameView], desk: Desk, task_id: str, task: TaskView | None, facts: Facts | None = None) -> None:
    """Tells the desk which request the task works for, where a frame says so."""
    for index, spot in (facts or facts_of(chain, desk)).requests:
        try:
            told = spot.look(Look(chain[index], chain, index, desk, task_id, task))
        except Exception as error:
            desk.gap(f"the request in {spot.function} of {spot.file} could not be read: {type(error).__name__}: {error}")
            continue
        if isinstance(told, Request):
            desk.add_request(told)
            desk.bind(task_id, told.id)
            if task is not None:
                opentelemetry.note(told.id, task, desk)
        elif isinstance(told, str):
            desk.bind(task_id, told)


def _opened(chain: list[FrameView], wait_index: int, facts: Facts) -> Iterator[tuple[ObjectView, FrameView, _Known]]:
    """Every open context manager of every frame, outermost first, those inside an exit stack included.

    Not those that the standard library has entered to do the waiting: a queue's ``get`` stands in ``with self.not_empty``
    and has let it go.
    """
    for index, frame in enumerate(chain):
        if index >= wait_index and facts.places[index].stdlib:
            continue
        for manager in frame.held():
            known = _known(manager.base_names)
            yield manager, frame, known
            for inner in _in_exit_stack(manager) if known.is_stack else ():
                yield inner, frame, _known(inner.base_names)


def _in_exit_stack(manager: ObjectView) -> Iterator[ObjectView]:
    """contextlib's ExitStack and AsyncExitStack keep bound exit methods in a deque of pairs."""
    callbacks = manager.attr("_exit_callbacks")
    for pair in callbacks.items(200) if callbacks is not None else []:
        parts = pair.items(2)
        owner = parts[1].attr("__self__") if len(parts) == 2 else None
        if owner is not None:
            yield owner


def holds_of(chain: list[FrameView], desk: Desk, owner_id: str, wait_index: int, facts: Facts | None = None) -> int | None:
    """Tells the desk what the chain holds; gives the earliest deadline among the open timeouts."""
    deadlines = []
    for manager, frame, known in _opened(chain, wait_index, facts or facts_of(chain, desk)):
        when = known.deadline(manager) if known.deadline is not None else None
        if when is not None:
            deadlines.append(when)
        if known.held is not None:
            _hold(known.held, manager, desk, owner_id, frame)
    return min(deadlines, default=None)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a context manager by its class. ``is_stack``: it may be one of contextlib's that keep others."""

    deadline: DeadlineLook | None
    held: HeldLook | None
    is_stack: bool


@functools.lru_cache(4096)
def _known(base_names: tuple[str, ...]) -> _Known:
    """By the nearest class of its that anybody knows."""
    is_stack = any("ExitStack" in name for name in base_names)
    for name in base_names:
        if name in DEADLINES or name in HOLDS:
            return _Known(DEADLINES.get(name), HOLDS.get(name), is_stack)
    return _Known(None, None, is_stack)


def _hold(look: HeldLook, manager: ObjectView, desk: Desk, owner_id: str, frame: FrameView) -> None:
    try:
        primitive = look(manager, desk)
    except Exception as error:
        desk.gap(f"a held {manager.type_name} could not be read: {type(error).__name__}: {error}")
        return
    if primitive is not None:
        desk.add_primitive(primitive)
        desk.hold(owner_id, primitive.id, record_of(frame, desk))
