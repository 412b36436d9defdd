"""Frames of this process: await chains of suspended tasks, stacks of running threads, and what each has entered.

Read under the GIL, from a thread that is not the one looked at. Where that could disturb, it is left alone:
``f_locals`` of a frame is a fresh copy from 3.13 on; before, the interpreter caches the copy in the frame, where it would
keep the application's objects alive, so it is emptied again at once, except while somebody traces (a debugger's
changes to it are written back into the frame).
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import types
from collections.abc import Mapping
from typing import Any, Final

from hangwatch.reading import bytecode, value_stack
from hangwatch.reading.live_objects import LiveObject, instance_dict, isinstance_c, mro, read_attribute, referents

_OURS: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_OPTIMIZED: Final = 0x1  # inspect.CO_OPTIMIZED: locals live in the frame, f_locals is a copy
_SUSPENDABLE: Final = 0x20 | 0x80 | 0x100 | 0x200  # inspect.CO_GENERATOR, CO_COROUTINE, CO_ITERABLE_COROUTINE, CO_ASYNC_GENERATOR
_COPIES_LOCALS: Final = sys.version_info < (3, 13)
_REFERENTS_OF_OWNER: Final = sys.version_info >= (3, 11)
_FROM_GENERATOR: Final = ("_GeneratorContextManager", "_AsyncGeneratorContextManager")
#: Longer chains are cut: recursion that deep is a finding of its own, and reading must end.
CHAIN_LIMIT: Final = 500

#: They refer to nothing.
_ATOMS: Final = frozenset({str, int, float, bool, bytes, type(None), types.CodeType})


class LiveFrame:
    """A `FrameView`. ``owner`` is the suspended coroutine or generator whose frame this is, None for a running frame."""

    __slots__ = ("file", "frame", "innermost", "name", "owner")

    def __init__(self, frame: types.FrameType, owner: Any = None, innermost: bool = False) -> None:
        code = frame.f_code
        self.frame = frame
        self.owner = owner
        self.innermost = innermost
        self.file: str = code.co_filename
        self.name: str = code.co_name

    @property
    def suspendable(self) -> bool:
        return bool(self.frame.f_code.co_flags & _SUSPENDABLE)

    @property
    def line(self) -> int:
        return self.frame.f_lineno or self.frame.f_code.co_firstlineno

    @property
    def function(self) -> str:
        code = self.frame.f_code
        if sys.version_info >= (3, 11):
            return code.co_qualname
        if self.owner is not None and type(self.owner) in _QUALIFIED:
            return str(self.owner.__qualname__)
        return code.co_name

    @property
    def where(self) -> tuple[str, int, str, str]:
        return self.file, self.line, self.function, self.name

    @property
    def id(self) -> int:
        return id(self.frame if self.owner is None else self.owner)

    def local(self, name: str) -> LiveObject | None:
        held = self._locals()
        return LiveObject(held[name]) if name in held else None

    def local_names(self) -> tuple[str, ...]:
        return tuple(self._locals())

    def _locals(self) -> Mapping[str, Any]:
        try:
            frame = self.frame
            found = frame.f_locals
            if not _COPIES_LOCALS or not frame.f_code.co_flags & _OPTIMIZED:
                return found
            copy = dict(found)
            if frame.f_trace is None and (self.owner is not None or not _traced()):
                found.clear()
            return copy
        except Exception:
            return {}

    def held(self) -> list[LiveObject]:
        if self.owner is None:
            return self._held_running()
        if _REFERENTS_OF_OWNER and not self.frame.f_code.co_exceptiontable:  # type: ignore[attr-defined, unused-ignore]
            return []  # no `with`, no `try`: nothing can be open
        referents = self._referents()
        if not value_stack.may_hold(referents):
            return []
        found = value_stack.entered(referents, self.frame.f_code, self._locals())
        if found and bytecode.entering(self.frame.f_code, self.frame.f_lasti):
            found.pop()
        return [LiveObject(item) for item in _with_generators(found)]

    def _held_running(self) -> list[LiveObject]:
        opened = bytecode.open_withs(self.frame.f_code, self.frame.f_lasti)
        values = (self._evaluate(expression) for expression in opened if expression is not None)
        return [LiveObject(value) for value in _with_generators([value for value in values if value is not None])]

    def calling(self) -> tuple[LiveObject, str] | None:
        if self.owner is not None or not self.innermost:
            return None
        found = bytecode.called(self.frame.f_code, self.frame.f_lasti)
        if found is None:
            return None
        receiver = self._evaluate(found[0])
        return None if receiver is None else (LiveObject(receiver), found[1])

    def _evaluate(self, expression: bytecode.Expression) -> Any:
        """The object a plain expression stands for now; None when it cannot be told (or is None)."""
        held = self._locals()
        value: Any = None
        try:
            for step, name in expression:
                if step == "local":
                    value = held[name]
                elif step == "global":
                    frame = self.frame
                    value = held[name] if name in held else frame.f_globals[name] if name in frame.f_globals else frame.f_builtins[name]
                elif step == "attr":
                    value = read_attribute(value, name)
                else:
                    value = _item(value, name[1] if name[0] == "const" else held[name[1]])
        except Exception:
            return None
        return value

    def name_of(self, address: int) -> str | None:
        """What this frame's code calls the object: ``lock``, ``Ledger.lock`` (of ``self``), ``POOL``; None when it has no name here.

        Only names that the code itself uses are tried, so no namespace is searched and no instance dictionary made.
        """
        code, variables = self.frame.f_code, self._locals()
        for name, value in variables.items():
            if id(value) == address:
                return name
        owners = [(type(value).__name__ if name == "self" else name, value) for name, value in variables.items()]
        shared = self.frame.f_globals
        for name in code.co_names:
            if name in shared:
                if id(shared[name]) == address:
                    return name
                owners.append((name, shared[name]))
        for owner_name, owner in owners:
            for name in code.co_names:
                try:
                    if id(read_attribute(owner, name)) == address:
                        return f"{owner_name}.{name}"
                except Exception:
                    continue
        return None

    def references(self) -> list[LiveObject]:
        frame = self.frame
        if self.owner is None:
            return [LiveObject(value) for value in self._locals().values()]
        # Up to 3.10 a frame also refers to its namespaces.
        skipped = () if _REFERENTS_OF_OWNER else (id(frame.f_globals), id(frame.f_builtins))
        found = []
        for item in self._referents():
            kind = type(item)
            if kind is types.CellType:
                try:
                    item = item.cell_contents
                except ValueError:
                    continue
            elif kind in _ATOMS or id(item) in skipped:
                continue
            found.append(LiveObject(item))
        return found

    def _referents(self) -> list[Any]:
        """What locals and value stack hold, in that order (after some of the frame's own things)."""
        return gc.get_referents(self.owner if _REFERENTS_OF_OWNER else self.frame)


def _traced() -> bool:
    return threading.gettrace() is not None or threading.getprofile() is not None


def _item(container: Any, key: Any) -> Any:
    """A member of a plain dict or list; keys of the application's own classes are not compared."""
    if isinstance_c(container, dict) and type(key) in (str, int, bytes, bool):
        return dict.__getitem__(container, key)
    if type(container) in (list, tuple) and type(key) is int:
        return container[key]
    raise LookupError


def _with_generators(managers: list[Any]) -> list[Any]:
    """Adds, after each contextlib manager, what the generator behind it holds."""
    found: list[Any] = []
    for manager in managers:
        found.append(manager)
        if any(cls.__name__ in _FROM_GENERATOR for cls in mro(manager)):
            for frame in suspended(instance_dict(manager).get("gen")):
                found += [view.object for view in frame.held()]
    return found


_QUALIFIED: Final = (types.CoroutineType, types.GeneratorType, types.AsyncGeneratorType)
_LINKS: Final[dict[type, tuple[str, str]]] = {
    types.CoroutineType: ("cr_frame", "cr_await"),
    types.GeneratorType: ("gi_frame", "gi_yieldfrom"),
    types.AsyncGeneratorType: ("ag_frame", "ag_await"),
}
#: The interpreter's own go-betweens: no frame, and no attribute that names what they drive, but the collector sees it.
_BETWEEN: Final = frozenset({"coroutine_wrapper", "async_generator_asend", "async_generator_athrow", "anext_awaitable"})


#: What has a frame of its own to be looked into.
AWAITED_TYPES = frozenset({types.CoroutineType, types.GeneratorType, types.AsyncGeneratorType})


def suspended(awaitable: Any) -> list[LiveFrame]:
    """Frames of a suspended coroutine and of all that it awaits, outermost first."""
    frames: list[LiveFrame] = []
    seen: set[int] = set()
    current: Any = awaitable
    while current is not None and id(current) not in seen and len(seen) < CHAIN_LIMIT:
        seen.add(id(current))
        link = _LINKS.get(type(current))
        if link is not None:
            frame = getattr(current, link[0])
            if frame is not None:
                frames.append(LiveFrame(frame, current))
            current = getattr(current, link[1])
        else:
            frame = _foreign_frame(current)
            if frame is not None:
                frames.append(LiveFrame(frame, current))
            current = _behind(current)
    return frames


def _is_cython(obj: Any) -> bool:
    module = type.__dict__["__module__"].__get__(type(obj))
    return type(module) is str and module.startswith("_cython")


def _foreign_frame(obj: Any) -> types.FrameType | None:
    if not _is_cython(obj):
        return None
    for name in ("cr_frame", "gi_frame"):
        try:
            frame = getattr(obj, name)
        except Exception:
            continue
        return frame if isinstance(frame, types.FrameType) else None
    return None


def _behind(obj: Any) -> Any:
    """What an object without a frame drives: an async generator's step, an ``__await__`` iterator, a Cython coroutine."""
    if _is_cython(obj):
        for name in ("cr_await", "gi_yieldfrom"):
            try:
                return getattr(obj, name)
            except Exception:
                continue
    if type(obj).__name__ == "FutureIter":
        return None
    candidates = referents(obj)
    for item in candidates:
        if type(item) in _LINKS or type(item).__name__ in _BETWEEN or _is_cython(item):
            return item
    for item in candidates:  # an iterator of the application's own keeps what it drives in its attributes
        if type(item) is dict:
            for value in list(item.values()):
                if type(value) in _LINKS or type(value).__name__ in _BETWEEN:
                    return value
    return None


def current_frames() -> dict[int, types.FrameType]:
    """The innermost frame of every thread by ident; of this one the innermost that is not hangwatch's own.

    Our own frames are not looked at: a view of a frame that holds views would keep itself alive.
    """
    frames = sys._current_frames()
    here = threading.get_ident()
    frame = frames.pop(here, None)
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    if frame is not None:
        frames[here] = frame
    return frames


def thread_frames(innermost: types.FrameType | None) -> list[LiveFrame]:
    """The stack of a running thread, outermost first."""
    frames: list[LiveFrame] = []
    while innermost is not None and len(frames) < CHAIN_LIMIT * 2:
        frames.append(LiveFrame(innermost, None, not frames))
        innermost = innermost.f_back
    frames.reverse()
    return frames


def owned_frame(coroutine: Any) -> types.FrameType | None:
    link = _LINKS.get(type(coroutine))
    return getattr(coroutine, link[0]) if link is not None else None
