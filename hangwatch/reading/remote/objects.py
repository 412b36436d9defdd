"""`ObjectView` over another process' memory."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from hangwatch.reading.remote.code import Codes
from hangwatch.reading.remote.heap import Heap
from hangwatch.reading.remote.memory import Unreadable
from hangwatch.reading.view import MISSING, Missing, ObjectView
from hangwatch.records import Plain

_BROKEN = (Unreadable, struct.error, OverflowError)
_TEXT_LIMIT: Final = 4096


class Constant:
    """The view of a value that lies in a C field and so is no object over there."""

    __slots__ = ("_id", "_value")

    def __init__(self, value: Plain, address: int = 0) -> None:
        self._value = value
        self._id = address

    def __repr__(self) -> str:
        return f"<Constant {self._value!r}>"

    @property
    def id(self) -> int:
        return self._id

    @property
    def type_name(self) -> str:
        return type(self._value).__name__

    @property
    def base_names(self) -> tuple[str, ...]:
        return (self.type_name,)

    def attr(self, name: str) -> ObjectView | None:
        return None

    def items(self, limit: int = 1000) -> list[ObjectView]:
        return []

    def pairs(self, limit: int = 1000) -> list[tuple[ObjectView, ObjectView]]:
        return []

    def neighbours(self) -> frozenset[int]:
        return frozenset()

    def parts(self, limit: int = 300) -> Sequence[ObjectView]:
        return ()

    def length(self) -> int | None:
        return len(self._value) if isinstance(self._value, str) else None

    def value(self) -> Plain | bytes | Missing:
        return self._value


class Made(Constant):
    """The view of a list or tuple that C code would make on the spot (``Future._callbacks``)."""

    __slots__ = ("_kind", "_members")

    def __init__(self, kind: str, members: Sequence[ObjectView], address: int = 0) -> None:
        super().__init__(None, address)
        self._kind = kind
        self._members = list(members)

    @property
    def type_name(self) -> str:
        return self._kind

    def items(self, limit: int = 1000) -> list[ObjectView]:
        return self._members[:limit]

    def length(self) -> int | None:
        return len(self._members)

    def value(self) -> Plain | bytes | Missing:
        return MISSING


class RemoteObject:
    """One object of the target."""

    __slots__ = ("_id", "codes")

    def __init__(self, codes: Codes, address: int) -> None:
        self.codes = codes
        self._id = address

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteObject) and other._id == self._id and other.codes is self.codes

    def __hash__(self) -> int:
        return hash(self._id)

    def __repr__(self) -> str:
        return f"<RemoteObject {self.type_name} {self._id:x}>"

    @property
    def id(self) -> int:
        return self._id

    @property
    def type_name(self) -> str:
        try:
            return self.codes.heap.class_of(self._id).name
        except _BROKEN:
            return "?"

    @property
    def base_names(self) -> tuple[str, ...]:
        heap = self.codes.heap
        try:
            return heap.base_names(heap.class_of(self._id))
        except _BROKEN:
            return ()

    def attr(self, name: str) -> ObjectView | None:
        heap = self.codes.heap
        try:
            info = heap.class_of(self._id)
            special = _SPECIAL.get(heap.shape(info))
            if special is not None:
                found = special(self, name)
                if found is not None:
                    return found
            if name == "__dict__":
                return field(self.codes, held) if (held := heap.instance_dict(self._id, info)[0]) else None
            address = heap.attribute(self._id, name) or heap.class_attribute(info, name)
        except _BROKEN:
            return None
        return RemoteObject(self.codes, address) if address else None

    def neighbours(self) -> frozenset[int]:
        heap = self.codes.heap
        try:
            members = self._members(10_000)
            if heap.shape(heap.class_of(self._id)) == "dict":
                members += [key for key, _ in heap.dict_pairs(self._id, 10_000)]
            return frozenset((*members, *heap.attributes(self._id).values()))
        except _BROKEN:
            return frozenset()

    def parts(self, limit: int = 300) -> Sequence[ObjectView]:
        return [RemoteObject(self.codes, address) for address in list(self.neighbours())[:limit] if address]

    def items(self, limit: int = 1000) -> list[ObjectView]:
        try:
            return [RemoteObject(self.codes, address) for address in self._members(limit) if address]
        except _BROKEN:
            return []

    def _members(self, limit: int) -> list[int]:
        heap, at = self.codes.heap, self._id
        shape = heap.shape(heap.class_of(at))
        if shape == "list":
            return list(heap.list_items(at, limit))
        if shape == "tuple":
            return list(heap.tuple_items(at, limit))
        if shape == "deque":
            return list(heap.deque_items(at, limit))
        if shape == "set":
            return list(heap.set_items(at, limit))
        if shape == "dict":
            return [value for _, value in heap.dict_pairs(at, limit)]
        if shape == "simplequeue":
            return heap.simple_queue_items(at, limit)
        if shape == "weakset":
            return weak_members(heap, at, limit)
        return []

    def pairs(self, limit: int = 1000) -> list[tuple[ObjectView, ObjectView]]:
        heap = self.codes.heap
        try:
            if heap.shape(heap.class_of(self._id)) != "dict":
                return []
            return [(RemoteObject(self.codes, key), RemoteObject(self.codes, value)) for key, value in heap.dict_pairs(self._id, limit)]
        except _BROKEN:
            return []

    def length(self) -> int | None:
        heap = self.codes.heap
        try:
            shape = heap.shape(heap.class_of(self._id))
            if shape == "dict":
                return heap.dict_size(self._id)
            if shape == "set":
                return heap.set_size(self._id)
            return heap.size(self._id) if shape in ("list", "tuple", "deque", "str", "bytes", "bytearray") else None
        except _BROKEN:
            return None

    def value(self) -> Plain | bytes | Missing:
        heap, at = self.codes.heap, self._id
        try:
            reader = _VALUES.get(heap.shape(heap.class_of(at)))
            return reader(heap, at) if reader else MISSING
        except _BROKEN:
            return MISSING


def _bytearray(heap: Heap, address: int) -> bytes:
    size = min(heap.size(address), _TEXT_LIMIT)
    return heap.memory.read(heap.memory.u64(address + 40), size) if size else b""


_VALUES: Final[dict[str, Callable[[Heap, int], Plain | bytes]]] = {
    "none": lambda heap, address: None,
    "bool": lambda heap, address: bool(heap.integer(address)),
    "int": Heap.integer,
    "float": Heap.floating,
    "str": Heap.text,
    "bytes": Heap.raw_bytes,
    "bytearray": _bytearray,
}


def weak_members(heap: Heap, address: int, limit: int = 1 << 22) -> list[int]:
    """What a WeakSet still refers to."""
    data = heap.attribute(address, "data")
    found = []
    for reference in heap.set_items(data, limit) if data else ():
        try:
            target = heap.memory.u64(reference + heap.layout.weakref_target)
            if target and heap.shape(heap.class_of(target)) != "none":
                found.append(target)
        except _BROKEN:
            continue  # it died while the set was read
    return found


def field(codes: Codes, address: int) -> ObjectView:
    """The view of what a C field points to; None over there when it is NULL."""
    return RemoteObject(codes, address) if address else Constant(None)


_FUTURE_STATES: Final = {0: "PENDING", 1: "CANCELLED", 2: "FINISHED"}
_FUTURE_FIELDS: Final = {"_loop": "future_loop", "_exception": "future_exception", "_result": "future_result"}
_TASK_FIELDS: Final = {"_fut_waiter": "task_waiter", "_coro": "task_coro", "_context": "task_context"}


def _future_attribute(obj: RemoteObject, name: str) -> ObjectView | None:
    heap, at = obj.codes.heap, obj.id
    layout, memory = heap.layout, heap.memory
    if name == "_state":
        state = _FUTURE_STATES.get(memory.i32(at + layout.future_state))
        return Constant(state, at + layout.future_state) if state else None
    if name in _FUTURE_FIELDS:
        return field(obj.codes, memory.u64(at + getattr(layout, _FUTURE_FIELDS[name])))
    return _callbacks(obj) if name == "_callbacks" else None


def _callbacks(obj: RemoteObject) -> ObjectView:
    """As the getter of Future shows it: the first callback lies in fields of its own, the rest in a list of pairs."""
    heap, at = obj.codes.heap, obj.id
    memory, layout = heap.memory, heap.layout
    first, rest = memory.u64(at + layout.future_callback), memory.u64(at + layout.future_callbacks)
    pairs: list[ObjectView] = []
    if first:
        context = field(obj.codes, memory.u64(at + layout.future_callback_context))
        pairs.append(Made("tuple", [RemoteObject(obj.codes, first), context], at + layout.future_callback))
    if rest and heap.shape(heap.class_of(rest)) == "list":
        pairs += [RemoteObject(obj.codes, pair) for pair in heap.list_items(rest, 1000)]
    return Made("list", pairs, at + layout.future_callbacks) if pairs else Constant(None)


def _task_attribute(obj: RemoteObject, name: str) -> ObjectView | None:
    heap, at = obj.codes.heap, obj.id
    layout, memory = heap.layout, heap.memory
    if name in _TASK_FIELDS:
        return field(obj.codes, memory.u64(at + getattr(layout, _TASK_FIELDS[name])))
    if name == "_name":
        return Constant(task_name(heap, at), at + layout.task_name)
    if name == "_num_cancels_requested":
        return Constant(memory.i32(at + layout.task_cancels) if layout.task_cancels else 0, at + layout.task_name - 1)
    if name == "_must_cancel":
        word = memory.u8(at + layout.task_must_cancel)
        # Before 3.13 an int of its own, 3.13 one bit beside others, 3.14 the third bit after two byte fields.
        bit = word != 0 if layout.version < (3, 13) else bool(word & 4) if layout.version == (3, 13) else bool(memory.u8(at + layout.task_must_cancel + 2) & 4)
        return Constant(bit, at + layout.task_must_cancel)
    return _future_attribute(obj, name)


def task_name(heap: Heap, address: int) -> str:
    """From 3.12 on a task that nobody named holds a number until somebody asks for the name."""
    name = heap.memory.u64(address + heap.layout.task_name)
    if not name:
        return ""
    return heap.text(name) if heap.shape(heap.class_of(name)) == "str" else f"Task-{heap.integer(name)}"


def _function_attribute(obj: RemoteObject, name: str) -> ObjectView | None:
    layout = obj.codes.heap.layout
    offset = {
        "__name__": layout.function_name, "__qualname__": layout.function_qualname, "__code__": layout.function_code,
        "__closure__": layout.function_closure, "__module__": layout.function_module, "__globals__": layout.function_globals,
    }.get(name)  # fmt: skip
    return field(obj.codes, obj.codes.heap.memory.u64(obj.id + offset)) if offset else None


def _method_attribute(obj: RemoteObject, name: str) -> ObjectView | None:
    layout, memory = obj.codes.heap.layout, obj.codes.heap.memory
    if name == "__self__":
        return field(obj.codes, memory.u64(obj.id + layout.method_self))
    function = RemoteObject(obj.codes, memory.u64(obj.id + layout.method_function))
    return function if name == "__func__" else function.attr(name)


def _cfunction_attribute(obj: RemoteObject, name: str) -> ObjectView | None:
    layout, memory = obj.codes.heap.layout, obj.codes.heap.memory
    if name in ("__name__", "__qualname__"):
        return Constant(memory.text(memory.u64(memory.u64(obj.id + layout.cfunction_definition))), obj.id)
    if name == "__self__":
        return field(obj.codes, memory.u64(obj.id + layout.cfunction_self))
    return field(obj.codes, memory.u64(obj.id + layout.cfunction_module)) if name == "__module__" else None


def _type_attribute(obj: RemoteObject, name: str) -> ObjectView | None:
    heap = obj.codes.heap
    if name in ("__name__", "__qualname__"):
        return Constant(heap.class_info(obj.id).name.rpartition(".")[2], obj.id)
    for cls in heap.class_info(obj.id).mro:
        found = heap.find_in_dict(heap.memory.u64(cls + heap.layout.tp_dict), name)
        if found:
            return RemoteObject(obj.codes, found)
    return None


def _single(offset: str, wanted: str) -> Callable[[RemoteObject, str], ObjectView | None]:
    def read(obj: RemoteObject, name: str) -> ObjectView | None:
        if name != wanted:
            return None
        heap = obj.codes.heap
        return field(obj.codes, heap.memory.u64(obj.id + getattr(heap.layout, offset)))

    return read


def _module_attribute(obj: RemoteObject, name: str) -> ObjectView | None:
    heap = obj.codes.heap
    found = heap.find_in_dict(heap.memory.u64(obj.id + heap.layout.module_dict), name)
    return RemoteObject(obj.codes, found) if found else None


def _lock_attribute(obj: RemoteObject, name: str) -> ObjectView | None:
    heap = obj.codes.heap
    return Constant(bool(heap.memory.u8(obj.id + heap.layout.lock_locked) & 1), obj.id) if name == "locked" else None


def _rlock_attribute(obj: RemoteObject, name: str) -> ObjectView | None:
    heap = obj.codes.heap
    owner, count = heap.memory.u64(obj.id + heap.layout.rlock_owner), heap.memory.u64(obj.id + heap.layout.rlock_count)
    # 3.14 counts the entries after the first.
    held = bool(owner) if heap.layout.version >= (3, 14) else count > 0
    answers: dict[str, Plain] = {"owner": owner if held else None, "locked": held}
    return Constant(answers[name], obj.id) if name in answers else None


def _socket_attribute(obj: RemoteObject, name: str) -> ObjectView | None:
    if name not in ("fileno", "peername"):
        return None
    descriptor = obj.codes.heap.memory.i32(obj.id + 16)  # PySocketSockObject begins with it
    if name == "fileno":
        return Constant(descriptor, obj.id)
    peer = obj.codes.peer(descriptor) if descriptor >= 0 else None
    return Constant(peer, obj.id) if peer else None


def _code_attribute(obj: RemoteObject, name: str) -> ObjectView | None:
    if name not in ("co_freevars", "co_firstlineno", "co_name", "co_qualname", "co_filename"):
        return None
    code = obj.codes.info(obj.id)
    if name == "co_freevars":
        return Made("tuple", [Constant(word, obj.id) for word in code.free], obj.id)
    answers: dict[str, Plain] = {"co_firstlineno": code.first_line, "co_name": code.name, "co_qualname": code.qualname, "co_filename": code.file}
    return Constant(answers[name], obj.id)


def _generator_attribute(obj: RemoteObject, name: str) -> ObjectView | None:
    heap = obj.codes.heap
    memory, layout = heap.memory, heap.layout
    if name in ("__qualname__", "__name__"):
        return field(obj.codes, memory.u64(obj.id + layout.generator_qualname - (8 if name == "__name__" else 0)))
    if name not in ("gi_code", "cr_code", "ag_code"):
        return None
    frame = obj.id + layout.generator_frame if layout.version >= (3, 11) else memory.u64(obj.id + layout.generator_frame)
    return field(obj.codes, memory.u64(frame + layout.frame_code) & ~7) if frame else None


_SPECIAL: Final[dict[str, Callable[[RemoteObject, str], ObjectView | None]]] = {
    "future": _future_attribute, "task": _task_attribute, "function": _function_attribute, "method": _method_attribute,
    "cfunction": _cfunction_attribute, "type": _type_attribute, "cell": _single("cell_contents", "cell_contents"),
    "weakref": _single("weakref_target", "target"), "module": _module_attribute, "lock": _lock_attribute, "rlock": _rlock_attribute,
    "socket": _socket_attribute, "code": _code_attribute, "generator": _generator_attribute,
}  # fmt: skip
