"""Event loops of this process: which there are, which thread runs each, whether it sleeps."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from typing import Any, Final

from hangwatch.kernel import procfs
from hangwatch.reading.live_frames import thread_frames
from hangwatch.reading.live_objects import LiveObject, field, isinstance_c, name_of_type

#: A loop's thread in one of these is asleep in its selector (asyncio) or poller (libuv).
_POLLS: Final = frozenset(("epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6"))


class LiveLoop:
    """A `LoopView`."""

    __slots__ = ("_native_id", "loop", "thread_ident")

    def __init__(self, loop: Any, thread_ident: int | None, native_id: int | None) -> None:
        self.loop = loop
        self.thread_ident = thread_ident
        self._native_id = native_id

    @property
    def id(self) -> int:
        return id(self.loop)

    @property
    def kind(self) -> str:
        name = name_of_type(type(self.loop))
        return "uvloop" if name.startswith("uvloop") else "asyncio" if name.startswith("asyncio.") else name

    @property
    def asleep(self) -> bool | None:
        """By the system call: a loop that was woken but has not got the GIL yet still shows ``select`` in Python."""
        if self._native_id is None:
            return None
        called = procfs.thread_call_name(os.getpid(), self._native_id)
        # Of this moment as well: time.sleep of Python 3.10 is a select too.
        innermost = sys._current_frames().get(self.thread_ident) if self.thread_ident is not None else None
        in_select = innermost is not None and innermost.f_code.co_filename.endswith("selectors.py")
        if called is None:
            return in_select if self.kind == "asyncio" else None
        return called in _POLLS and (in_select or self.kind != "asyncio")

    def object(self) -> LiveObject:
        return LiveObject(self.loop)

    def ready(self) -> list[LiveObject] | None:
        queue = field(self.loop, "_ready")
        return None if queue is None else LiveObject(queue).items()

    def scheduled(self) -> int | None:
        heap = field(self.loop, "_scheduled")
        return None if heap is None else LiveObject(heap).length()


def active_threads() -> dict[int, Any]:
    """Thread objects by ident. A copy of a dict with int keys is made in one go, so no lock of threading's is needed."""
    active = field(threading, "_active")
    return dict(active) if type(active) is dict else {}


def loop_view(loop: Any, ident: int | None, threads: Mapping[int, Any]) -> LiveLoop:
    own = field(loop, "_thread_id")
    if type(own) is int:
        ident = own
    elif isinstance_c(loop, asyncio.BaseEventLoop):
        ident = None  # it says itself that it is not running
    native_id = field(threads.get(ident), "_native_id") if ident is not None else None
    return LiveLoop(loop, ident, native_id if type(native_id) is int else None)


#: Frames that run a loop: file's end and function -> the local that is it, and the attribute of that local, if it is not itself.
_RUNS_LOOP: Final = {
    ("base_events.py", "run_forever"): ("self", None),
    ("base_events.py", "_run_once"): ("self", None),
    ("runners.py", "run"): ("self", "_loop"),
}


def loops_of(frame: types.FrameType | None) -> Iterator[Any]:
    """Loops that a thread's stack shows to be running (uvloop's run_forever has no frame; its Runner has)."""
    for view in thread_frames(frame):
        place = _RUNS_LOOP.get((view.file.rpartition("/")[2], view.name))
        if place is None:
            continue
        for name, attribute in (place, ("loop", None)):
            held = view.local(name)
            held = held.attr(attribute) if held is not None and attribute else held
            if held is not None and _looks_like_loop(held):
                yield held.object
                break


def _looks_like_loop(view: LiveObject) -> bool:
    return any(name.startswith("uvloop.loop.") or name == "asyncio.events.AbstractEventLoop" for name in view.base_names)
