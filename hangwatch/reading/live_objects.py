"""Views of this process' own objects, read without running any of the application's code.

A class of the application may define ``__getattr__``, properties, ``__eq__``, ``__class__`` or a metaclass with surprises.
So attributes are looked up by hand: classes through ``type``'s own descriptors, instances through their dictionary and
slots; C getters are called for a closed list of the interpreter's own types only.
"""

from __future__ import annotations

import _queue
import _socket
import _thread
import asyncio
import collections
import functools
import gc
import re
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final

from hangwatch.reading.view import MISSING, Missing
from hangwatch.records import Plain

#: How much of a string or of bytes is ever looked at (view.py promises it).
TEXT_LIMIT = 4096
#: Members of one container that are looked at where the question is who refers to what. A month of readings in a list has millions: to go
#: through them all would take seconds, and the interpreter from the service meanwhile. The reader from outside stops at the same number.
MAX_REFERENTS = 10_000

_type_mro: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_type_dict: Callable[[type], types.MappingProxyType[str, Any]] = type.__dict__["__dict__"].__get__
_type_module: Callable[[type], Any] = type.__dict__["__module__"].__get__
_type_qualname: Callable[[type], str] = type.__dict__["__qualname__"].__get__
_plain_getattr = object.__getattribute__

_NOTHING: Final = object()
# Through asyncio, never `import _asyncio`: imported before asyncio, the C module comes to life twice (3.12), and tasks are lost between the two.
_CFUTURE: Final[Any] = asyncio.futures._CFuture  # type: ignore[attr-defined]
_CTASK: Final[Any] = asyncio.tasks._CTask  # type: ignore[attr-defined]
_FUNCTION: Final = types.FunctionType

#: C types whose getters only hand out what they hold. A getter of any other C type (Cython properties look the same) may run code.
_KNOWN_C_TYPES: Final = frozenset(
    {
        _CFUTURE, _CTASK, types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.MethodWrapperType,
        types.CoroutineType, types.GeneratorType, types.AsyncGeneratorType, types.FrameType, types.CodeType,
        types.CellType, types.ModuleType, types.TracebackType, functools.partial, collections.deque, BaseException, type,
    }
)  # fmt: skip

_PLAIN_TYPES: Final = frozenset({type(None), bool, int, float})
_SEQUENCES: Final = (list, tuple, collections.deque, set, frozenset)


class_dict = _type_dict


def mro(obj: object) -> tuple[type, ...]:
    return _type_mro(type(obj))


def name_of_type(cls: type) -> str:
    module = _type_module(cls)
    if type(module) is not str or module == "builtins":
        return _type_qualname(cls)
    return f"{module}.{_type_qualname(cls)}"


#: Names of a class and its bases, by the class's address, with the class, so that the address stays its own. Bounded: classes can
#: be made at run time.
_known_names: dict[int, tuple[type, tuple[str, ...]]] = {}
_NAMES_LIMIT = 5_000


def _names(cls: type) -> tuple[str, ...]:
    known = _known_names.get(id(cls))
    if known is None or known[0] is not cls:
        if len(_known_names) >= _NAMES_LIMIT:
            _known_names.clear()
        known = _known_names[id(cls)] = (cls, tuple(name_of_type(base) for base in _type_mro(cls) if base is not object) or ("object",))
    return known[1]


def read_attribute(obj: object, name: str) -> Any:
    """The value of ``obj.name`` where reading it runs nobody's code; raises AttributeError otherwise."""
    for cls in mro(obj):
        found = _type_dict(cls).get(name, _NOTHING)
        if found is _NOTHING:
            continue
        kind = type(found)
        if kind is types.MemberDescriptorType:
            return found.__get__(obj)
        if kind is types.GetSetDescriptorType:
            if cls in _KNOWN_C_TYPES:
                return found.__get__(obj)
            raise AttributeError(name)
        if kind is _FUNCTION or not _is_descriptor(kind):
            return _plain_getattr(obj, name)
        # A property, a cached_property, anything with its own __get__: only what the instance itself stores counts.
        return instance_dict(obj)[name]
    return _plain_getattr(obj, name)


def _is_descriptor(kind: type) -> bool:
    return any("__get__" in _type_dict(cls) for cls in _type_mro(kind))


def instance_dict(obj: object) -> dict[str, Any]:
    """The instance's own dictionary, past any ``__dict__`` that its class may define; empty where it has none."""
    for cls in reversed(mro(obj)):
        found = _type_dict(cls).get("__dict__")
        if type(found) is types.GetSetDescriptorType or type(found) is types.MemberDescriptorType:
            held = found.__get__(obj)
            return held if type(held) is dict else {}
    return {}


def _task_context(task: Any) -> Any:
    """The task's contextvars.Context. Before 3.12 there is no getter for it, but the garbage collector's view shows it."""
    getter = getattr(_CTASK, "get_context", None)
    if getter is not None:
        return getter(task)
    return next((item for item in gc.get_referents(task) if type(item).__name__ == "Context"), None)


def _cancel_requests(task: Any) -> int:
    counter = getattr(_CTASK, "cancelling", None)
    return counter(task) if counter is not None else 0


def _rlock_owner(lock: Any) -> int | None:
    """Ident of the owning thread: the C type says it in its repr only."""
    match = re.search(r"owner=(\d+) count=(\d+)", _thread.RLock.__repr__(lock))
    return int(match[1]) if match and int(match[2]) else None


def _peername(sock: Any) -> str | None:
    """``10.0.0.1:443``; None when not connected. Asks the kernel, which answers at once."""
    try:
        address: Any = _socket.socket.getpeername(sock)
    except OSError:
        return None
    return f"{address[0]}:{address[1]}" if type(address) is tuple else str(address) or None


#: Fields that only a method gives, by name and then by class.
_SPECIAL: Final[dict[str, dict[type, Callable[[Any], Any]]]] = {
    "_name": {_CTASK: _CTASK.get_name},
    "_coro": {_CTASK: _CTASK.get_coro},
    "_context": {_CTASK: _task_context},
    "_num_cancels_requested": {_CTASK: _cancel_requests},
    "target": {weakref.ref: lambda ref: ref()},
    "locked": {_thread.LockType: lambda lock: lock.locked()},
    "owner": {_thread.RLock: _rlock_owner},
    "peername": {_socket.socket: _peername},
    "fileno": {_socket.socket: _socket.socket.fileno},
    "__dict__": {object: lambda obj: instance_dict(obj)},
}


#: What is read of every task, without the search through its classes.
_OF_TASK: Final[dict[str, Callable[[Any], Any]]] = {
    "_coro": _CTASK.get_coro,
    **{name: vars(_CFUTURE)[name].__get__ for name in ("_state", "_loop")},
    "_fut_waiter": vars(_CTASK)["_fut_waiter"].__get__,
}


def read_field(obj: Any, name: str) -> Any:
    """``read_attribute``, plus the fields of tasks, weak references and thread locks that only a method gives."""
    if type(obj) is _CTASK and name in _OF_TASK:
        return _OF_TASK[name](obj)
    specials = _SPECIAL.get(name)
    if specials is not None:
        for cls in mro(obj):
            if cls in specials:
                return specials[cls](obj)
    return read_attribute(obj, name)


def field(obj: Any, name: str) -> Any:
    """`read_field`, and None for what cannot be read."""
    try:
        return read_field(obj, name)
    except Exception:
        return None


def referents(obj: object) -> list[Any]:
    """``gc.get_referents``, but of a module only its namespace.

    A C module also visits its state, and not all of that is alive: ``_asyncio`` of 3.12 visits its free list, so that asking for its
    referents hands out dead objects, and frees them a second time.
    """
    if isinstance_c(obj, types.ModuleType):
        return [instance_dict(obj)]
    return gc.get_referents(obj)


class LiveObject:
    """An `ObjectView` of one object of this process."""

    __slots__ = ("object",)

    def __init__(self, obj: object) -> None:
        self.object = obj

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LiveObject) and other.object is self.object

    def __hash__(self) -> int:
        return id(self.object)

    def __repr__(self) -> str:
        return f"<LiveObject {self.type_name} {self.id:x}>"

    @property
    def id(self) -> int:
        return id(self.object)

    @property
    def type_name(self) -> str:
        return _names(type(self.object))[0]

    @property
    def base_names(self) -> tuple[str, ...]:
        return _names(type(self.object))

    def attr(self, name: str) -> LiveObject | None:
        try:
            return LiveObject(read_field(self.object, name))
        except Exception:
            return None

    def items(self, limit: int = 1000) -> list[LiveObject]:
        try:
            return [LiveObject(item) for item in _members(self.object, limit)]
        except Exception:
            return []

    def pairs(self, limit: int = 1000) -> list[tuple[LiveObject, LiveObject]]:
        if not isinstance_c(self.object, dict):
            return []
        return [(LiveObject(key), LiveObject(value)) for key, value in _first(lambda: dict.items(self.object), limit)]  # type: ignore[arg-type]

    def length(self) -> int | None:
        obj: Any = self.object
        for cls in (list, tuple, dict, set, frozenset, collections.deque, str, bytes, bytearray, memoryview):
            if isinstance_c(obj, cls):
                return cls.__len__(obj)
        return None

    def neighbours(self) -> frozenset[int]:
        """By the collector's view, so that no instance dictionary has to be made just to be looked at."""
        return frozenset(id(item) for item in _referents(self.object))

    def parts(self, limit: int = 300) -> list[LiveObject]:
        return [LiveObject(item) for item in _referents(self.object)[:limit]]

    def value(self) -> Plain | bytes | Missing:
        obj: Any = self.object
        kind = type(obj)
        if kind in _PLAIN_TYPES:
            return obj  # type: ignore[no-any-return]
        if kind is str:
            return str(obj if len(obj) <= TEXT_LIMIT else obj[:TEXT_LIMIT])
        if kind is bytes or kind is bytearray:
            return bytes(obj[:TEXT_LIMIT])
        return _plain_of_subclass(obj)


def _referents(obj: object) -> list[object]:
    """With what the instance dictionary refers to; of a container its first members, and nothing behind them: it may have millions."""
    if any(isinstance_c(obj, cls) for cls in (*_SEQUENCES, dict)):
        own = instance_dict(obj)
        return [*_entries(obj), *(dict.values(own) if own else ())]
    found: list[object] = referents(obj)[:MAX_REFERENTS]
    for item in tuple(found):
        if type(item) is dict:
            found += _entries(item)
    return found


def _entries(container: Any) -> list[object]:
    found = list(_members(container, MAX_REFERENTS))
    if isinstance_c(container, dict):
        found += _first(lambda: dict.keys(container), MAX_REFERENTS)
    return found


def isinstance_c(obj: object, cls: type) -> bool:
    """``isinstance`` by the real type: a proxy's ``__class__`` and a metaclass' ``__instancecheck__`` are not asked."""
    return cls in _type_mro(type(obj))


def _plain_of_subclass(obj: Any) -> Plain | bytes | Missing:
    """Enum members with a plain mixin (IntEnum, str enums) and other subclasses of the plain types."""
    if isinstance_c(obj, str):
        return str.__str__(obj)[:TEXT_LIMIT] if type(str.__str__(obj)) is str else str.__getitem__(obj, slice(TEXT_LIMIT))
    if isinstance_c(obj, int):
        return int.__index__(obj) + 0
    if isinstance_c(obj, float):
        return float.__float__(obj) + 0.0
    return MISSING


def _members(obj: Any, limit: int) -> Iterable[Any]:
    sequence: Any = next((cls for cls in _SEQUENCES if isinstance_c(obj, cls)), None)
    if sequence is not None:
        return _first(lambda: sequence.__iter__(obj), limit)
    if isinstance_c(obj, dict):
        return _first(lambda: dict.values(obj), limit)
    if type(obj) is _queue.SimpleQueue:
        # It offers no look inside, but the collector sees its items (up to 3.12 in a list, with None where one was taken).
        held = gc.get_referents(obj)
        inner = held[0] if held and type(held[0]) is list else held
        return [item for item in inner if item is not None and type(item) is not type][:limit]
    if isinstance_c(obj, weakref.WeakSet):
        refs = _first(lambda: set.__iter__(instance_dict(obj)["data"]), limit)
        return [target for target in (ref() for ref in refs) if target is not None]
    return ()


def _first(view: Callable[[], Any], limit: int) -> list[Any]:
    """At most ``limit`` items of a container that another thread may change meanwhile."""
    for _ in range(4):
        try:
            found: list[Any] = []
            for item in view():
                if len(found) >= limit:
                    break
                found.append(item)
            return found
        except RuntimeError:  # changed size during iteration
            continue
    return []
