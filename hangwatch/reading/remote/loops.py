"""`LoopView` over another process' memory: which loops there are, and which thread runs each."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from hangwatch.reading.remote.code import Codes
from hangwatch.reading.remote.kernelside import KernelSide
from hangwatch.reading.remote.memory import Unreadable
from hangwatch.reading.remote.objects import RemoteObject
from hangwatch.reading.remote.roster import ThreadState
from hangwatch.reading.remote.tasks import RemoteTask
from hangwatch.reading.view import FrameView, ObjectView

_BROKEN = (Unreadable, struct.error, OverflowError)
#: System calls in which a loop sleeps until something happens; libuv knows the first three only.
_EPOLLS = ("epoll_wait", "epoll_pwait", "epoll_pwait2")
_POLLS = (*_EPOLLS, "poll", "ppoll", "select", "pselect6")
#: Python frames that run a loop: end of the file, function -> the local and, where it is not the loop itself, the attribute.
_RUNS = {
    ("base_events.py", "run_forever"): ("self", ""),
    ("base_events.py", "_run_once"): ("self", ""),
    ("base_events.py", "run_until_complete"): ("self", ""),
    ("runners.py", "run"): ("self", "_loop"),
}


class RemoteLoop:
    """One event loop. ``thread_ident`` is None for a loop that nobody runs."""

    __slots__ = ("_innermost", "_side", "_view", "native_id", "thread_ident")

    def __init__(
        self, view: RemoteObject, thread_ident: int | None, native_id: int | None, innermost: FrameView | None, side: KernelSide
    ) -> None:
        self._view = view
        self._innermost = innermost
        self.thread_ident = thread_ident
        self.native_id = native_id
        self._side = side

    @property
    def id(self) -> int:
        return self._view.id

    @property
    def kind(self) -> str:
        name = self._view.type_name
        return "uvloop" if name.startswith("uvloop") else "asyncio" if name.startswith("asyncio.") else name

    @property
    def asleep(self) -> bool | None:
        """By the system call: a loop that was woken but does not get the GIL still shows ``select`` in Python."""
        called = self._side.call_name(self.native_id) if self.native_id is not None else None
        if called is None or self._innermost is None:
            return None
        if self.kind == "uvloop":
            # It polls in C, below whichever frame runs it; epoll of a callback's own would be Python's selectors.
            return called in _EPOLLS and not self._innermost.file.endswith("selectors.py")
        return called in _POLLS and self._innermost.file.endswith("selectors.py")

    def object(self) -> RemoteObject:
        return self._view

    def ready(self) -> list[ObjectView] | None:
        queue = self._view.attr("_ready")
        return queue.items() if queue is not None and queue.length() is not None else None

    def scheduled(self) -> int | None:
        heap = self._view.attr("_scheduled")
        return heap.length() if heap is not None else None


def find_loops(codes: Codes, tasks: Iterable[RemoteTask], threads: Sequence[ThreadState], side: KernelSide) -> list[RemoteLoop]:
    """Loops that threads are seen to run, and those that have tasks."""
    runs: dict[int, int | None] = {}
    for thread in threads:
        for frame in thread.frames:
            loop = _run_by(frame)
            if loop is not None:
                runs[loop.id] = thread.ident
    for task in tasks:
        found = task.loop_id
        if found is not None:
            runs.setdefault(found, None)
    outside = side.outside_ids()
    native = {thread.ident: outside.get(thread.inside_id, thread.inside_id) for thread in threads}
    views = []
    for address, seen in runs.items():
        ident = seen if seen is not None else _stated_thread(codes, address, native)
        stack = next((thread.frames for thread in threads if thread.ident == ident), [])
        native_id = native.get(ident) if ident is not None else None
        views.append(RemoteLoop(RemoteObject(codes, address), ident, native_id, stack[-1] if stack else None, side))
    return views


def turn_of(loop: RemoteLoop, threads: Sequence[ThreadState]) -> tuple[int, ...] | None:
    """What tells one callback of asyncio's loop from the next: the handle it runs, and its place in this turn. None for uvloop."""
    for thread in threads:
        if thread.ident != loop.thread_ident:
            continue
        for frame in reversed(thread.frames):
            if frame.name == "_run_once" and frame.file.endswith("base_events.py"):
                found = [frame.local(name) for name in ("handle", "i", "ntodo", "end_time")]
                # A handle's address may be used again at once; its place among the others then still differs, or the time does.
                return tuple(hash((view.id, view.value())) for view in found if view is not None)
    return None


def _run_by(frame: FrameView) -> ObjectView | None:
    place = _RUNS.get((frame.file.rpartition("/")[2], frame.name))
    if place is None:
        return None
    for name, attribute in (place, ("loop", "")):
        held = frame.local(name)
        held = held.attr(attribute) if held is not None and attribute else held
        if held is not None and any(
            base.startswith("uvloop.loop.") or base == "asyncio.events.AbstractEventLoop" for base in held.base_names
        ):
            return held
    return None


def _stated_thread(codes: Codes, loop: int, idents: Iterable[int]) -> int | None:
    """Loops remember the ident of their thread while they run: asyncio's in an attribute, uvloop in a C field somewhere."""
    view = RemoteObject(codes, loop)
    stated = view.attr("_thread_id")
    value = stated.value() if stated is not None else None
    if isinstance(value, int):
        return value if value in set(idents) else None
    if not view.type_name.startswith("uvloop"):
        return None
    known = set(idents)
    try:
        size = codes.heap.class_of(loop).basic_size
        words = codes.heap.memory.words(loop, min(size, 4096) // 8)
    except _BROKEN:
        return None
    return next((word for word in words if word in known), None)
