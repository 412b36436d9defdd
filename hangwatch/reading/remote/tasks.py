"""`TaskView` over another process' memory, with the words by which a second reading tells whether the task has moved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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


class RemoteTask:
    """One task. ``moving``: it could not be read at one moment."""

    __slots__ = ("_codes", "_frames", "_id", "_marks", "_view", "moving", "running")

    def __init__(self, codes: Codes, address: int, running: bool) -> None:
        self._codes = codes
        self._id = address
        self.running = running
        self.moving = False
        self._frames: list[RemoteFrame] = []
        self._marks: list[tuple[int, bytes]] = []
        self._view = RemoteObject(codes, address)

    @property
    def id(self) -> int:
        return self._id

    def object(self) -> RemoteObject:
        return self._view

    def _attribute(self, name: str) -> ObjectView | None:
        found = self._view.attr(name)
        return None if found is None or found.type_name == "NoneType" else found

    def pending(self) -> bool:
        state = self._view.attr("_state")
        if state is None:
            raise Unreadable("torn task")
        return state.value() == "PENDING"

    def read(self, threads: Sequence[ThreadState]) -> None:
        """The await chain; of a running task also the frames its thread stands in. Raises Unreadable when torn."""
        coroutine = self._attribute("_coro")
        self._frames = chain(self._codes, coroutine.id)[0] if coroutine is not None else []
        if self._frames and self._frames[-1].state == RUNNING:
            self._frames += _inner_frames(self._frames[-1], threads)
            self.running = True
        else:
            self.running = False
        self._marks = list(self._mark())

    def _mark(self) -> Iterator[tuple[int, bytes]]:
        """Address and content of what changes when the task goes on: what it awaits, its frames with their stacks."""
        heap = self._codes.heap
        memory, layout = heap.memory, heap.layout
        if heap.shape(heap.class_of(self._id)) == "task":
            for address, length in ((self._id + layout.task_waiter, 8), (self._id + layout.future_state, 4)):
                yield address, memory.read(address, length)
        for frame in self._frames:
            if frame.owner and frame.state != RUNNING:
                yield from frame.content
                if layout.version >= (3, 11):
                    yield frame.owner + layout.generator_state, memory.read(frame.owner + layout.generator_state, 1)
                else:
                    yield frame.owner + layout.generator_frame, memory.read(frame.owner + layout.generator_frame, 8)

    @property
    def marks(self) -> list[tuple[int, bytes]]:
        return self._marks

    @property
    def name(self) -> str:
        heap = self._codes.heap
        try:
            if heap.shape(heap.class_of(self._id)) == "task":
                return task_name(heap, self._id)
        except (Unreadable, ValueError):
            return "?"
        named = self._view.attr("_name")
        value = named.value() if named is not None else None
        return value if isinstance(value, str) else "?"

    @property
    def loop_id(self) -> int | None:
        loop = self._attribute("_loop")
        return loop.id if loop is not None else None

    @property
    def cancelling(self) -> int:
        count = self._view.attr("_num_cancels_requested")
        value = count.value() if count is not None else 0
        return value if isinstance(value, int) else 0

    def frames(self) -> list[FrameView]:
        return list(self._frames)

    def awaits(self) -> ObjectView | None:
        return self._attribute("_fut_waiter")

    def context(self, variable: str) -> ObjectView | None:
        context = self._attribute("_context")
        if context is None:
            return None
        try:
            address = _in_context(self._codes.heap, context.id, variable)
        except (Unreadable, ValueError):
            return None
        return RemoteObject(self._codes, address) if address else None


def _inner_frames(last: RemoteFrame, threads: Sequence[ThreadState]) -> list[RemoteFrame]:
    """What lies above this coroutine's frame on the stack of the thread that runs it."""
    for thread in threads:
        for place, frame in enumerate(thread.frames):
            if frame.address == last.address:
                return thread.frames[place + 1 :]
    return []


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
    ranges = [(address, len(content)) for task in tasks for address, content in task.marks]
    found = iter(memory.fresh(ranges) if ranges else ())
    return [[next(found) for _ in task.marks] == [content for _, content in task.marks] for task in tasks]
