"""What lies in C fields: of tasks and futures, functions, cells, locks, sockets, code. Each answers as the getter over there would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from hangwatch.reading.remote.code import Codes
from hangwatch.reading.remote.heap import Heap
from hangwatch.reading.remote.made import Constant, Made
from hangwatch.reading.view import ObjectView
from hangwatch.records import Plain


class Owner(Protocol):
    """The object whose field is asked for."""

    codes: Codes

    @property
    def id(self) -> int: ...

    def at(self, address: int) -> ObjectView:
        """The view of another object of the same target."""


def field(obj: Owner, address: int) -> ObjectView:
    """The view of what a C field points to; None over there when it is NULL."""
    return obj.at(address) if address else Constant(None)


_FUTURE_STATES: Final = {0: "PENDING", 1: "CANCELLED", 2: "FINISHED"}
_FUTURE_FIELDS: Final = {"_loop": "future_loop", "_exception": "future_exception", "_result": "future_result"}
_TASK_FIELDS: Final = {"_fut_waiter": "task_waiter", "_coro": "task_coro", "_context": "task_context"}


def _future_attribute(obj: Owner, name: str) -> ObjectView | None:
    heap, at = obj.codes.heap, obj.id
    layout, memory = heap.layout, heap.memory
    if name == "_state":
        state = _FUTURE_STATES.get(memory.i32(at + layout.future_state))
        return Constant(state, at + layout.future_state) if state else None
    if name in _FUTURE_FIELDS:
        return field(obj, memory.u64(at + getattr(layout, _FUTURE_FIELDS[name])))
    return _callbacks(obj) if name == "_callbacks" else None


def _callbacks(obj: Owner) -> ObjectView:
    """As the getter of Future shows it: the first callback lies in fields of its own, the rest in a list of pairs."""
    heap, at = obj.codes.heap, obj.id
    memory, layout = heap.memory, heap.layout
    first, rest = memory.u64(at + layout.future_callback), memory.u64(at + layout.future_callbacks)
    pairs: list[ObjectView] = []
    if first:
        context = field(obj, memory.u64(at + layout.future_callback_context))
        pairs.append(Made("tuple", [obj.at(first), context], at + layout.future_callback))
    if rest and heap.shape(heap.class_of(rest)) == "list":
        pairs += [obj.at(pair) for pair in heap.list_items(rest, 1000)]
    return Made("list", pairs, at + layout.future_callbacks) if pairs else Constant(None)


def _task_attribute(obj: Owner, name: str) -> ObjectView | None:
    heap, at = obj.codes.heap, obj.id
    layout, memory = heap.layout, heap.memory
    if name in _TASK_FIELDS:
        return field(obj, memory.u64(at + getattr(layout, _TASK_FIELDS[name])))
    if name == "_name":
        return Constant(task_name(heap, memory.u64(at + layout.task_name)), at + layout.task_name)
    if name == "_num_cancels_requested":
        return Constant(memory.i32(at + layout.task_cancels) if layout.task_cancels else 0, at + layout.task_name - 1)
    if name == "_must_cancel":
        word = memory.u8(at + layout.task_must_cancel)
        # Before 3.13 an int of its own, 3.13 one bit beside others, 3.14 the third bit after two byte fields.
        bit = (
            word != 0
            if layout.version < (3, 13)
            else bool(word & 4)
            if layout.version == (3, 13)
            else bool(memory.u8(at + layout.task_must_cancel + 2) & 4)
        )
        return Constant(bit, at + layout.task_must_cancel)
    return _future_attribute(obj, name)


def task_name(heap: Heap, name: int) -> str:
    """What the field of that name points to. From 3.12 on a task that nobody named holds a number until somebody asks for the name."""
    if not name:
        return ""
    return heap.text(name) if heap.shape(heap.class_of(name)) == "str" else f"Task-{heap.integer(name)}"


def _function_attribute(obj: Owner, name: str) -> ObjectView | None:
    layout = obj.codes.heap.layout
    offset = {
        "__name__": layout.function_name, "__qualname__": layout.function_qualname, "__code__": layout.function_code,
        "__closure__": layout.function_closure, "__module__": layout.function_module, "__globals__": layout.function_globals,
    }.get(name)  # fmt: skip
    return field(obj, obj.codes.heap.memory.u64(obj.id + offset)) if offset else None


def _method_attribute(obj: Owner, name: str) -> ObjectView | None:
    layout, memory = obj.codes.heap.layout, obj.codes.heap.memory
    if name == "__self__":
        return field(obj, memory.u64(obj.id + layout.method_self))
    function = obj.at(memory.u64(obj.id + layout.method_function))
    return function if name == "__func__" else function.attr(name)


def _cfunction_attribute(obj: Owner, name: str) -> ObjectView | None:
    layout, memory = obj.codes.heap.layout, obj.codes.heap.memory
    if name in ("__name__", "__qualname__"):
        return Constant(memory.text(memory.u64(memory.u64(obj.id + layout.cfunction_definition))), obj.id)
    if name == "__self__":
        return field(obj, memory.u64(obj.id + layout.cfunction_self))
    return field(obj, memory.u64(obj.id + layout.cfunction_module)) if name == "__module__" else None


def _type_attribute(obj: Owner, name: str) -> ObjectView | None:
    heap = obj.codes.heap
    if name in ("__name__", "__qualname__"):
        return Constant(heap.class_info(obj.id).name.rpartition(".")[2], obj.id)
    for cls in heap.class_info(obj.id).mro:
        found = heap.find_in_dict(heap.memory.u64(cls + heap.layout.tp_dict), name)
        if found:
            return obj.at(found)
    return None


def _single(offset: str, wanted: str) -> Callable[[Owner, str], ObjectView | None]:
    def read(obj: Owner, name: str) -> ObjectView | None:
        if name != wanted:
            return None
        heap = obj.codes.heap
        return field(obj, heap.memory.u64(obj.id + getattr(heap.layout, offset)))

    return read


def _module_attribute(obj: Owner, name: str) -> ObjectView | None:
    heap = obj.codes.heap
    found = heap.find_in_dict(heap.memory.u64(obj.id + heap.layout.module_dict), name)
    return obj.at(found) if found else None


def _lock_attribute(obj: Owner, name: str) -> ObjectView | None:
    heap = obj.codes.heap
    return Constant(bool(heap.memory.u8(obj.id + heap.layout.lock_locked) & 1), obj.id) if name == "locked" else None


def _rlock_attribute(obj: Owner, name: str) -> ObjectView | None:
    heap = obj.codes.heap
    owner, count = heap.memory.u64(obj.id + heap.layout.rlock_owner), heap.memory.u64(obj.id + heap.layout.rlock_count)
    # 3.14 counts the entries after the first.
    held = bool(owner) if heap.layout.version >= (3, 14) else count > 0
    answers: dict[str, Plain] = {"owner": owner if held else None, "locked": held}
    return Constant(answers[name], obj.id) if name in answers else None


def _socket_attribute(obj: Owner, name: str) -> ObjectView | None:
    if name not in ("fileno", "peername"):
        return None
    descriptor = obj.codes.heap.memory.i32(obj.id + 16)  # PySocketSockObject begins with it
    if name == "fileno":
        return Constant(descriptor, obj.id)
    peer = obj.codes.peer(descriptor) if descriptor >= 0 else None
    return Constant(peer, obj.id) if peer else None


def _code_attribute(obj: Owner, name: str) -> ObjectView | None:
    if name not in ("co_freevars", "co_firstlineno", "co_name", "co_qualname", "co_filename"):
        return None
    code = obj.codes.info(obj.id)
    if name == "co_freevars":
        return Made("tuple", [Constant(word, obj.id) for word in code.free], obj.id)
    answers: dict[str, Plain] = {
        "co_firstlineno": code.first_line,
        "co_name": code.name,
        "co_qualname": code.qualname,
        "co_filename": code.file,
    }
    return Constant(answers[name], obj.id)


def _generator_attribute(obj: Owner, name: str) -> ObjectView | None:
    heap = obj.codes.heap
    memory, layout = heap.memory, heap.layout
    if name in ("__qualname__", "__name__"):
        return field(obj, memory.u64(obj.id + layout.generator_qualname - (8 if name == "__name__" else 0)))
    if name not in ("gi_code", "cr_code", "ag_code"):
        return None
    frame = obj.id + layout.generator_frame if layout.version >= (3, 11) else memory.u64(obj.id + layout.generator_frame)
    return field(obj, memory.u64(frame + layout.frame_code) & ~7) if frame else None


#: By shape (see `heap`): what reads a name that no dictionary and no member table has; None when it does not know it either.
SPECIAL: Final[dict[str, Callable[[Owner, str], ObjectView | None]]] = {
    "future": _future_attribute, "task": _task_attribute, "function": _function_attribute, "method": _method_attribute,
    "cfunction": _cfunction_attribute, "type": _type_attribute, "cell": _single("cell_contents", "cell_contents"),
    "weakref": _single("weakref_target", "target"), "module": _module_attribute, "lock": _lock_attribute, "rlock": _rlock_attribute,
    "socket": _socket_attribute, "code": _code_attribute, "generator": _generator_attribute,
}  # fmt: skip
