"""`Reader` of another process' memory, or of a core file's.

One look remembers what it read until `refresh`: the views of one look belong together. A process that runs meanwhile
is read again until two readings of its tasks agree, or the task is named as moving; a layout that is not recognised is
refused (CannotLook), so that "no tasks" always means that there are none.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from hangwatch.errors import CannotLook
from hangwatch.reading.remote import installed, layouts
from hangwatch.reading.remote.chain import chain
from hangwatch.reading.remote.code import Codes
from hangwatch.reading.remote.collector import collecting_flag
from hangwatch.reading.remote.generators import RUNNING
from hangwatch.reading.remote.heap import Heap
from hangwatch.reading.remote.kernelside import KernelSide, ProcessSide
from hangwatch.reading.remote.loops import RemoteLoop, find_loops, turn_of
from hangwatch.reading.remote.memory import Memory, Source, Unreadable
from hangwatch.reading.remote.objects import RemoteObject
from hangwatch.reading.remote.process import ProcessSource
from hangwatch.reading.remote.roster import TaskTable, ThreadState, gil_of, thread_states
from hangwatch.reading.remote.tasks import RemoteTask, still_true
from hangwatch.reading.remote.threads import RemoteThread
from hangwatch.reading.view import FrameView, LoopView, ObjectView, TaskView, ThreadView

_BROKEN = (Unreadable, struct.error, OverflowError)
#: Readings of one part before it is given up as moving.
_ATTEMPTS = 12
_PART_ATTEMPTS = 60
_EMPTY_ATTEMPTS = 4
#: Of a thread that calls and returns all the time, as one that logs in an endless loop, a third of the readings hold together.
_STACK_ATTEMPTS = 40
#: CPU time that a thread must have used for "it stands at one instruction" to mean anything: some slices of the scheduler.
_COMPUTED_NS = 20_000_000
#: And in this share of the time: one that hardly gets a CPU is seen where it was taken off it, which for a busy server is always the same call.
_ON_CPU = 1 / 3
_T = TypeVar("_T")


class RemoteReader:
    """Reads process ``pid`` from outside: nothing runs in it, nothing stops it.

    ``side`` tells what the kernel knows of its threads (system calls, ids in its namespaces); the default reads only
    CPU times and ids. ``source``: other memory than the process' own (a core file). Raises CannotLook.
    """

    def __init__(self, pid: int, side: KernelSide | None = None, source: Source | None = None) -> None:
        self.pid = pid
        self.source = "attach" if source is None else "core"
        self.gaps: list[str] = []
        self.side: KernelSide = side or ProcessSide(pid)
        self.memory = Memory(source or ProcessSource(pid))
        executable = self.side.executable()
        try:
            self.roots = layouts.find(self.memory, executable)
            self.heap = Heap(self.memory, self.roots.layout)
            self.codes = Codes(self.heap, self.side.peer)
            self._table = TaskTable(self.heap, self.roots, executable)
            self._collecting = collecting_flag(self.heap, self.roots)
            self.heap.none = self._none()
        except _BROKEN as error:
            raise CannotLook(
                f"the memory of process {pid} cannot be followed: {error}", "Try once more; `hangwatch doctor PID` tells what works here."
            ) from error
        self._threads: list[ThreadState] | None = None
        self._tasks: list[RemoteTask] | None = None
        #: of the look before: whose words still read the same need not be read again
        self._earlier: dict[int, RemoteTask] = {}
        self._before: object = None
        self._found_loops: list[RemoteLoop] | None = None
        self._versions: dict[str, str] | None = None

    def refresh(self) -> None:
        """Begins a new look: what was read before is forgotten, views of before must not be used again."""
        self.gaps.clear()
        self.side.begin()
        self._forget()
        self._earlier = {task.id: task for task in self._tasks or () if not (task.moving or task.running)}
        self._threads = self._tasks = self._found_loops = None

    def _forget(self) -> None:
        self.heap.forget()

    def now_ns(self) -> int:
        return self.side.now_ns()

    def slice(self) -> None:
        """Nothing to do: the target runs all the time."""

    def _none(self) -> int:
        """Address of None."""
        module = self.heap.find_in_dict(self.roots.modules, "builtins")
        return self.heap.find_in_dict(self.memory.u64(module + self.heap.layout.module_dict), "None") if module else 0

    # -- threads

    def _thread_states(self) -> list[ThreadState]:
        if self._threads is None:
            self._read()
        assert self._threads is not None
        return self._threads

    def threads(self) -> list[ThreadView]:
        names = self._thread_names()
        outside = self.side.outside_ids()
        return [
            RemoteThread(state, outside.get(state.inside_id, state.inside_id), names.get(state.ident, ""), self.side)
            for state in self._thread_states()
        ]

    def _thread_names(self) -> dict[int, str]:
        module = self.module("threading")
        active = module.attr("_active") if module is not None else None
        names: dict[int, str] = {}
        for key, thread in active.pairs() if active is not None else ():
            ident, name = key.value(), thread.attr("_name")
            text = name.value() if name is not None else None
            if isinstance(ident, int) and isinstance(text, str):
                names[ident] = text
        return names

    # -- one look

    def _read(self) -> None:
        """Threads, then tasks with their chains; each part until a reading of it holds together."""
        before = self._before = self.side.activity()
        inside = frozenset(self.side.outside_ids())
        threads = self._whole(inside)
        addresses = self._steadily(lambda: self._table.addresses(threads))
        running = self._steadily(lambda: self._table.running(threads))
        tasks = self._chains(addresses, running, threads)
        self._threads, self._tasks = threads, self._settle(tasks, threads, before)
        self._earlier = {}
        self._note_threads(threads)

    def _whole(self, inside: frozenset[int]) -> list[ThreadState]:
        """The threads, once more while a stack comes out torn: one that spins calls and returns faster than its frames are followed.

        No frame at all may be such a moment too, or a thread that is in no Python code: some readings tell, and whether it runs.
        """
        threads = self._steadily(lambda: thread_states(self.codes, self.roots, inside))
        for attempt in range(_STACK_ATTEMPTS):
            if all(state.complete and (state.frames or (attempt >= _EMPTY_ATTEMPTS and not self._runs(state))) for state in threads):
                break
            self._forget()
            threads = self._steadily(lambda: thread_states(self.codes, self.roots, inside))
        return threads

    def _runs(self, state: ThreadState) -> bool:
        return self.side.call_name(self.side.outside_ids().get(state.inside_id, state.inside_id)) == "running"

    def _steadily(self, part: Callable[[], _T]) -> _T:
        """What ``part`` reads, from fresh memory again as long as it comes out torn."""
        problem = ""
        for _ in range(_PART_ATTEMPTS):
            try:
                return part()
            except _BROKEN as error:
                problem = str(error)
                self._forget()
        raise CannotLook(
            f"process {self.pid} changes faster than it can be read ({problem})",
            "Try once more. If this stays so, the target may use a build of Python whose layout hangwatch does not know.",
        )

    def _note_threads(self, threads: list[ThreadState]) -> None:
        torn = sum(not state.complete for state in threads)
        if torn:
            self.gaps.append(f"{torn} thread(s) ran while their stack was read: it is not shown whole")

    def _chains(self, addresses: list[int], running: Mapping[int, int], threads: list[ThreadState]) -> list[RemoteTask]:
        tasks = []
        known = self._unmoved([address for address in addresses if address not in running])
        for address in addresses:
            if address in known and known[address].still_stands():
                tasks.append(known[address])
                continue
            task = RemoteTask(self.codes, address, address in running)
            try:
                if not task.pending():
                    continue
                task.read(threads)
                task.moving = task.unplaced
            except _BROKEN:
                task.moving = True
            tasks.append(task)
        return tasks

    def _unmoved(self, addresses: list[int]) -> dict[int, RemoteTask]:
        """The tasks of the look before whose every word reads now as it did then: two readings that agree."""
        earlier = [self._earlier[address] for address in addresses if address in self._earlier]
        return {task.id: task for task, agrees in zip(earlier, still_true(self.memory, earlier), strict=True) if agrees}

    def _settle(self, tasks: list[RemoteTask], threads: list[ThreadState], before: object) -> list[RemoteTask]:
        """Reads those again, one by one, that changed while the others were read."""
        moving = [task for task in tasks if task.moving]
        if before is not None and before == self.side.activity() and not moving:
            return tasks  # nothing in the target ran meanwhile
        # Those of the look before were compared when they were taken over.
        suspects = [task for task in tasks if (task.moving or not task.running) and self._earlier.get(task.id) is not task]
        moving = [task for task, agrees in zip(suspects, still_true(self.memory, suspects), strict=True) if task.moving or not agrees]
        gone = {id(task) for task in moving if not self._again(task, threads)}
        if still := sum(task.moving for task in moving):
            self.gaps.append(f"{still} task(s) ran while they were read: what is shown of them is of different moments")
        if moving:
            self.heap.drop()
        return [task for task in tasks if id(task) not in gone]

    def _again(self, task: RemoteTask, threads: list[ThreadState]) -> bool:
        """Reads one task until the next moment agrees; False when it is done by now."""
        for _ in range(_ATTEMPTS):
            self.heap.drop(small=True)
            task.moving, task.unplaced = True, False
            try:
                if not task.pending():
                    return False
                task.read(threads)
                if not task.unplaced and (task.running or still_true(self.memory, [task])[0]):
                    task.moving = False
                    return True
            except _BROKEN:
                continue
        # One that runs all the time on no thread's stack stands in a greenlet: nothing of it moves.
        task.moving = not task.unplaced
        return True

    def tasks(self) -> list[RemoteTask]:
        if self._tasks is None:
            self._read()
        return list(self._tasks or ())

    def moved(self) -> set[int]:
        """Ids of the tasks that have gone on since this look read them, or while: what was concluded about them may not hold."""
        parked = [task for task in self.tasks() if not task.running]
        torn = {task.id for task in parked if task.moving}
        if not torn and self._before is not None and self._before == self.side.activity():
            return set()  # nothing in the target has run since the look began
        return torn | {task.id for task, agrees in zip(parked, still_true(self.memory, parked), strict=True) if not agrees}

    def loops(self) -> list[LoopView]:
        return list(self._loops())

    def _loops(self) -> list[RemoteLoop]:
        if self._found_loops is None:
            self._found_loops = find_loops(self.codes, self.tasks(), self._thread_states(), self.side)
        return self._found_loops

    def turns(self) -> dict[str, tuple[int, ...] | None]:
        """By loop id (``loop:7f…``): a value that differs when the loop has gone on to another callback. None where unknown."""
        return {f"loop:{loop.id:x}": turn_of(loop, self._thread_states()) for loop in self._loops()}

    def loop_native_ids(self) -> tuple[int, ...]:
        """Native ids of the threads that run loops."""
        return tuple(loop.native_id for loop in self._loops() if loop.native_id is not None)

    def gil(self) -> tuple[int | None, int] | None:
        """Native id of the thread that has the GIL (None: nobody) and how often it has changed hands; None where unknown."""
        try:
            found = gil_of(self.heap, self.roots)
        except _BROKEN:
            return None
        if found is None:
            return None
        outside = self.side.outside_ids()
        holder = next((state.inside_id for state in self._thread_states() if state.address == found.holder), None)
        return (outside.get(holder, holder) if holder is not None else None), found.switches

    def stacks(self) -> dict[int, list[FrameView]]:
        """Of every thread as it stands at this moment, by native id; nothing else is read. The views hold until the next call."""
        self._forget()
        outside = self.side.outside_ids()
        inside = frozenset(outside)
        try:
            states = self._whole(inside)
        except CannotLook:
            return {}
        return {outside.get(state.inside_id, state.inside_id): list(state.frames) for state in states if state.complete}

    def collecting(self) -> bool | None:
        """Whether garbage is collected at this very moment; None where the interpreter's flag was not found."""
        data = self.memory.fresh([(self._collecting, 4)])[0] if self._collecting is not None else None
        return None if data is None else bool(struct.unpack("<i", data)[0])

    def stays_at_one_instruction(self, native_id: int, times: int = 25, apart_s: float = 0.004) -> bool:
        """The thread computes, and its innermost frame is at the same instruction in ``times`` readings: it is inside one call of C code.

        A thread that got no CPU meanwhile stays where it is as well: that says nothing, and is not called so.
        """
        outside = self.side.outside_ids()
        state = next((state for state in self._thread_states() if outside.get(state.inside_id, state.inside_id) == native_id), None)
        if state is None or not state.frames:
            return False
        layout, frame = self.heap.layout, state.frames[-1]
        place = layout.frame_instruction if layout.version >= (3, 11) else layout.frame_lasti
        ranges = [(frame.address + place, 8 if layout.version >= (3, 11) else 4), (state.address + layout.thread_frame, 8)]
        first, used_ns, begun_ns, gil = self.memory.fresh(ranges), self.side.cpu_ns(native_id), time.monotonic_ns(), self.gil()
        for _ in range(times - 1):
            time.sleep(apart_s)
            # A busy loop that waits for a CPU is in its selector each time as well, at the same instruction; but it has let the GIL go.
            if self.memory.fresh(ranges) != first or self.gil() != gil:
                return False
        now_ns = self.side.cpu_ns(native_id)
        least_ns = max(_COMPUTED_NS, (time.monotonic_ns() - begun_ns) * _ON_CPU)
        return None not in first and used_ns is not None and now_ns is not None and now_ns - used_ns >= least_ns

    # -- the rest

    def module(self, name: str) -> RemoteObject | None:
        try:
            address = self.heap.find_in_dict(self.roots.modules, name)
        except _BROKEN:
            return None
        return RemoteObject(self.codes, address) if address else None

    def versions(self) -> Mapping[str, str]:
        """Of the distributions whose folders lie where the target imported from; read once."""
        if self._versions is None:
            try:
                names = [name for name, _ in self.heap.text_pairs(self.roots.modules)]
                self._versions = installed.versions(self, names)
            except _BROKEN:
                self._versions = {}
            self._versions["python"] = self.roots.full_version
        return self._versions

    def find(self, address: int) -> RemoteObject | None:
        try:
            self.heap.class_of(address)
        except _BROKEN:
            return None
        return RemoteObject(self.codes, address)

    def suspended(self, obj: ObjectView) -> list[FrameView]:
        if obj.type_name not in ("coroutine", "generator", "async_generator"):
            return []
        try:
            frames, _ = chain(self.codes, obj.id)
        except _BROKEN:
            return []
        return [] if any(frame.state == RUNNING for frame in frames) else list(frames)

    def reachable_from_live(self, target: ObjectView, parked: Iterable[TaskView]) -> bool | None:
        """Not known from outside: it would need the whole heap."""
        return None
