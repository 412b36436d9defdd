"""What can be asked of a process, whoever answers: this process (`live.py`) or another's memory (`remote/`).

Integrations are written against these protocols and so work in both. The rules for whoever answers:

- run none of the application's code: no ``repr``, no properties, no ``__getattr__``, no ``__eq__``;
- never raise: what cannot be read is ``None`` (and a sentence in ``Reader.gaps`` where it matters);
- hold no reference longer than the caller holds the view.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from hangwatch.records import Plain


class Missing:
    """The answer of ``ObjectView.value`` for an object that is not a plain value."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()


class ObjectView(Protocol):
    """One object. Two views are of the same object when their ``id`` (its address) is the same."""

    @property
    def id(self) -> int: ...

    @property
    def type_name(self) -> str:
        """Module and qualified name of its class: ``asyncio.locks.Event``, ``dict``, ``function``, ``method``."""

    @property
    def base_names(self) -> tuple[str, ...]:
        """``type_name`` of every class in its method resolution order, itself first, ``object`` left out."""

    def attr(self, name: str) -> ObjectView | None:
        """What instance dictionary, slot or C field ``name`` holds; None when unset or unreadable.

        C fields that every reader knows: Future/Task ``_state _callbacks _loop _result _exception _fut_waiter _coro
        _must_cancel _num_cancels_requested _name``; functions ``__name__ __qualname__ __module__ __closure__ __code__
        __self__ __func__``; partial ``func args``; weak references ``target``; deque/list/dict/set through `items`;
        cells ``cell_contents``; modules by their names; thread locks ``locked`` and ``owner`` (an ident, RLock only);
        sockets ``peername`` and ``fileno``; ``__dict__`` where it is a plain dict.
        """

    def items(self, limit: int = 1000) -> list[ObjectView]:
        """Members of a list, tuple, deque, set, frozenset or WeakSet; the values of a dict. At most ``limit``."""

    def pairs(self, limit: int = 1000) -> list[tuple[ObjectView, ObjectView]]:
        """Keys and values of a dict (or an OrderedDict)."""

    def length(self) -> int | None:
        """Size of a built-in container, deque, str, bytes or memoryview; None for anything else."""

    def neighbours(self) -> frozenset[int]:
        """Addresses of the objects that its attributes or members refer to, one step deep; empty when not read."""

    def parts(self, limit: int = 300) -> Sequence[ObjectView]:
        """The objects at `neighbours`, at most ``limit`` of them."""

    def value(self) -> Plain | bytes | Missing:
        """The plain value of None, bool, int, float, str (first 4096 characters), bytes (first 4096); else MISSING."""


class FrameView(Protocol):
    """One frame of a suspended coroutine or generator, or of a thread."""

    @property
    def file(self) -> str: ...

    @property
    def line(self) -> int: ...

    @property
    def function(self) -> str:
        """Qualified name where known (3.11+, or the coroutine's own), else the plain name."""

    @property
    def name(self) -> str:
        """The code object's plain name."""

    @property
    def where(self) -> tuple[str, int, str, str]:
        """``(file, line, function, name)``: equal for frames of which the same is known by their code alone."""

    @property
    def suspendable(self) -> bool:
        """It is a coroutine's, generator's or async generator's: on a thread's stack it runs, and waits for nothing by itself."""

    @property
    def id(self) -> int:
        """Address of the frame or of the coroutine that owns it: stable while it lives."""

    def local(self, name: str) -> ObjectView | None:
        """A local variable, a cell's or a free variable's contents; None when unset or unreadable."""

    def local_names(self) -> tuple[str, ...]: ...

    def held(self) -> list[ObjectView]:
        """The context managers this frame has entered and not left, outermost first (read off its value stack).

        One made by contextlib from a generator is followed by those which that generator has entered, in turn.
        """

    def calling(self) -> tuple[ObjectView, str] | None:
        """Receiver and name of the method that the innermost frame of a running thread is inside of (``lock``, ``acquire``).

        Also ``with lock:`` as ``(lock, "__enter__")``. None where it is a plain function, not known, or a suspended frame.
        """

    def references(self) -> list[ObjectView]:
        """All objects the frame's locals and value stack refer to (for finding who could set an event)."""


class TaskView(Protocol):
    """One asyncio task that is not done."""

    @property
    def id(self) -> int: ...

    @property
    def name(self) -> str: ...

    @property
    def loop_id(self) -> int | None: ...

    @property
    def running(self) -> bool:
        """It is the current task of its loop: its chain is on that loop's thread."""

    @property
    def cancelling(self) -> int: ...

    def object(self) -> ObjectView: ...

    def frames(self) -> list[FrameView]:
        """The await chain, outermost first, through coroutines, generators, async generators and ``__await__`` objects."""

    def awaits(self) -> ObjectView | None:
        """The future it is parked on (``_fut_waiter``), None when it is scheduled or running."""

    def context(self, variable: str) -> ObjectView | None:
        """The value of the context variable of that name in the task's context, None when unset or unreadable."""


class ThreadView(Protocol):
    @property
    def native_id(self) -> int: ...

    @property
    def ident(self) -> int: ...

    @property
    def name(self) -> str: ...

    def frames(self) -> list[FrameView]:
        """Outermost first."""

    @property
    def cpu_ns(self) -> int | None: ...

    @property
    def syscall(self) -> str | None:
        """Name of the system call it sits in with what its descriptor is (``recvfrom tcp 10.0.0.1:80``), where that can be read."""


class LoopView(Protocol):
    @property
    def id(self) -> int: ...

    @property
    def kind(self) -> str:
        """``asyncio`` or ``uvloop`` or the class's type_name."""

    @property
    def thread_ident(self) -> int | None: ...

    @property
    def asleep(self) -> bool | None:
        """Its thread sits in the selector; None when that cannot be told."""

    def object(self) -> ObjectView: ...

    def ready(self) -> list[ObjectView] | None:
        """Handles in its ready queue (``_ready``); None where it has none to show (uvloop)."""

    def scheduled(self) -> int | None: ...


class Reader(Protocol):
    """One process. Each call looks anew; nothing is cached across calls unless the docstring says so."""

    @property
    def pid(self) -> int: ...

    @property
    def source(self) -> str:
        """``agent``, ``attach`` or ``core``."""

    @property
    def gaps(self) -> list[str]: ...

    def now_ns(self) -> int:
        """The process' monotonic clock."""

    def loops(self) -> list[LoopView]: ...

    def tasks(self) -> Iterable[TaskView]: ...

    def threads(self) -> list[ThreadView]: ...

    def module(self, name: str) -> ObjectView | None:
        """An imported module by name, None when it was not imported."""

    def versions(self) -> Mapping[str, str]:
        """Installed version by distribution name (lower case), of those that were imported; ``python`` too."""

    def find(self, address: int) -> ObjectView | None:
        """A view of the object at an address that this reader has given as some ``id`` before."""

    def suspended(self, obj: ObjectView) -> list[FrameView]:
        """Frames of a suspended coroutine, generator or async generator and of what it awaits, outermost first; empty for anything else."""

    def reachable_from_live(self, target: ObjectView, parked: Iterable[TaskView]) -> bool | None:
        """Can anything that may still run reach ``target``, not counting ``parked``? None: not known, or over budget."""

    def slice(self) -> None:
        """Called between units of work: a live reader lets the loop run here; a remote one does nothing."""


def each_frame(tasks: Iterable[TaskView]) -> Iterator[tuple[TaskView, FrameView]]:
    """Every frame of every task."""
    for task in tasks:
        for frame in task.frames():
            yield task, frame


def plain(obj: ObjectView | None, name: str) -> Plain:
    """The plain value of an attribute; None when there is no such object or attribute, or it is not plain."""
    found = obj.attr(name) if obj is not None else None
    value = found.value() if found is not None else None
    return None if isinstance(value, (bytes, Missing)) else value


def number(obj: ObjectView | None, name: str) -> int | None:
    """The attribute as an int; None when it is not one."""
    value = plain(obj, name)
    return value if isinstance(value, int) else None


def length(obj: ObjectView | None, name: str) -> int | None:
    """The size of the container that the attribute holds; None when there is none."""
    found = obj.attr(name) if obj is not None else None
    return found.length() if found is not None else None


def is_a(obj: ObjectView | None, *type_names: str) -> bool:
    """Is it of one of these classes (``module.qualified name``), or of a subclass?"""
    if obj is not None:
        for name in obj.base_names:
            if name in type_names:
                return True
    return False
