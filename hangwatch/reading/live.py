"""The reader of this process: everything a snapshot needs, seen from another thread, under the GIL, with nothing run.

Loops are given by who remembers them (the agent) and found in the frames of threads that run one; the heap is never
searched (a scan of 12 million containers did not end).
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

from hangwatch.kernel import procfs
from hangwatch.reading import installed, reach
from hangwatch.reading.live_frames import AWAITED_TYPES, LiveFrame, current_frames, owned_frame, suspended, thread_frames
from hangwatch.reading.live_loops import LiveLoop, active_threads, loop_view, loops_of
from hangwatch.reading.live_objects import LiveObject, field, instance_dict
from hangwatch.reading.stillness import no_collection
from hangwatch.reading.view import ObjectView, TaskView

#: Work done before the loop is let in: less than the interpreter's switch interval of 5 ms, because one turn of a loop takes the
#: GIL two or three times, and would wait so long each time.
SLICE_NS: Final = 2_000_000
#: How long the reader stands aside between slices. Long enough that a waiting thread takes the GIL, short enough to finish.
PAUSE_S: Final = 0.0002


def _c_asyncio() -> Any:
    """asyncio's C half, as asyncio itself has imported it (see live_objects)."""
    return sys.modules["_asyncio"]


class LiveTask:
    """A `TaskView`."""

    __slots__ = ("_reader", "running", "task")

    def __init__(self, task: Any, running: bool, reader: LiveReader) -> None:
        self.task = task
        self.running = running
        self._reader = reader

    @property
    def id(self) -> int:
        return id(self.task)

    @property
    def name(self) -> str:
        name = LiveObject(field(self.task, "_name")).value()
        return name if isinstance(name, str) else str(name) if isinstance(name, int) else "?"

    @property
    def loop_id(self) -> int | None:
        loop = field(self.task, "_loop")
        return None if loop is None else id(loop)

    @property
    def cancelling(self) -> int:
        count = field(self.task, "_num_cancels_requested")
        return count if type(count) is int else 0

    def object(self) -> LiveObject:
        return LiveObject(self.task)

    def frames(self) -> list[LiveFrame]:
        coroutine = field(self.task, "_coro")
        if self.running:
            return self._reader.running_frames(coroutine, field(self.task, "_loop"))
        return suspended(coroutine)

    def awaits(self) -> LiveObject | None:
        waiter = field(self.task, "_fut_waiter")
        return None if waiter is None else LiveObject(waiter)

    def context(self, variable: str) -> LiveObject | None:
        context = field(self.task, "_context")
        if type(context).__name__ != "Context":
            return None
        for known, value in context.items():
            if known.name == variable:
                return LiveObject(value)
        return None


def _is_running(generator: Any) -> bool:
    return any(getattr(generator, name, False) for name in ("cr_running", "gi_running", "ag_running"))


class LiveThread:
    """A `ThreadView` of a thread as it was when it was listed."""

    __slots__ = ("_frame", "_sockets", "ident", "name", "native_id")

    def __init__(self, ident: int, frame: types.FrameType | None, thread: Any, sockets: procfs.SocketTable) -> None:
        """``sockets``: one for all threads of a look, so that the kernel's tables are read once."""
        self.ident = ident
        self._frame = frame
        self._sockets = sockets
        name = LiveObject(field(thread, "_name")).value()
        native_id = field(thread, "_native_id")
        self.name = name if isinstance(name, str) else f"thread {ident:x}"
        # A thread that Python did not start has no known native id; its pthread address is as unique.
        self.native_id: int = native_id if type(native_id) is int else ident

    def frames(self) -> list[LiveFrame]:
        return thread_frames(self._frame)

    @property
    def cpu_ns(self) -> int | None:
        return procfs.thread_cpu_ns(self._sockets.pid, self.native_id)

    @property
    def syscall(self) -> str | None:
        return procfs.thread_syscall(self._sockets.pid, self.native_id, self._sockets)


class LiveReader:
    """The `Reader` of this process. ``loops``: those that are remembered; ``skip_threads``: idents of threads to leave out.

    ``loop_threads`` maps ``id(loop)`` to the ident of its thread, for loops that do not tell (uvloop).
    """

    source = "agent"

    def __init__(
        self,
        loops: Iterable[object] | None = None,
        skip_threads: frozenset[int] = frozenset(),
        slice_ns: int = SLICE_NS,
        loop_threads: Mapping[int, int] | None = None,
    ) -> None:
        self.gaps: list[str] = []
        self.pid = os.getpid()
        self._known = list(loops or ())
        self._skipped = skip_threads
        self._slice_ns = slice_ns
        self._loop_threads = dict(loop_threads or {})
        self._slice_began = time.perf_counter_ns()

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def slice(self) -> None:
        if time.perf_counter_ns() - self._slice_began >= self._slice_ns:
            time.sleep(PAUSE_S)
            self._slice_began = time.perf_counter_ns()

    def looking(self) -> AbstractContextManager[None]:
        return no_collection()

    # loops and threads

    def threads(self) -> list[LiveThread]:
        known = active_threads()
        frames = current_frames()
        sockets = procfs.SocketTable(self.pid)
        return [LiveThread(ident, frame, known.get(ident), sockets) for ident, frame in frames.items() if ident not in self._skipped]

    def loops(self) -> list[LiveLoop]:
        frames = current_frames()
        found: dict[int, tuple[Any, int | None]] = {id(loop): (loop, self._loop_threads.get(id(loop))) for loop in self._known}
        for ident, frame in frames.items():
            for loop in loops_of(frame):
                if id(loop) not in found or found[id(loop)][1] is None:
                    found[id(loop)] = (loop, ident)
        for task in self._registered():
            loop = field(task, "_loop")
            if loop is not None:
                found.setdefault(id(loop), (loop, None))
        threads = active_threads()
        return [loop_view(loop, ident, threads) for loop, ident in found.values()]

    # tasks

    def tasks(self) -> Iterator[LiveTask]:
        loops = [view.loop for view in self.loops()]
        running = _running_tasks(loops)
        for task in self._all_tasks(loops):
            if field(task, "_state") in (None, "PENDING"):
                yield LiveTask(task, id(task) in running, self)

    def _all_tasks(self, loops: list[Any]) -> list[Any]:
        found = {id(task): task for task in self._registered()}
        if sys.version_info >= (3, 14):
            for loop in loops:
                try:
                    found.update((id(task), task) for task in _c_asyncio().all_tasks(loop))
                except Exception as error:
                    self.gaps.append(f"the tasks of a loop could not be listed: {type(error).__name__}")
        return list(found.values())

    def _registered(self) -> list[Any]:
        """Tasks in asyncio's own registries: all up to 3.13, those not written in C from 3.14 on."""
        found: list[Any] = []
        for name in ("_all_tasks", "_scheduled_tasks", "_eager_tasks"):
            registry = field(asyncio.tasks, name)
            if registry is not None:
                found += [view.object for view in LiveObject(registry).items(limit=1_000_000)]
        return found

    def running_frames(self, coroutine: Any, loop: Any) -> list[LiveFrame]:
        """The part of the thread's stack that belongs to a running coroutine."""
        outermost = owned_frame(coroutine)
        for frame in current_frames().values():
            frames = thread_frames(frame)
            for index, view in enumerate(frames):
                if view.frame is outermost:
                    return frames[index:]
        return suspended(coroutine)

    # the rest

    def module(self, name: str) -> LiveObject | None:
        found = sys.modules.get(name)
        return None if found is None else LiveObject(found)

    def versions(self) -> Mapping[str, str]:
        """Read once per set of imported distributions; the answer is kept for the process."""
        return installed.versions()

    def suspended(self, obj: ObjectView) -> list[LiveFrame]:
        generator = obj.object if isinstance(obj, LiveObject) else None
        return suspended(generator) if type(generator) in AWAITED_TYPES and not _is_running(generator) else []

    def find(self, address: int) -> LiveObject | None:
        """Looks among loops, tasks, what they await, and what their frames refer to, one attribute deep."""
        for candidate in self._candidates():
            if id(candidate) == address:
                return LiveObject(candidate)
        return None

    def _candidates(self) -> Iterator[Any]:
        yield from (view.loop for view in self.loops())
        for task in self.tasks():
            yield task.task
            yield field(task.task, "_fut_waiter")
            for frame in task.frames():
                for view in frame.references():
                    yield view.object
                    yield from list(instance_dict(view.object).values())
            self.slice()
        for thread in self.threads():
            for frame in thread.frames():
                for view in frame.references():
                    yield view.object

    def reachable_from_live(self, target: ObjectView, parked: Iterable[TaskView]) -> bool | None:
        if not isinstance(target, LiveObject):
            return None
        doors = [view.task for view in parked if isinstance(view, LiveTask)]
        shut = {id(task) for task in doors}
        others = [view.task for view in self.tasks() if id(view.task) not in shut]
        return reach.reaches(target.object, doors, others, [view.loop for view in self.loops()], self._skipped, self.slice)


def _running_tasks(loops: list[Any]) -> set[int]:
    registry = field(asyncio.tasks, "_current_tasks")
    found = {id(view.object) for view in LiveObject(registry).items()} if registry is not None else set()
    if sys.version_info >= (3, 14):
        for loop in loops:
            try:
                found.add(id(_c_asyncio().current_task(loop)))
            except Exception:
                continue
    return found
