"""One look at a process: tasks with their await chains, threads, what each waits on and holds, whose request it works for.

Whoever answers as the reader, the result is a `Snapshot`. It is taken in slices, so that a live loop runs in between,
and the tasks that matter most are read first. Nothing here raises: what could not be read is a sentence in ``gaps``.
"""

from __future__ import annotations

import contextlib
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from hangwatch import integrations
from hangwatch.integrations import borrowers, calls, generators, labels, recognise, setters, threads, ties
from hangwatch.integrations.desk import SnapshotDesk
from hangwatch.reading.view import FrameView, LoopView, ObjectView, Reader, TaskView, ThreadView, plain
from hangwatch.records import SCHEMA, Act, Connection, Loop, Request, Snapshot, Task, Thread

#: Tasks in one snapshot. A service with more has the oldest requests' tasks first, and the rest is counted.
TASK_LIMIT = 50_000
#: What a generator that nobody runs at the moment may hold.
_HELD_BY_SOMEBODY = frozenset({"lock", "semaphore", "condition", "pool", "limiter", "thread-lock"})


def take(
    reader: Reader,
    *,
    history: Iterable[Act] = (),
    requests: Iterable[Request | Connection] = (),
    dropped: Mapping[str, int] | None = None,
    first: Iterable[str] = (),
    searched: bool = True,
) -> Snapshot:
    """Looks once at the process behind ``reader``.

    ``requests``: requests and connections that the ledger knows; completed by what frames show. ``history``: the ring.
    ``dropped``: what the ledger had to drop. ``first``: ids of tasks to read before all others. ``searched``: False leaves out who could
    end each wait, and what the application calls things: a sample that only says what stood where need not know.
    """
    # A remote reader has nothing to keep still.
    looking = getattr(reader, "looking", contextlib.nullcontext)
    with looking():
        return _take(reader, tuple(history), tuple(requests), dict(dropped or {}), frozenset(first), searched)


def _take(
    reader: Reader,
    history: tuple[Act, ...],
    requests: tuple[Request | Connection, ...],
    dropped: dict[str, int],
    first: frozenset[str],
    searched: bool,
) -> Snapshot:
    began, taken_at, now_ns = time.perf_counter_ns(), time.time(), reader.now_ns()
    desk = SnapshotDesk(reader, now_ns)
    for record in requests:
        desk.add_request(record) if isinstance(record, Request) else desk.add_connection(record)
    looker = _Looker(desk, reader, first)
    steps = (
        looker.look_at_loops,
        looker.look_at_tasks,
        looker.look_again,
        looker.look_at_threads,
        looker.census,
        looker.look_into_generators,
        looker.find_borrowers,
    )
    for step in (*steps, looker.find_setters, looker.name_them) if searched else steps:
        _guarded(desk, step)
    looker.forget()
    return _finish(looker, desk, history, {**dropped, **desk.dropped}, taken_at, now_ns, began)


def _guarded(desk: SnapshotDesk, step: Callable[[], None]) -> None:
    try:
        step()
    except Exception as error:
        desk.gap(f"a part of the snapshot failed: {type(error).__name__}: {error}")


class _Looker:
    """Carries the views of one snapshot from step to step; drops them with itself."""

    def __init__(self, desk: SnapshotDesk, reader: Reader, first: frozenset[str]) -> None:
        self.desk = desk
        self.reader = reader
        self.first = first
        self.loops: list[Loop] = []
        self.tasks: dict[str, Task] = {}
        self.threads: dict[str, Thread] = {}
        self.chains: dict[str, list[FrameView]] = {}
        self.deadlines: dict[str, int] = {}
        self._thread_ids: dict[int, str] = {}
        self._loop_views: list[LoopView] = []
        self._woken: list[TaskView] = []

    def forget(self) -> None:
        """The views, before the records are put together: what they hold is the service's."""
        for views in (self.chains, self._loop_views, self._woken):
            views.clear()

    # loops

    def look_at_loops(self) -> None:
        self._thread_ids = {thread.ident: f"thread:{thread.native_id}" for thread in self.reader.threads()}
        self._loop_views = list(self.reader.loops())
        self.loops = [self._loop(view) for view in self._loop_views]

    def _loop(self, view: LoopView) -> Loop:
        ready = view.ready()
        thread_id = self._thread_ids.get(view.thread_ident) if view.thread_ident is not None else None
        return Loop(
            id=f"loop:{view.id:x}",
            kind=view.kind,
            thread_id=thread_id,
            ready=len(ready) if ready is not None else None,
            scheduled=view.scheduled(),
            asleep=view.asleep,
        )

    def look_again(self) -> None:
        """A queued wake-up in a loop that sleeps is a contradiction only at one moment. A loop seen asleep may have begun a turn since, and
        on a busy machine be held off its CPU in the middle of it; a task seen woken may have gone on."""
        asleep = {f"loop:{view.id:x}": view.asleep for view in self._loop_views}
        self.loops = [replace(loop, asleep=None) if loop.asleep and not asleep.get(loop.id) else loop for loop in self.loops]
        for view in self._woken:
            task = self.tasks.get(f"task:{view.id:x}")
            if task is not None and task.state == "ready":
                self.tasks[task.id] = replace(task, state=_state(view))

    # tasks

    def look_at_tasks(self) -> None:
        views = list(self.reader.tasks())
        if self.first:
            views.sort(key=lambda view: f"task:{view.id:x}" not in self.first)
        for view in views[:TASK_LIMIT]:
            try:
                self._task(view)
            except Exception as error:
                self.desk.gap(f"a task could not be read: {type(error).__name__}: {error}")
            self.reader.slice()
        if len(views) > TASK_LIMIT:
            self.desk.dropped["tasks"] = len(views) - TASK_LIMIT

    def _task(self, view: TaskView) -> None:
        chain = view.frames()
        facts = recognise.facts_of(chain, self.desk)
        if chain and facts.places[0].ours:
            return
        task_id = f"task:{view.id:x}"
        found = recognise.wait_of(chain, self.desk, task_id, view, facts) if not view.running else recognise.NOTHING
        recognise.requests_of(chain, self.desk, task_id, view, facts)
        waits_on = self._note(task_id, chain, found, facts)
        self.tasks[task_id] = Task(
            id=task_id,
            name=view.name,
            loop_id=f"loop:{view.loop_id or 0:x}",
            state=_state(view),
            frames=facts.shown,
            waits_on=waits_on,
            holds=tuple(self.desk.holds.get(task_id, ())),
            request_id=self.desk.bound.get(task_id),
            cancelling=view.cancelling,
        )
        self.chains[task_id] = chain
        if self.tasks[task_id].state == "ready":
            self._woken.append(view)
        if view.running:
            self.loops = [replace(loop, running_task_id=task_id) if loop.id == f"loop:{view.loop_id:x}" else loop for loop in self.loops]

    def _note(self, waiter_id: str, chain: list[FrameView], found: recognise.Found, facts: recognise.Facts) -> str | None:
        """Tells the desk of a wait and of what is held meanwhile; gives the primitive's id."""
        deadline = recognise.holds_of(chain, self.desk, waiter_id, found.index, facts)
        sighting = found.sighting
        if sighting is None:
            return None
        released = set(sighting.releases)
        if released and waiter_id in self.desk.holds:
            self.desk.holds[waiter_id] = [hold for hold in self.desk.holds[waiter_id] if hold.primitive_id not in released]
        deadline = min((when for when in (deadline, found.deadline_ns) if when is not None), default=None)
        if deadline is not None:
            self.deadlines[waiter_id] = deadline
        primitive = sighting.primitive
        self.desk.add_primitive(primitive)
        since = sighting.since_ns if sighting.since_ns is not None else found.since_ns
        self.desk.wait(waiter_id, primitive.id, sighting.op, since, facts.own, deadline)
        return primitive.id

    # threads

    def look_at_threads(self) -> None:
        loop_threads = {loop.thread_id for loop in self.loops}
        for view in self.reader.threads():
            try:
                self._thread(view, loop_threads)
            except Exception as error:
                self.desk.gap(f"thread {view.name} could not be read: {type(error).__name__}: {error}")
            self.reader.slice()

    def _thread(self, view: ThreadView, loop_threads: set[str | None]) -> None:
        chain = view.frames()
        if _is_our_thread(chain):
            return
        thread_id = f"thread:{view.native_id}"
        is_loop = thread_id in loop_threads
        asleep = is_loop and any(loop.thread_id == thread_id and loop.asleep for loop in self.loops)
        facts = recognise.facts_of(chain, self.desk)
        found = recognise.NOTHING if asleep else recognise.wait_of(chain, self.desk, thread_id, None, facts)
        if found.sighting is None and chain and not asleep:
            found = replace(found, sighting=threads.called(chain[-1], self.desk) or (None if is_loop else calls.in_a_call(view)))
        if found.sighting is not None and threads.takes_its_own(thread_id, found.sighting):
            found = recognise.NOTHING
        recognise.requests_of(chain, self.desk, thread_id, None, facts)
        waits_on = self._note(thread_id, chain, found, facts)
        self.threads[thread_id] = Thread(
            id=thread_id,
            name=view.name,
            native_id=view.native_id,
            frames=facts.shown,
            is_loop=is_loop,
            waits_on=waits_on,
            syscall=view.syscall,
            cpu_ns=view.cpu_ns,
            idle=asleep or (found.sighting is not None and found.sighting.op == "idle"),
        )
        self.chains[thread_id] = chain

    # the rest

    def census(self) -> None:
        for module in integrations.MODULES:
            count = getattr(module, "census", None)
            if count is None:
                continue
            try:
                count(self.reader, self.desk)
            except Exception as error:
                self.desk.gap(f"the census of {getattr(module, 'NAME', module.__name__)} failed: {type(error).__name__}: {error}")
            self.reader.slice()

    def look_into_generators(self) -> None:
        """An async generator parked at its ``yield`` is in no await chain, and keeps open what it has entered: a stream's connection, a lock.

        Looked for only when somebody waits for what such a one may hold.
        """
        desk = self.desk
        wanted = any(p.kind in _HELD_BY_SOMEBODY and desk.waiters.get(p.id) for p in desk.primitives.values())
        if desk.loans or wanted:
            owned: dict[int, list[ObjectView]] = {}
            for owner_id, chain in self.chains.items():
                inside = generators.parked_in(chain, self.reader, owned)
                if inside:
                    recognise.holds_of(inside, desk, owner_id, 0)
                    self.chains[owner_id] = [*chain, *inside]
                self.reader.slice()

    def find_borrowers(self) -> None:
        """For each thing that a pool has given out: the tasks and threads that have it."""
        if self.desk.loans:
            borrowers.Search(borrowers.Loan(*loan) for loan in self.desk.loans).through(self.desk, self.chains, self.reader.slice)

    def name_them(self) -> None:
        labels.name_them(self.desk, self.chains)

    def find_setters(self) -> None:
        """For each event-like primitive: tasks and threads, other than its waiters, that refer to it within one step."""
        wanted = setters.wanted_in(self.desk)
        if wanted:
            search = setters.Search(wanted)
            complete = search.through(self.chains, self.reader.slice)
            search.through_handles(self.reader.loops(), self.reader.slice)
            if complete:
                search.tell(self.desk)
            else:
                self.desk.gap("not every task was searched for who could end the waits")


def _state(view: TaskView) -> str:
    if view.running:
        return "running"
    awaited = view.awaits()
    if awaited is None or plain(awaited, "_state") not in ("PENDING", None):
        return "ready"
    return "parked"


def _is_our_thread(chain: list[FrameView]) -> bool:
    """One of hangwatch's own: the first frame after threading's own bootstrap is ours."""
    begins_in_threading = bool(chain) and chain[0].file.endswith("threading.py")
    body = next((frame for frame in chain if not frame.file.endswith("threading.py")), None)
    return begins_in_threading and body is not None and recognise.place_of(body).ours


T = TypeVar("T")


def _sliced(items: Iterable[T], reader: Reader) -> Iterator[T]:
    for item in items:
        yield item
        reader.slice()


def _finish(
    looker: _Looker, desk: SnapshotDesk, history: tuple[Act, ...], dropped: dict[str, int], taken_at: float, now_ns: int, began: int
) -> Snapshot:
    tasks = ties.with_parents(looker.tasks, desk)
    ties.find_servants(desk)
    ties.pass_deadlines_on(desk)
    ties.bind_children(tasks, desk)
    versions = {}
    try:
        versions = dict(desk.reader.versions())
    except Exception as error:
        desk.gap(f"installed versions could not be read: {type(error).__name__}")
    return Snapshot(
        schema=SCHEMA,
        taken_at=taken_at,
        at_ns=now_ns,
        pid=desk.reader.pid,
        source=desk.reader.source,
        loops=tuple(looker.loops),
        tasks=tuple([ties.completed(task, desk) for task in _sliced(tasks.values(), desk.reader)]),
        threads=tuple(replace(t, holds=tuple(desk.holds.get(t.id, ())), serves=desk.serves.get(t.id)) for t in looker.threads.values()),
        primitives=tuple([ties.settled(primitive, desk) for primitive in _sliced(ties.with_holders(desk), desk.reader)]),
        waits=tuple(desk.waits.values()),
        connections=tuple(desk.connections.values()),
        requests=tuple(ties.with_task(request, desk) for request in desk.requests.values()),
        versions=versions,
        dropped=dropped,
        gaps=(*desk.gaps, *desk.reader.gaps),
        history=history,
        took_ms=(time.perf_counter_ns() - began) / 1e6,
    )


class _Callable(types.ModuleType):
    """``hangwatch.snapshot()`` is public, and this module is bound to the same name once anything imports it: so it can be called."""

    def __call__(self) -> Snapshot:
        made: Snapshot = sys.modules[__package__ or "hangwatch"]._snapshot_now()
        return made


sys.modules[__name__].__class__ = _Callable
