"""Where the interpreter keeps its threads and its asyncio tasks, and which tasks run at this moment."""

from __future__ import annotations

import platform
import struct
from dataclasses import dataclass, field
from typing import Final

from hangwatch.errors import CannotLook
from hangwatch.reading.remote import debug_offsets, elf
from hangwatch.reading.remote.code import Codes
from hangwatch.reading.remote.frames import RemoteFrame
from hangwatch.reading.remote.generators import RUNNING
from hangwatch.reading.remote.heap import Heap
from hangwatch.reading.remote.layouts import Roots
from hangwatch.reading.remote.memory import Unreadable
from hangwatch.reading.remote.objects import weak_members

_BROKEN = (Unreadable, struct.error, OverflowError)
_MOST_THREADS, _MOST_TASKS, _MOST_FRAMES = 20_000, 1_000_000, 2000
#: Frames of the interpreter's own, without code of anybody (``enum _frameowner``).
_OWNED_BY_C = 3
_UNKNOWN_HELP = "This build of Python is laid out in a way hangwatch does not know: `py-spy dump --pid` may still show its threads."


@dataclass(slots=True)
class ThreadState:
    """One thread that Python knows. ``inside_id`` is its native id as seen inside the target's own pid namespace."""

    address: int
    ident: int
    inside_id: int
    frames: list[RemoteFrame] = field(default_factory=list)
    complete: bool = True


#: Where glibc keeps a thread's id in its record: x86-64, arm64.
_RECORD_ID: Final = (720, 208)


def thread_states(codes: Codes, roots: Roots, inside_ids: frozenset[int]) -> list[ThreadState]:
    """All threads with their stacks, outermost frame first. ``inside_ids``: the ids that the kernel lists (may be empty)."""
    heap, layout = codes.heap, codes.heap.layout
    memory = heap.memory
    found: list[ThreadState] = []
    address = memory.u64(roots.interpreter + layout.threads_head)
    seen: set[int] = set()
    while address and address not in seen and len(found) < _MOST_THREADS:
        seen.add(address)
        ident = memory.u64(address + layout.thread_ident)
        native = memory.u64(address + layout.thread_native) if layout.thread_native else _thread_record_id(heap, ident, inside_ids)
        state = ThreadState(address, ident, native)
        state.frames, state.complete = _stack(codes, address)
        found.append(state)
        address = memory.u64(address + layout.thread_next)
    return found


def _thread_record_id(heap: Heap, record: int, inside_ids: frozenset[int]) -> int:
    """3.9 and 3.10 know only the C library's thread record. The kernel's id stands in it, where depends on the library."""
    if heap.layout.has("record_id"):
        return heap.memory.i32(record + heap.layout.record_id)
    try:
        words: tuple[int, ...] = struct.unpack("<512i", heap.memory.read(record, 2048))
    except Unreadable:
        return 0
    # glibc's place first: in a container ids are numbers like 1 and 2, and such stand elsewhere in the record too.
    usual = _RECORD_ID if platform.machine() == "x86_64" else _RECORD_ID[::-1]
    others = range(0, 2048, 4) if len(inside_ids) > 1 else ()
    for place in (*usual, *others):
        word: int = words[place // 4]
        if word in inside_ids:
            heap.layout.change("record_id", place)
            return word
    return next(iter(inside_ids)) if len(inside_ids) == 1 else 0


def _stack(codes: Codes, thread: int) -> tuple[list[RemoteFrame], bool]:
    heap, layout = codes.heap, codes.heap.layout
    memory = heap.memory
    frames: list[RemoteFrame] = []
    complete = True
    try:
        address = memory.u64(thread + layout.thread_frame)
        if address and layout.version in ((3, 11), (3, 12)):
            address = memory.u64(address + layout.cframe_frame)
        seen: set[int] = set()
        while address and address not in seen and len(frames) < _MOST_FRAMES:
            seen.add(address)
            if layout.version < (3, 11) or memory.u8(address + layout.frame_owner) < _OWNED_BY_C:
                frames.append(RemoteFrame(codes, address, RUNNING))
            address = memory.u64(address + layout.frame_back)
        # A coroutine that stops at an await while the stack is followed loses its caller: then the rest seems not to be there.
        complete = not (frames and frames[-1].suspendable)
    except _BROKEN:
        complete = False
    frames.reverse()
    return frames, complete


@dataclass(frozen=True, slots=True)
class Gil:
    """Who has the GIL (address of the thread's state, 0 when nobody), and how often it has changed hands."""

    holder: int
    switches: int


def gil_of(heap: Heap, roots: Roots) -> Gil | None:
    """None where its place is not known for sure."""
    layout, memory = heap.layout, heap.memory
    if layout.has("runtime_gil"):
        at = roots.runtime + layout.runtime_gil
    elif layout.has("interpreter_gil"):
        at = memory.u64(roots.interpreter + layout.interpreter_gil)
    else:
        return None
    # As it is now, past the cache: it is compared with what the kernel says of the holder at this moment.
    holder, locked, switches = memory.fresh([(at + layout.gil_holder, 8), (at + layout.gil_locked, 4), (at + layout.gil_switches, 8)])
    if holder is None or switches is None or locked not in (b"\0\0\0\0", b"\1\0\0\0"):
        return None
    return Gil(int.from_bytes(holder, "little") if any(locked) else 0, int.from_bytes(switches, "little"))


class TaskTable:
    """The registries of asyncio in the target: found once, read at every look."""

    def __init__(self, heap: Heap, roots: Roots, executable: str) -> None:
        self._heap = heap
        self._roots = roots
        self._lists = self._asyncio_lists(executable) if heap.layout.version >= (3, 14) else {}
        if "task.coro" in self._lists:
            self._adopt()
        self._proven = False

    def _adopt(self) -> None:
        """3.14+: the asyncio module itself says where the fields are that differ between builds."""
        layout, lists = self._heap.layout, self._lists
        layout.change("task_coro", lists["task.coro"])
        layout.change("task_waiter", lists["task.coro"] - 8)
        layout.change("task_cancels", lists["task.coro"] - 16)
        layout.change("task_name", lists["task.name"])
        layout.change("task_context", lists["task.name"] + 8)
        layout.change("future_state", lists["task.is_task"] - 4)
        layout.change("task_must_cancel", lists["task.is_task"])

    def _module(self, name: str) -> int:
        """Address of a module's dictionary, 0 when it was not imported."""
        heap = self._heap
        module = heap.find_in_dict(self._roots.modules, name)
        return heap.memory.u64(module + heap.layout.module_dict) if module else 0

    def addresses(self, threads: list[ThreadState]) -> list[int]:
        """All tasks, done or not. Raises CannotLook where asyncio is there but its registries are not what they should be."""
        heap = self._heap
        module = self._module("asyncio.tasks")
        if not module:
            return []
        found: dict[int, None] = {}
        known = False
        for name in ("_all_tasks", "_scheduled_tasks"):
            registry = heap.find_in_dict(module, name)
            if registry and heap.shape(heap.class_of(registry)) == "weakset":
                known = True
                found.update(dict.fromkeys(weak_members(heap, registry)))
        eager = heap.find_in_dict(module, "_eager_tasks")
        if eager and heap.shape(heap.class_of(eager)) == "set":
            found.update(dict.fromkeys(heap.set_items(eager)))
        if heap.layout.version >= (3, 14) and self._module("_asyncio"):
            if not self._lists:
                raise CannotLook("the list of asyncio tasks was not found in this build of Python", _UNKNOWN_HELP)
            for task in self._linked(threads):
                found[task] = None
        elif not known:
            raise CannotLook("asyncio's registry of tasks was not found in this build of Python", _UNKNOWN_HELP)
        tasks = [address for address in found if self._is_task(address)]
        self._prove(tasks)
        return tasks

    def _is_task(self, address: int) -> bool:
        heap = self._heap
        try:
            info = heap.class_of(address)
            return heap.shape(info) == "task" or bool(heap.attribute(address, "_coro"))
        except _BROKEN:
            return False

    def _linked(self, threads: list[ThreadState]) -> list[int]:
        memory, lists = self._heap.memory, self._lists
        heads = [self._roots.interpreter + lists["interp.tasks_head"]]
        heads += [thread.address + lists["thread.tasks_head"] for thread in threads]
        heads = [head for head in heads if memory.u64(head)]  # a thread that never ran asyncio has an empty, unset list
        found: list[int] = []
        for head in heads:
            node = memory.u64(head)
            seen: set[int] = set()
            while node != head and len(found) < _MOST_TASKS:
                task = node - lists["task.node"]
                # A task that ends is taken out of the list: its links then lead nowhere, and what comes behind it would be missed.
                if not node or node in seen or not self._is_task(task):
                    raise Unreadable("torn list of tasks")
                seen.add(node)
                found.append(task)
                node = memory.u64(node)
        return found

    def running(self, threads: list[ThreadState]) -> dict[int, int]:
        """Running tasks -> address of the thread state where that is known, else 0."""
        heap = self._heap
        found: dict[int, int] = {}
        if self._lists:
            for thread in threads:
                task = heap.memory.u64(thread.address + self._lists["thread.running_task"])
                if task:
                    found[task] = thread.address
        for name in ("_asyncio", "asyncio.tasks"):
            module = self._module(name)
            current = heap.find_in_dict(module, "_current_tasks") if module else 0
            if current and heap.shape(heap.class_of(current)) == "dict":
                for _, task in heap.dict_pairs(current, 1000):
                    if not self._is_task(task):
                        raise Unreadable("torn registry of running tasks")
                    found.setdefault(task, 0)
        return found

    def _prove(self, tasks: list[int]) -> None:
        """The fields of tasks are where the layout says: on live ones, before the first is shown."""
        if self._proven or not tasks:
            return
        heap = self._heap
        sample = [task for task in tasks if heap.shape(heap.class_of(task)) == "task"][:40]
        pending = [task for task in sample if self._looks_right(task, heap.layout.task_coro)]
        if sample and len(pending) * 2 < len(sample):
            offset = self._search(sample)
            if offset is None:
                raise CannotLook("asyncio tasks are laid out unlike any build of Python that hangwatch knows", _UNKNOWN_HELP)
            shift = offset - heap.layout.task_coro
            for name in ("task_coro", "task_waiter", "task_name", "task_context"):
                heap.layout.change(name, getattr(heap.layout, name) + shift)
        self._proven = bool(sample)

    def _looks_right(self, task: int, offset: int) -> bool:
        """A coroutine, then a name, then a context: in this order since 3.9."""
        heap = self._heap
        try:
            coroutine, name, context = heap.memory.words(task + offset, 3)
            if not coroutine or not name or not context:
                return False
            named = heap.shape(heap.class_of(name)) in ("str", "int")
            # Some builds name it with its module, some without.
            return named and heap.class_of(context).plain_name == "Context" and heap.class_of(coroutine).plain_name != "Context"
        except _BROKEN:
            return False

    def _search(self, tasks: list[int]) -> int | None:
        size = self._heap.class_of(tasks[0]).basic_size
        for offset in range(16, max(size - 16, 16), 8):
            if sum(self._looks_right(task, offset) for task in tasks) * 2 >= len(tasks):
                return offset
        return None

    def _asyncio_lists(self, executable: str) -> dict[str, int]:
        """3.14+: the table that the asyncio module carries, by symbol, else by its shape in the images' data."""
        memory = self._heap.memory
        sizes = (self._roots.sizes.get("interpreter_state.size", 0), self._roots.sizes.get("thread_state.size", 0))
        images = {self._roots.image, executable}
        for region in memory.regions:
            name = region.path.removesuffix(" (deleted)")
            if name not in images and not name.rsplit("/", 1)[-1].startswith("_asyncio."):
                continue
            if not region.offset:
                symbols = elf.symbols(memory, region.start, ("_Py_AsyncioDebug", "_AsyncioDebug"))
                for address in symbols.values():
                    words = _asyncio_table(memory.read(address, 8 * len(debug_offsets.ASYNCIO)), 0, *sizes)
                    if words:
                        return words
            if "w" in region.permissions and region.end - region.start <= 1 << 23:
                found = _find_table(memory.fresh([(region.start, region.end - region.start)])[0] or b"", *sizes)
                if found:
                    return found
        return {}


def _find_table(data: bytes, interpreter_size: int, thread_size: int) -> dict[str, int]:
    """By the interpreter's size, which stands in the table at a known place."""
    needle = struct.pack("<Q", interpreter_size)
    before = 8 * debug_offsets.ASYNCIO.index("interp.size")
    place = data.find(needle)
    while place >= 0:
        if place % 8 == 0 and place >= before:
            found = _asyncio_table(data, place - before, interpreter_size, thread_size)
            if found:
                return found
        place = data.find(needle, place + 1)
    return {}


def _asyncio_table(data: bytes, place: int, interpreter_size: int, thread_size: int) -> dict[str, int]:
    count = len(debug_offsets.ASYNCIO)
    if place + 8 * count > len(data):
        return {}
    table = dict(zip(debug_offsets.ASYNCIO, struct.unpack_from(f"<{count}Q", data, place), strict=True))
    task = [table[name] for name in debug_offsets.ASYNCIO if name.startswith("task.") and name != "task.size"]
    thread = [table[name] for name in ("thread.running_loop", "thread.running_task", "thread.tasks_head")]
    fits = (
        64 < table["task.size"] < 1024 and all(16 <= offset < table["task.size"] for offset in task)
        and table["interp.tasks_head"] < interpreter_size <= table["interp.size"] + 8
        and thread_size <= table["thread.size"] and all(offset < table["thread.size"] for offset in thread)
    )  # fmt: skip
    return table if fits else {}
