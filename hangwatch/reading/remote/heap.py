"""CPython's objects decoded from memory: classes, strings, numbers, attributes; `containers` has the rest.

Addresses in, addresses or plain values out. Everything that does not look as it should raises `Unreadable`: a wrong
length or a class that is none is how a torn read shows itself, and the caller then reads again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from hangwatch.reading.remote.containers import MOST, Containers
from hangwatch.reading.remote.memory import Memory, Unreadable
from hangwatch.reading.remote.offsets import Layout

#: Bits of ``tp_flags`` (Include/object.h), the same in all versions read here.
_HEAP_TYPE: Final = 1 << 9
_READY: Final = 1 << 12
#: Classes that 3.9 uses without ever making them ready.
_NEVER_READY: Final = ("async_generator_asend", "async_generator_athrow", "async_generator_wrapped_value", "coroutine_wrapper", "hamt_bitmap_node",
                       "hamt_array_node", "hamt_collision_node", "hamt")  # fmt: skip
_INLINE_VALUES: Final = 1 << 2
_MANAGED_DICT: Final = 1 << 4
INT, LIST, TUPLE, BYTES, STR, DICT, TYPE = (1 << 24, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 31)

_FLAG_SHAPES: Final = ((STR, "str"), (BYTES, "bytes"), (LIST, "list"), (TUPLE, "tuple"), (DICT, "dict"), (TYPE, "type"))
_SHAPES: Final = {
    "NoneType": "none", "bool": "bool", "int": "int", "float": "float", "set": "set", "frozenset": "set", "collections.deque": "deque",
    "bytearray": "bytearray", "_weakrefset.WeakSet": "weakset", "_asyncio.Task": "task", "_asyncio.Future": "future", "function": "function",
    "method": "method", "builtin_function_or_method": "cfunction", "cell": "cell", "module": "module", "weakref": "weakref",
    "weakref.ReferenceType": "weakref", "weakref.KeyedRef": "weakref", "_thread.lock": "lock", "_socket.socket": "socket", "_queue.SimpleQueue": "simplequeue", "_thread.RLock": "rlock",
    "coroutine": "generator", "generator": "generator", "async_generator": "generator", "code": "code",
}  # fmt: skip

#: ``PyMemberDef.type`` of members that hold an object (T_OBJECT, T_OBJECT_EX).
_OBJECT_MEMBERS: Final = (6, 16)
_MEMBER = struct.Struct("<QiiqiiQ")  # name, type, offset, flags, doc: 40 bytes

#: ``PyTypeObject.tp_descr_get``: what a class has whose instances compute values (a property, a function).
_DESCR_GET: Final = 272

_TEXT_LIMIT: Final = 4096
_U64 = struct.Struct("<Q").unpack_from


@dataclass(slots=True)
class ClassInfo:
    """What is worth knowing of a class. ``kind`` holds the built-in it derives from (``LIST``, ``STR``, ...) as its flag bits."""

    address: int
    name: str
    plain_name: str
    kind: int
    flags: int
    basic_size: int
    dict_offset: int
    mro: tuple[int, ...] = ()
    members: dict[str, int] = field(default_factory=dict)
    bases: tuple[str, ...] = ()
    shape: str = ""


class Heap(Containers):
    """Decoder over one `Memory` with one `Layout`. Caches hold until `forget` (classes and code for the reader's life)."""

    def __init__(self, memory: Memory, layout: Layout) -> None:
        super().__init__(memory, layout)
        self._classes: dict[int, ClassInfo] = {}
        self._texts: dict[int, str] = {}
        self._keys: dict[int, dict[str, int]] = {}
        self._of_class: dict[tuple[int, str], int] = {}
        #: Whether the function at an address is an exit (see `frames.is_exit`): ten thousand bound exits are of a few functions.
        self.exits: dict[int, bool] = {}
        #: address of None, once the reader has found it
        self.none = 0
        self._truths: dict[int, bool] = {}

    def forget(self) -> None:
        """Drops what may have changed; classes stay, they do not move while objects of them live."""
        self.memory.forget()
        self._texts.clear()
        self._keys.clear()
        self._of_class.clear()
        self.exits.clear()

    def drop(self, *, small: bool = False) -> None:
        """As `Memory.drop`; texts are kept."""
        self.memory.drop(small=small)
        self._keys.clear()
        self._of_class.clear()
        self.exits.clear()

    # -- classes

    def class_of(self, address: int) -> ClassInfo:
        # `Memory.u64`, written out: nothing else is asked as often.
        entry = self.memory.pages.get(address + 8 >> 12)
        if entry is not None and 0 <= (place := address + 8 - entry[1]) <= len(entry[0]) - 8:
            cls = _U64(entry[0], place)[0]
        else:
            cls = self.memory.u64(address + 8)
        return self._classes.get(cls) or self.class_info(cls)

    def class_info(self, address: int) -> ClassInfo:
        known = self._classes.get(address)
        if known is None:
            known = self._read_class(address)
            self._classes[address] = known
        return known

    def _read_class(self, address: int) -> ClassInfo:
        memory, layout = self.memory, self.layout
        flags = memory.u64(address + layout.tp_flags)
        plain = memory.text(memory.u64(address + layout.tp_name)) if address % 8 == 0 else ""
        if not plain or not plain.isprintable() or not (flags & _READY or plain in _NEVER_READY):
            raise Unreadable(f"{address:#x} is no class")
        info = ClassInfo(
            address, plain, plain.rpartition(".")[2], flags & 0xFF000000, flags, memory.i64(address + layout.tp_basicsize),
            memory.i64(address + layout.tp_dictoffset),
        )  # fmt: skip
        if flags & _HEAP_TYPE:
            info.name = self._heap_type_name(address, plain)
        mro = memory.u64(address + layout.tp_mro)
        info.mro = self.tuple_items(mro) if mro else (address,)
        for cls in reversed(info.mro):
            info.members.update(self._members(cls))
        return info

    def _heap_type_name(self, address: int, plain: str) -> str:
        try:
            qualified = self.text(self.memory.u64(address + self.layout.cached_keys - 8))
            module_at = self.find_in_dict(self.memory.u64(address + self.layout.tp_dict), "__module__")
            module = self.text(module_at) if module_at else plain.rpartition(".")[0]
        except Unreadable:
            return plain
        return f"{module}.{qualified}" if module and module != "builtins" else qualified

    def _members(self, cls: int) -> dict[str, int]:
        """Offsets of the object members (slots too) that this class itself adds."""
        found: dict[str, int] = {}
        at = self.memory.u64(cls + self.layout.tp_members)
        for number in range(200 if at else 0):
            name_at, kind, _, offset, _, _, _ = _MEMBER.unpack(self.memory.read(at + 40 * number, 40))
            if not name_at:
                break
            if kind in _OBJECT_MEMBERS:
                found[self.memory.text(name_at)] = offset
        return found

    def base_names(self, info: ClassInfo) -> tuple[str, ...]:
        """Names along the method resolution order, ``object`` left out."""
        if not info.bases:
            names = [self.class_info(cls).name for cls in info.mro]
            info.bases = tuple(name for name in names if name != "object")
        return info.bases

    def shape(self, info: ClassInfo) -> str:
        """Which of the shapes in ``_SHAPES`` an instance has; "object" for none of them."""
        if not info.shape:
            flagged = next((name for bit, name in _FLAG_SHAPES if info.kind & bit), "")
            info.shape = flagged or next((_SHAPES[name] for name in self.base_names(info) if name in _SHAPES), "object")
        return info.shape

    # -- plain values

    def text(self, address: int) -> str:
        known = self._texts.get(address)
        if known is None:
            known = self._texts[address] = self._read_text(address)
        return known

    def _read_text(self, address: int) -> str:
        memory, layout = self.memory, self.layout
        if not self.class_of(address).kind & STR:
            raise Unreadable(f"{address:#x} is no str")
        # One copy of the head, so that length and kind are of the same moment.
        head = memory.words(address, 5)
        length, state = head[layout.str_length >> 3], head[layout.str_state >> 3] & 0xFFFFFFFF
        width, compact, ascii_only = state >> 2 & 7, state >> 5 & 1, state >> 6 & 1
        if length > MOST or width not in (1, 2, 4):
            raise Unreadable("torn str")
        if compact:
            data = address + (layout.ascii_header if ascii_only else layout.compact_header)
        else:
            data = memory.u64(address + layout.compact_header)
        raw = memory.read(data, min(length, _TEXT_LIMIT) * width) if length else b""
        return raw.decode({1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}[width], "replace")

    def integer(self, address: int) -> int:
        memory, layout = self.memory, self.layout
        if layout.version >= (3, 12):
            tag = memory.u64(address + layout.int_size)
            digits, negative = tag >> 3, tag & 3 == 2
        else:
            size = memory.i64(address + layout.int_size)
            digits, negative = abs(size), size < 0
        if digits > 64:
            raise Unreadable("a torn or very large int")
        raw = memory.read(address + layout.int_digits, 4 * digits) if digits else b""
        number: int = sum(digit << (30 * place) for place, (digit,) in enumerate(struct.iter_unpack("<I", raw)))
        return -number if negative else number

    def truth(self, address: int) -> bool:
        """True and False never move."""
        known = self._truths.get(address)
        if known is None:
            known = self._truths[address] = bool(self.integer(address))
        return known

    def floating(self, address: int) -> float:
        number: float = struct.unpack("<d", self.memory.read(address + self.layout.float_value, 8))[0]
        return number

    def raw_bytes(self, address: int, limit: int = _TEXT_LIMIT) -> bytes:
        return self.memory.read(address + self.layout.bytes_items, min(self.size(address), limit))

    # -- dictionaries by name

    def text_pairs(self, address: int) -> Iterator[tuple[str, int]]:
        """The pairs whose key is a str."""
        for key, value in self.dict_pairs(address):
            if self.class_of(key).kind & STR:
                yield self.text(key), value

    def find_in_dict(self, address: int, name: str) -> int:
        """The value under a str key, 0 when there is none."""
        if not address:
            return 0
        values = self.memory.u64(address + self.layout.dict_values)
        keys = self.memory.u64(address + self.layout.dict_keys)
        places = self._key_places(keys)
        place = places.get(name)
        if place is None:
            return 0
        if values:
            return self.memory.u64(values + (8 if self.layout.version >= (3, 13) else 0) + 8 * place)
        first, _, general = self._keys_header(keys)
        return self.memory.u64(first + (24 * place + 16 if general else 16 * place + 8))

    def _key_places(self, keys: int) -> dict[str, int]:
        """Position of each str key. Remembered: instances of one class share their keys."""
        known = self._keys.get(keys)
        if known is None:
            known = {}
            first, count, general = self._keys_header(keys)
            for place, (key, _) in enumerate(self._raw_entries(first, count, general)):
                if key and self.class_of(key).kind & STR:
                    known[self.text(key)] = place
            self._keys[keys] = known
        return known

    # -- instances

    def attribute(self, address: int, name: str, info: ClassInfo | None = None) -> int:
        """What a slot or the instance's own dictionary holds under ``name``; 0 when unset. ``info``: its class, where known."""
        info = info or self.class_of(address)
        offset = info.members.get(name)
        if offset is not None:
            return self.memory.u64(address + offset)
        held, values, keys = self.instance_dict(address, info)
        if held:
            return self.find_in_dict(held, name)
        if values:
            place = self._key_places(keys).get(name)
            return self.memory.u64(values + 8 * place) if place is not None else 0
        return 0

    def class_attribute(self, info: ClassInfo, name: str) -> int:
        """A plain value that the class holds for all its instances; what computes something (a property) does not count."""
        known = self._of_class.get((info.address, name))
        if known is None:
            known = self._of_class[(info.address, name)] = self._find_class_attribute(info, name)
        return known

    def _find_class_attribute(self, info: ClassInfo, name: str) -> int:
        for cls in info.mro:
            found = self.find_in_dict(self.memory.u64(cls + self.layout.tp_dict), name)
            if found:
                return 0 if self.memory.u64(self.memory.u64(found + 8) + _DESCR_GET) else found
        return 0

    def attributes(self, address: int) -> dict[str, int]:
        """All that slots and instance dictionary hold."""
        info = self.class_of(address)
        found = {name: self.memory.u64(address + offset) for name, offset in info.members.items()}
        held, values, keys = self.instance_dict(address, info)
        if held:
            found.update(self.text_pairs(held))
        elif values:
            found.update({name: self.memory.u64(values + 8 * place) for name, place in self._key_places(keys).items()})
        return {name: value for name, value in found.items() if value}

    def values(self, address: int, info: ClassInfo) -> list[int]:
        """As `attributes`, without the names."""
        found = [self.memory.u64(address + offset) for offset in info.members.values()] if info.members else []
        held, values, keys = self.instance_dict(address, info)
        if held:
            found += [value for _, value in self.text_pairs(held)]
        elif values:
            found += self.memory.words(values, max(self._key_places(keys).values(), default=-1) + 1)
        return [value for value in found if value]

    def instance_dict(self, address: int, info: ClassInfo) -> tuple[int, int, int]:
        """``(dict, 0, 0)``, or ``(0, values, keys)`` while the values still lie beside the object, or zeros."""
        memory, version = self.memory, self.layout.version
        if version >= (3, 11) and info.flags & _MANAGED_DICT:
            keys = memory.u64(info.address + self.layout.cached_keys)
            if version == (3, 11):
                values, held = memory.words(address - 32, 2)
                return (held, 0, 0) if held else (0, values, keys)
            held = memory.u64(address - 24)
            if version == (3, 12):
                return (0, held + 1, keys) if held & 1 else (held, 0, 0)
            if held or not info.flags & _INLINE_VALUES or not keys:
                return held, 0, 0
            values = address + info.basic_size
            return (0, values + 8, keys) if memory.u8(values + 3) else (0, 0, 0)
        if info.dict_offset > 0:
            return memory.u64(address + info.dict_offset), 0, 0
        if info.dict_offset < 0 and info.kind & (TUPLE | INT) and version < (3, 12):
            items = abs(memory.i64(address + 16)) * (8 if info.kind & TUPLE else 4)
            end = (info.basic_size + items + 7) // 8 * 8
            return memory.u64(address + end), 0, 0
        return 0, 0, 0
