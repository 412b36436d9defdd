"""`ObjectView` over another process' memory."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from hangwatch.reading.remote.code import Codes
from hangwatch.reading.remote.fields import SPECIAL
from hangwatch.reading.remote.heap import ClassInfo, Heap
from hangwatch.reading.remote.memory import Unreadable
from hangwatch.reading.view import MISSING, Missing, ObjectView
from hangwatch.records import Plain

_BROKEN = (Unreadable, struct.error, OverflowError)
_TEXT_LIMIT: Final = 4096


class RemoteObject:
    """One object of the target."""

    __slots__ = ("_info", "codes", "id")

    def __init__(self, codes: Codes, address: int) -> None:
        self.codes = codes
        self.id = address
        self._info: ClassInfo | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteObject) and other.id == self.id and other.codes is self.codes

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<RemoteObject {self.type_name} {self.id:x}>"

    def _class(self) -> ClassInfo:
        """Asked for once: a view is of one moment."""
        info = self._info
        if info is None:
            info = self._info = self.codes.heap.class_of(self.id)
        return info

    def _shape(self) -> str:
        info = self._info or self._class()
        return info.shape or self.codes.heap.shape(info)

    def at(self, address: int) -> ObjectView:
        return RemoteObject(self.codes, address)

    @property
    def type_name(self) -> str:
        try:
            return self._class().name
        except _BROKEN:
            return "?"

    @property
    def base_names(self) -> tuple[str, ...]:
        heap = self.codes.heap
        try:
            return heap.base_names(self._class())
        except _BROKEN:
            return ()

    def attr(self, name: str) -> ObjectView | None:
        heap = self.codes.heap
        try:
            info = self._class()
            special = SPECIAL.get(self._shape())
            if special is not None:
                found = special(self, name)
                if found is not None:
                    return found
            if name == "__dict__":
                return self.at(held) if (held := heap.instance_dict(self.id, info)[0]) else None
            address = heap.attribute(self.id, name, info) or heap.class_attribute(info, name)
        except _BROKEN:
            return None
        return RemoteObject(self.codes, address) if address else None

    def neighbours(self) -> frozenset[int]:
        heap = self.codes.heap
        try:
            members = self._members(10_000)
            if self._shape() == "dict":
                members += [key for key, _ in heap.dict_pairs(self.id, 10_000)]
            return frozenset((*members, *heap.values(self.id, self._class())))
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
        heap, at = self.codes.heap, self.id
        shape = self._shape()
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
            if self._shape() != "dict":
                return []
            return [(RemoteObject(self.codes, key), RemoteObject(self.codes, value)) for key, value in heap.dict_pairs(self.id, limit)]
        except _BROKEN:
            return []

    def length(self) -> int | None:
        heap = self.codes.heap
        try:
            shape = self._shape()
            if shape == "dict":
                return heap.dict_size(self.id)
            if shape == "set":
                return heap.set_size(self.id)
            return heap.size(self.id) if shape in ("list", "tuple", "deque", "str", "bytes", "bytearray") else None
        except _BROKEN:
            return None

    def value(self) -> Plain | bytes | Missing:
        heap, at = self.codes.heap, self.id
        try:
            reader = _VALUES.get(self._shape())
            return reader(heap, at) if reader else MISSING
        except _BROKEN:
            return MISSING


def _bytearray(heap: Heap, address: int) -> bytes:
    size = min(heap.size(address), _TEXT_LIMIT)
    return heap.memory.read(heap.memory.u64(address + 40), size) if size else b""


_VALUES: Final[dict[str, Callable[[Heap, int], Plain | bytes]]] = {
    "none": lambda heap, address: None,
    "bool": Heap.truth,
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
