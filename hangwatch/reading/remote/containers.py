"""CPython's containers decoded from memory. Addresses in, addresses out; what does not add up raises `Unreadable`."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import Final

from hangwatch.reading.remote.memory import Memory, Unreadable
from hangwatch.reading.remote.offsets import Layout

#: No container that is looked at is longer; a larger number is a torn read.
MOST: Final = 1 << 22
_DEQUE_BLOCK: Final = 64


class Containers:
    """What can be read of containers without knowing any class."""

    def __init__(self, memory: Memory, layout: Layout) -> None:
        self.memory = memory
        self.layout = layout

    def size(self, address: int) -> int:
        """``ob_size`` of a variable-sized object."""
        number = self.memory.i64(address + 16)
        if not 0 <= number <= 1 << 40:
            raise Unreadable("torn size")
        return number

    def tuple_items(self, address: int, limit: int = MOST) -> tuple[int, ...]:
        count = self.size(address)
        if count > MOST:
            raise Unreadable("torn tuple")
        return self.memory.words(address + self.layout.tuple_items, min(count, limit))

    def list_items(self, address: int, limit: int = MOST) -> tuple[int, ...]:
        count = self.size(address)
        if count > MOST:
            raise Unreadable("torn list")
        return self.memory.words(self.memory.u64(address + self.layout.list_items), min(count, limit)) if count else ()

    def set_size(self, address: int) -> int:
        return self.memory.u64(address + 24)

    def set_items(self, address: int, limit: int = MOST) -> list[int]:
        memory, layout = self.memory, self.layout
        mask, table = memory.u64(address + layout.set_mask), memory.u64(address + layout.set_table)
        if mask > MOST or mask & (mask + 1):
            raise Unreadable("torn set")
        # The mark of a removed entry is the only key with hash -1.
        keys = [key for key, digest in struct.iter_unpack("<Qq", memory.read(table, 16 * (mask + 1))) if key and digest != -1]
        if len(keys) != self.set_size(address):
            raise Unreadable("torn set")
        return keys[:limit]

    def deque_items(self, address: int, limit: int = MOST) -> Iterator[int]:
        memory = self.memory
        left = self.size(address)
        if left > MOST:
            raise Unreadable("torn deque")
        left = min(left, limit)
        block, index = memory.u64(address + self.layout.deque_left), memory.u64(address + self.layout.deque_left_index)
        while left > 0:
            if index > _DEQUE_BLOCK:
                raise Unreadable("torn deque")
            take = min(left, _DEQUE_BLOCK - index)
            yield from memory.words(block + 8 + 8 * index, take)
            left -= take
            index = 0
            if left > 0:
                block = memory.u64(block + 8 + 8 * _DEQUE_BLOCK)

    def simple_queue_items(self, address: int, limit: int = MOST) -> list[int]:
        """``_queue.SimpleQueue`` (Modules/_queuemodule.c): until 3.12 a list and where it begins, then a ring of pointers."""
        memory = self.memory
        if self.layout.version <= (3, 12):
            begin = memory.i64(address + 40)
            return list(self.list_items(memory.u64(address + 32)))[begin : begin + limit]
        first, table, room, count = (memory.u64(address + place) for place in (32, 40, 48, 56))
        if count > room or room > MOST or (room and first >= room):
            raise Unreadable("torn queue")
        words = memory.words(table, room)
        return [word for place in range(min(count, limit)) if (word := words[(first + place) % room])]

    def dict_size(self, address: int) -> int:
        return self.memory.u64(address + 16)

    def dict_pairs(self, address: int, limit: int = MOST) -> Iterator[tuple[int, int]]:
        """Keys and values, in the order of insertion."""
        keys = self.memory.u64(address + self.layout.dict_keys)
        values = self.memory.u64(address + self.layout.dict_values)
        if values and self.layout.version >= (3, 13):
            values += 8
        yield from itertools.islice(self._entries(keys, values), limit)

    def _entries(self, keys: int, values: int) -> Iterator[tuple[int, int]]:
        memory = self.memory
        first, count, general = self._keys_header(keys)
        if values:
            held = memory.words(values, count)
            for number, (key, _) in enumerate(self._raw_entries(first, count, general)):
                if key and held[number]:
                    yield key, held[number]
            return
        for key, value in self._raw_entries(first, count, general):
            if key and value:
                yield key, value

    def _raw_entries(self, first: int, count: int, general: bool) -> Iterator[tuple[int, int]]:
        if general:
            for _, key, value in struct.iter_unpack("<QQQ", self.memory.read(first, 24 * count)):
                yield key, value
        else:
            yield from struct.iter_unpack("<QQ", self.memory.read(first, 16 * count))

    def _keys_header(self, keys: int) -> tuple[int, int, bool]:
        """Address of the first entry, number of entries, and whether each carries its hash."""
        memory = self.memory
        if self.layout.version >= (3, 11):
            index_bits, kind, count = memory.u8(keys + 9), memory.u8(keys + 10), memory.u64(keys + 24)
            if index_bits > 40 or kind > 2:
                raise Unreadable("torn dict")
            first, general = keys + 32 + (1 << index_bits), kind == 0
        else:
            slots, count = memory.u64(keys + 8), memory.u64(keys + 32)
            width = 1 if slots <= 0xFF else 2 if slots <= 0xFFFF else 4
            first, general = keys + 40 + slots * width, True
        if count > MOST:
            raise Unreadable("torn dict")
        return first, count, general
