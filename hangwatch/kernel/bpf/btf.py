"""BTF: the types of an object file or of the running kernel (Documentation/bpf/btf.rst).

The kernel's own has some 120,000 types in 5 MB; one pass notes where each begins, in an array of numbers, and nothing is decoded that
is not asked for.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

KERNEL = "/sys/kernel/btf/vmlinux"

_MAGIC = 0xEB9F
_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 2, 3, 4, 5, 6
_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _VAR, _DATASEC, _TYPE_TAG = 8, 9, 10, 11, 14, 15, 18
#: What follows a type's 12 bytes: a fixed number, or so many for each of its members.
_FIXED = {
    _INT: 4,
    _ARRAY: 12,
    _VAR: 4,
    17: 4,
    _PTR: 0,
    7: 0,
    _TYPEDEF: 0,
    _VOLATILE: 0,
    _CONST: 0,
    _RESTRICT: 0,
    12: 0,
    16: 0,
    _TYPE_TAG: 0,
}
_EACH = {_STRUCT: 12, _UNION: 12, _ENUM: 8, 13: 8, _DATASEC: 12, 19: 12}
_ALIASES = (_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG)
_HEAD = struct.Struct("<III")
_DEPTH = 32


class BadBtf(ValueError):
    """Not BTF, or with a kind of type that did not exist when this was written."""


@dataclass(frozen=True, slots=True)
class Type:
    """One type. ``size`` is bytes, or the id of another type for pointers, aliases, variables."""

    at: int
    name_at: int
    kind: int
    members: int
    flag: bool
    size: int


class Btf:
    """Raises BadBtf, when made, for what it cannot walk through."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        try:
            magic, _, _, header, types_at, types_bytes, strings_at, strings_bytes = struct.unpack_from("<HBBIIIII", data)
        except struct.error:
            raise BadBtf("too short") from None
        if magic != _MAGIC:
            raise BadBtf("no BTF in this machine's byte order")
        self._strings = header + strings_at
        self._strings_end = self._strings + strings_bytes
        self._offsets = _walk(data, header + types_at, header + types_at + types_bytes)

    def __len__(self) -> int:
        return len(self._offsets)

    def type(self, number: int) -> Type:
        at = self._offsets[number]
        name_at, info, size = _HEAD.unpack_from(self._data, at)
        return Type(at, name_at, info >> 24 & 31, info & 0xFFFF, bool(info >> 31), size)

    def name(self, name_at: int) -> str:
        start = self._strings + name_at
        return self._data[start : self._data.index(b"\0", start)].decode("utf-8", "replace")

    def members(self, number: int) -> Iterator[tuple[str, int, int]]:
        """Name, type and offset in bits of each member of a structure or union."""
        owner = self.type(self.resolve(number))
        for place in range(owner.members if owner.kind in (_STRUCT, _UNION) else 0):
            name_at, kind, offset = _HEAD.unpack_from(self._data, owner.at + 12 + 12 * place)
            yield self.name(name_at), kind, offset & 0xFFFFFF if owner.flag else offset

    def resolve(self, number: int) -> int:
        """The type behind typedefs and qualifiers."""
        for _ in range(_DEPTH):
            found = self.type(number)
            if found.kind not in _ALIASES:
                return number
            number = found.size
        raise BadBtf("types that name each other")

    def bytes_of(self, number: int) -> int:
        """sizeof."""
        number = self.resolve(number)
        found = self.type(number)
        if found.kind == _PTR:
            return 8
        if found.kind == _ARRAY:
            element, _, count = _HEAD.unpack_from(self._data, found.at + 12)
            return int(count * self.bytes_of(element))
        return found.size

    def pointed(self, number: int) -> int:
        """The type a pointer points to."""
        return self.type(self.resolve(number)).size

    def array_count(self, number: int) -> int:
        """How many elements an array type has."""
        return int(_HEAD.unpack_from(self._data, self.type(self.resolve(number)).at + 12)[2])

    def structure(self, name: str) -> int | None:
        """The first structure of that name."""
        wanted = self._name_offset(name)
        unpack = _HEAD.unpack_from
        if wanted is None:
            return None
        for number in range(1, len(self._offsets)):
            name_at, info, _ = unpack(self._data, self._offsets[number])
            if name_at == wanted and info >> 24 & 31 == _STRUCT:
                return number
        return None

    def _name_offset(self, name: str) -> int | None:
        # Names are not shared as tails of longer ones: pahole and the kernel's build write each once, between zeros.
        at = self._data.find(b"\0" + name.encode() + b"\0", self._strings, self._strings_end)
        return None if at < 0 else at + 1 - self._strings

    def offset(self, owner: int, path: str) -> int | None:
        """Bytes from the start of structure ``owner`` to ``member`` or ``member.inner``, through anonymous members; None if absent."""
        total = 0
        for part in path.split("."):
            found = self._member(owner, part)
            if found is None:
                return None
            total += found[0]
            owner = found[1]
        return total

    def _member(self, owner: int, wanted: str) -> tuple[int, int] | None:
        for name, kind, bits in self.members(owner):
            if name == wanted:
                return bits // 8, kind
            if not name:
                inner = self._member(kind, wanted)
                if inner is not None:
                    return bits // 8 + inner[0], inner[1]
        return None

    def section(self, name: str) -> Iterator[tuple[str, int]]:
        """Name and type of each variable of a data section (``.maps``)."""
        for number in range(1, len(self._offsets)):
            found = self.type(number)
            if found.kind == _DATASEC and self.name(found.name_at) == name:
                for place in range(found.members):
                    variable = self.type(_HEAD.unpack_from(self._data, found.at + 12 + 12 * place)[0])
                    yield self.name(variable.name_at), variable.size


def _walk(data: bytes, at: int, end: int) -> array[int]:
    offsets = array("I", [0])
    append, unpack = offsets.append, struct.Struct("<I").unpack_from
    while at < end:
        append(at)
        info = unpack(data, at + 4)[0]
        kind = info >> 24 & 31
        if kind in _FIXED:
            at += 12 + _FIXED[kind]
        elif kind in _EACH:
            at += 12 + _EACH[kind] * (info & 0xFFFF)
        else:
            raise BadBtf(f"a kind of type ({kind}) that is not known here")
    return offsets


def of_kernel(path: str = KERNEL) -> Btf:
    """The running kernel's. Raises OSError where it has none, BadBtf where it is newer than this."""
    with open(path, "rb") as file:
        return Btf(file.read())
