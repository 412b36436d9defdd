"""`TaskView` over another process' memory, with the words by which a second reading tells whether the task has moved."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from hangwatch.reading.remote.chain import chain
from hangwatch.reading.remote.code import Codes
from hangwatch.reading.remote.fields import task_name
from hangwatch.reading.remote.frames import RemoteFrame
from hangwatch.reading.remote.generators import RUNNING
from hangwatch.reading.remote.heap import Heap
from hangwatch.reading.remote.memory import Memory, Unreadable
from hangwatch.reading.remote.objects import RemoteObject
from hangwatch.reading.remote.roster import ThreadState
from hangwatch.reading.view import FrameView, ObjectView

#: FUTURE_FINISHED (Modules/_asynciomodule.c); pending is 0.
_LAST_STATE: Final = 2


class RemoteTask:
    """One task. ``moving``: it could not be read at one moment."""

    __slots__ = ("_awaits", "_codes", "_fields", "_frames", "_id", "_marks", "_view", "moving", "running", "unplaced")

    def __init__(self, codes: Codes, address: int, running: bool) -> None:
        self._codes = codes
        self._id = address
        self.running = running
        self.moving = False
        #: it runs, and is on no thread's stack: the stacks are of another moment
        self.unplaced = False
        self._frames: list[RemoteFrame] = []
        self._marks: list[tuple[int, bytes]] = []
        self._view = RemoteObject(codes, address)
        self._awaits: ObjectView | None = None
        #: the C fields, of one moment; empty for a task written in Python
        self._fields: tuple[int, ...] = ()

    @property
    def id(self) -> int:
        return self._id

    def object(self) -> RemoteObject:
        return self._view

    def _attribute(self, name: str) -> ObjectView | None:
        found = self._view.attr(name)
        return None if found is None or found.type_name == "NoneType" else found

    def _field(self, offset: int) -> ObjectView | None:
        """What a C field points to; None for None and for NULL."""
        address = self._fields[offset >> 3]
        return RemoteObject(self._codes, address) if address and address != self._codes.heap.none else None

    def _number(self, offset: int) -> int:
        return self._fields[offset >> 3] >> (32 if offset & 4 else 0) & 0xFFFFFFFF

    def pending(self) -> bool:
        """Reads the task's own fields; they are of this moment from now on."""
        heap = self._codes.heap
        layout, info = heap.layout, heap.class_of(self._id)
        if heap.shape(info) == "task":
            self._fields = heap.memory.words(self._id, (max(layout.task_context, layout.future_state, layout.task_cancels) >> 3) + 1)
            state_word = self._number(layout.future_state)
            if state_word > _LAST_STATE:
                raise Unreadable("torn task")
            return state_word == 0
        state = self._view.attr("_state")
        if state is None:
            raise Unreadable("torn task")
        return state.value() == "PENDING"

    def still_stands(self) -> bool:
        """Of a task whose marks agree with now: reads its other fields (cancel requests, its name) anew. False when it moved after all."""
        before = self._fields
        try:
            pending = self.pending()
        except (Unreadable, ValueError):
            return False
        first = self._codes.heap.layout.task_waiter >> 3
        return pending and self._fields[first : first + 2] == before[first : first + 2]

    def read(self, threads: Sequence[ThreadState]) -> None:
        """The await chain; of a running task also the frames its thread stands in. Raises Unreadable when torn."""
        layout = self._codes.heap.layout
        coroutine = self._field(layout.task_coro) if self._fields else self._attribute("_coro")
        self._awaits = self._field(layout.task_waiter) if self._fields else self._attribute("_fut_waiter")
        self._frames = chain(self._codes, coroutine.id)[0] if coroutine is not None else []
        self.running = bool(self._frames) and self._frames[-1].state == RUNNING
        inner = _inner_frames(self._frames[-1], threads) if self.running else []
        self.unplaced = inner is None
        self._frames += inner or ()
        self._marks = list(self._mark())

    def _mark(self) -> Iterator[tuple[int, bytes]]:
        """Address and content of what changes when the task goes on: what it awaits, its frames with their stacks."""
        heap = self._codes.heap
        memory, layout = heap.memory, heap.layout
        if self._fields:
            # From one to the other lies nothing that changes while it stays parked.
            first, last = sorted((layout.task_waiter, layout.future_state))
            words = self._fields[first >> 3 : (last >> 3) + 1]
            yield self._id + (first & ~7), struct.pack(f"<{len(words)}Q", *words)
        for frame in self._frames:
            if frame.owner and frame.state != RUNNING:
                yield from frame.content
                if not frame.holds_state:
                    yield frame.owner + layout.generator_frame, memory.read(frame.owner + layout.generator_frame, 8)

    @property
    def marks(self) -> list[tuple[int, bytes]]:
        return self._marks

    @property
    def name(self) -> str:
        try:
            if self._fields:
                return task_name(self._codes.heap, self._fields[self._codes.heap.layout.task_name >> 3])
        except (Unreadable, ValueError):
            return "?"
        named = self._view.attr("_name")
        value = named.value() if named is not None else None
        return value if isinstance(value, str) else "?"

    @property
    def loop_id(self) -> int | None:
        loop = self._field(self._codes.heap.layout.future_loop) if self._fields else self._attribute("_loop")
        return loop.id if loop is not None else None

    @property
    def cancelling(self) -> int:
        if self._fields:
            layout = self._codes.heap.layout
            return self._number(layout.task_cancels) if layout.task_cancels else 0
        count = self._view.attr("_num_cancels_requested")
        value = count.value() if count is not None else 0
        return value if isinstance(value, int) else 0

    def frames(self) -> list[FrameView]:
        return list(self._frames)

    def awaits(self) -> ObjectView | None:
        return self._awaits

    def context(self, variable: str) -> ObjectView | None:
        context = self._attribute("_context")
        if context is None:
            return None
        try:
            address = _in_context(self._codes.heap, context.id, variable)
        except (Unreadable, ValueError):
            return None
        return RemoteObject(self._codes, address) if address else None


def _inner_frames(last: RemoteFrame, threads: Sequence[ThreadState]) -> list[RemoteFrame] | None:
    """What lies above this coroutine's frame on the stack of the thread that runs it; None when it is on none."""
    for thread in threads:
        for place, frame in enumerate(thread.frames):
            if frame.address == last.address:
                return thread.frames[place + 1 :]
    return None


def _in_context(heap: Heap, context: int, variable: str) -> int:
    """Walks the context's hash trie (Python/hamt.c): its nodes are arrays of key and value, or NULL and a node below."""
    memory, layout = heap.memory, heap.layout
    trie = memory.u64(context + layout.context_vars)
    waiting = [memory.u64(trie + layout.hamt_root)] if trie else []
    seen = 0
    while waiting and seen < 2000:
        node = waiting.pop()
        seen += 1
        name = heap.class_of(node).plain_name
        if name == "hamt_array_node":
            waiting += [child for child in memory.words(node + layout.hamt_array_items, 32) if child]
            continue
        if name not in ("hamt_bitmap_node", "hamt_collision_node"):
            raise Unreadable("torn context")
        words = memory.words(node + layout.hamt_bitmap_items, min(heap.size(node), 1024))
        for key, value in zip(words[::2], words[1::2], strict=False):
            if not key:
                waiting.append(value)
            elif heap.text(memory.u64(key + layout.contextvar_name)) == variable:
                return value
    return 0


def still_true(memory: Memory, tasks: Sequence[RemoteTask]) -> list[bool]:
    """For each task: do the words that would have changed still read the same, at this moment, past the cache?"""
    agree = memory.unchanged([mark for task in tasks for mark in task.marks])
    if all(agree):
        return [True] * len(tasks)
    ends = itertools.accumulate(len(task.marks) for task in tasks)
    return [all(agree[end - len(task.marks) : end]) for task, end in zip(tasks, ends, strict=True)]
