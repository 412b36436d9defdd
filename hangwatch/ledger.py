"""The hot path's memory: requests in the order they began, the loops that run, the ring of acts. Bounded; what is dropped is counted.

The application's threads write here, from wrapped functions; the watchdog reads. No locks: every step is one operation that the
interpreter makes atomic (setting or popping a dict's key, appending to a deque), and readers take copies.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from hangwatch.records import Act

#: What a wrapped function appends to the ring: when, which operation, whom it was done to, by which thread, in which code at which
#: instruction, of which task. Weak references: the ring must not keep anything alive, and an address may be used again.
RawAct = tuple[int, str, "weakref.ref[Any]", int, "CodeType | None", int, "weakref.ref[Any] | None"]

#: A thread's native id, and of its innermost frames the code and the line, innermost first.
Place = tuple[int, tuple[tuple[CodeType, int], ...]]
#: Frames of a `Place`: some middlewares above the line that collects stand the application's own.
MAX_PLACE: Final = 40

R = TypeVar("R")

#: A loop whose phase (start-up, shutdown) is running: kind and since when.
Phase = tuple[str, int]


class Follow:
    """A request past the least limit: taken out of ``begun`` by the watchdog, followed until it ends.

    ``limit_ns`` None: may take for ever. ``ended_ns`` is set by the request itself.
    """

    __slots__ = ("ended_ns", "limit_ns", "reported", "since_ns", "subject", "subject_id")

    def __init__(self, subject: Any, subject_id: str, since_ns: int, limit_ns: int | None) -> None:
        self.subject = subject
        self.subject_id = subject_id
        self.since_ns = since_ns
        self.limit_ns = limit_ns
        self.ended_ns: int | None = None
        self.reported = False


class LoopMark:
    """One loop that runs now: its thread, and the counts that show that it lives."""

    __slots__ = ("beats", "ident", "loop", "native_id", "phase", "phase_task_id", "started_ns")

    def __init__(self, loop: Any, ident: int, native_id: int, started_ns: int) -> None:
        self.loop = loop
        self.ident = ident
        self.native_id = native_id
        self.started_ns = started_ns
        #: Counted up by whatever the loop runs regularly anyway (uvicorn's tick).
        self.beats = 0
        self.phase: Phase | None = None
        self.phase_task_id: str | None = None

    @property
    def id(self) -> str:
        return f"loop:{id(self.loop):x}"


class Ledger:
    """``max_requests`` and ``ring`` bound it; ``dropped`` counts what went beyond."""

    def __init__(self, max_requests: int = 10_000, ring: int = 4096) -> None:
        self.max_requests: Final = max_requests
        #: Request object -> when it began (ns). In order of beginning, so the oldest are at the head.
        self.begun: dict[Any, int] = {}
        self.followed: dict[Any, Follow] = {}
        self.loops: dict[int, LoopMark] = {}
        self.ring: deque[RawAct] = deque(maxlen=ring)
        self.dropped: dict[str, int] = {}
        self.on_loop: Callable[[LoopMark], None] | None = None
        #: Called when a server begins that has a thread for each connection, and perhaps no loop.
        self.on_server: Callable[[], None] | None = None
        #: Called with the time (ns) and True when a full collection begins, False when one of more than the youngest objects ends; never
        #: raises, waits for nothing.
        self.on_collection: Callable[[int, bool], None] | None = None
        #: Tasks that were destroyed while they were pending: when, which, and where they were.
        self.lost: deque[tuple[int, str, str, int, str]] = deque(maxlen=64)
        #: Connection object -> (method, route, when) of a response whose end its client cannot see.
        self.endless: weakref.WeakKeyDictionary[Any, tuple[str, str, int]] = weakref.WeakKeyDictionary()
        #: (end, duration) in ns of the latest garbage collections that took long.
        self.pauses: deque[tuple[int, int]] = deque(maxlen=64)
        #: When the collection began that runs now; 0: none.
        self.collecting_ns = 0
        #: Who began the last collection that took long, where it was a full one: between two of them the stack is somewhere else.
        self.collector: Place | None = None
        self._due: list[tuple[int, int, Follow]] = []
        self._sequence = 0

    # Called by the application's threads.

    def drop(self, what: str) -> None:
        self.dropped[what] = self.dropped.get(what, 0) + 1

    def ended(self, subject: Any) -> None:
        """A request that is no longer in ``begun`` has ended."""
        follow = self.followed.pop(subject, None)
        if follow is not None:
            follow.ended_ns = time.monotonic_ns()

    def loop_started(self, loop: Any) -> LoopMark:
        """The calling thread runs this loop from now on."""
        mark = LoopMark(loop, threading.get_ident(), threading.get_native_id(), time.monotonic_ns())
        self.loops[id(loop)] = mark
        if self.on_loop is not None:
            self.on_loop(mark)
        return mark

    def loop_found(self, loop: Any, ident: int) -> None:
        """A loop that another thread has been running since before the agent came."""
        thread = getattr(threading, "_active", {}).get(ident)
        self.loops[id(loop)] = mark = LoopMark(loop, ident, getattr(thread, "_native_id", None) or ident, time.monotonic_ns())
        if self.on_loop is not None:
            self.on_loop(mark)

    def server_started(self) -> None:
        if self.on_server is not None:
            self.on_server()

    def loop_stopped(self, loop: Any) -> None:
        self.loops.pop(id(loop), None)

    def gc_watcher(self) -> Callable[[str, dict[str, int]], None]:
        """A callback for ``gc.callbacks``: notes collections that took 20 ms and more, and where the full ones of them were begun."""
        now, pauses, caller, thread = time.monotonic_ns, self.pauses, sys._getframe, threading.get_native_id
        place: Place | None = None

        def note_collection(phase: str, info: dict[str, int]) -> None:
            nonlocal place
            if info["generation"] == 0:
                return
            at_ns = now()
            if self.on_collection is not None and (phase == "stop" or info["generation"] == 2):
                self.on_collection(at_ns, phase == "start")
            if phase == "start":
                self.collecting_ns = at_ns
                # Once in a collection of everything: microseconds beside what that takes.
                place = (thread(), _place(caller().f_back)) if info["generation"] == 2 else None
                return
            begun, self.collecting_ns = self.collecting_ns, 0
            if begun and at_ns - begun >= 20_000_000:
                pauses.append((at_ns, at_ns - begun))
                self.collector = place

        return note_collection

    def forget_all(self) -> None:
        """In a forked child: nothing of the parent's runs here."""
        self.collector = None
        for table in (self.begun, self.followed, self.loops, self.ring, self.dropped, self.pauses, self._due, self.lost, self.endless):
            table.clear()

    # Called by the watchdog.

    def collected_ns(self, since_ns: int) -> int:
        """Time spent in long garbage collections since then."""
        begun = self.collecting_ns
        running = time.monotonic_ns() - begun if begun else 0
        return running + sum(took for ended, took in _copy_ring(self.pauses) if ended >= since_ns)

    def due(self, now_ns: int, least_ns: int, limit_of: Callable[[Any], int | None], subject_id: Callable[[Any], str]) -> list[Follow]:
        """Requests that have passed their own limit since the last call, oldest first.

        ``least_ns`` is the least limit any request can have: younger ones are not looked at, so a call costs nothing while
        all is well. ``limit_of(request)`` gives its limit in ns, None for never.
        """
        if len(self.begun) + len(self.followed) > self.max_requests:
            self._bound()
        for subject, since_ns in self._older(now_ns - least_ns):
            limit_ns = limit_of(subject)
            follow = Follow(subject, subject_id(subject), since_ns, limit_ns)
            self.followed[subject] = follow
            if self.begun.pop(subject, None) is None:  # it ended meanwhile
                self.followed.pop(subject, None)
            elif limit_ns is not None:
                self.again_at(follow, since_ns + limit_ns)
        found = []
        while self._due and self._due[0][0] <= now_ns:
            follow = heappop(self._due)[2]
            if follow.ended_ns is None:
                found.append(follow)
        found.sort(key=lambda follow: follow.since_ns)
        return found

    def _bound(self) -> None:
        """Forgets the youngest beyond ``max_requests``: here, once a tick, and not in the request's own time."""
        for subject, _ in _copy(self.begun)[max(0, self.max_requests - len(self.followed)) :]:
            if self.begun.pop(subject, None) is not None:
                self.drop("requests")

    def again_at(self, follow: Follow, at_ns: int) -> None:
        """``due`` gives this one (again) at ``at_ns``."""
        self._sequence += 1
        heappush(self._due, (at_ns, self._sequence, follow))

    def _older(self, than_ns: int) -> list[tuple[Any, int]]:
        found = []
        try:
            for subject, since_ns in self.begun.items():
                if since_ns > than_ns:
                    break
                found.append((subject, since_ns))
        except RuntimeError:
            # A request began or ended while we looked: what was found is right, the rest comes at the next tick.
            pass
        return found

    def in_flight(self, limit: int) -> list[tuple[Any, int, int | None]]:
        """(request, since_ns, limit_ns) of at most ``limit`` requests that have not ended, oldest first."""
        followed = sorted(_copy(self.followed), key=lambda item: item[1].since_ns)
        found = [(subject, follow.since_ns, follow.limit_ns) for subject, follow in followed[:limit]]
        return found + [(subject, since_ns, None) for subject, since_ns in _copy(self.begun)[: max(0, limit - len(found))]]

    def acts(self, since_ns: int = 0) -> tuple[Act, ...]:
        """The ring as records, oldest first; acts on what is gone are left out, as nobody can wait for that."""
        from hangwatch.records import Act, Frame  # not at install: a service that starts needs no records

        found = []
        for at_ns, op, target, ident, code, instruction, task in _copy_ring(self.ring):
            subject = target()
            if subject is None or at_ns < since_ns:
                continue
            frame = None if code is None else Frame(code.co_filename, _line(code, instruction), _function(code))
            doer = task() if task is not None else None
            found.append(
                Act(
                    at_ns,
                    op,
                    f"{kind_of(subject)}:{id(subject):x}",
                    f"task:{id(doer):x}" if doer is not None else None,
                    _thread_id(ident),
                    frame,
                )
            )
            del subject, doer
        gone = [
            Act(at_ns, "lost", task_id, None, None, Frame(file, line, function))
            for at_ns, task_id, file, line, function in _copy_ring(self.lost)
        ]
        return tuple(sorted([*found, *gone], key=lambda act: act.at_ns)) if gone else tuple(found)


_KINDS: Final = {"Event": "event", "Lock": "lock", "Condition": "condition", "Semaphore": "semaphore", "BoundedSemaphore": "semaphore"}


def kind_of(subject: Any) -> str:
    """The kind of primitive, by the first class of asyncio's that it is made of."""
    for base in type(subject).__mro__:
        if base.__module__ == "asyncio.locks":
            return _KINDS.get(base.__name__, "other")
    return "other"


def _thread_id(ident: int) -> str:
    # A copy of nothing and no lock: the interpreter's own table, which another thread may be changing.
    thread = getattr(threading, "_active", {}).get(ident)
    native_id = getattr(thread, "_native_id", None)
    return f"thread:{native_id if native_id is not None else ident}"


def _line(code: CodeType, instruction: int) -> int:
    if instruction < 0:
        return code.co_firstlineno
    for start, end, line in code.co_lines():
        if start <= instruction < end and line is not None:
            return line
    return code.co_firstlineno


def _function(code: CodeType) -> str:
    return getattr(code, "co_qualname", code.co_name)


def _copy(table: dict[Any, Any]) -> list[tuple[Any, Any]]:
    """Items of a dict that other threads change. The copy is one C call; a garbage collection inside of it may run others' code."""
    for _ in range(5):
        try:
            return list(table.items())
        except RuntimeError:
            continue
    return []


def _place(frame: FrameType | None) -> tuple[tuple[CodeType, int], ...]:
    found: list[tuple[CodeType, int]] = []
    while frame is not None and len(found) < MAX_PLACE:
        found.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return tuple(found)


def _copy_ring(ring: deque[R]) -> list[R]:
    for _ in range(5):
        try:
            return list(ring)
        except RuntimeError:  # appended to while it was copied
            continue
    return []
