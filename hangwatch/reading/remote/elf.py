"""Symbols of a loaded ELF image, found in the target's memory: no file is opened.

A file that looks the same by name may be another one: in a container, through an absolute link, after an upgrade. The
image that the target runs carries its own dynamic symbol table, reached from its program header over PT_DYNAMIC and
DT_GNU_HASH (or the older DT_HASH); formats: the System V ABI, chapter 5, and the GNU extension as ld.so reads it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator

from hangwatch.reading.remote.memory import Memory, Region, Unreadable

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_GNU_HASH = 4, 5, 6, 0x6FFFFEF5
_SYMBOL_BYTES = 24
_PYTHON_IMAGE = re.compile(r"(lib)?python\d")


def symbols(memory: Memory, start: int, names: Iterable[str]) -> dict[str, int]:
    """Addresses of those ``names`` that the image mapped at ``start`` defines; {} where there is no 64-bit ELF image."""
    try:
        found = _dynamic(memory, start)
        if found is None:
            return {}
        bias, tags = found
        strings, table = tags[_DT_STRTAB], tags[_DT_SYMTAB]
        look = _gnu_lookup(memory, tags[_DT_GNU_HASH]) if _DT_GNU_HASH in tags else _sysv_lookup(memory, tags[_DT_HASH])
        answers = {}
        for name in names:
            for index in look(name):
                name_at, _, _, section, value, _ = struct.unpack("<IBBHQQ", memory.read(table + _SYMBOL_BYTES * index, _SYMBOL_BYTES))
                # Section 0 is "defined elsewhere": an import stub, not the thing.
                if section and value and memory.text(strings + name_at) == name:
                    answers[name] = bias + value
                    break
        return answers
    except (Unreadable, KeyError, struct.error):
        return {}


def elf_class(memory: Memory, start: int) -> int:
    """32 or 64; 0 for what is no ELF image."""
    try:
        head = memory.read(start, 5)
    except Unreadable:
        return 0
    return {1: 32, 2: 64}.get(head[4], 0) if head[:4] == b"\x7fELF" else 0


def _dynamic(memory: Memory, start: int) -> tuple[int, dict[int, int]] | None:
    """Load bias and the dynamic section's tags, addresses in it made absolute."""
    head = memory.read(start, 64)
    if head[:5] != b"\x7fELF\x02":
        return None
    (offset,) = struct.unpack_from("<Q", head, 32)
    size, count = struct.unpack_from("<HH", head, 54)
    first_load = dynamic = None
    for number in range(min(count, 64)):
        kind, _, at, address = struct.unpack("<IIQQ", memory.read(start + offset + number * size, 24))
        if kind == _PT_LOAD and first_load is None:
            first_load = address - at
        elif kind == _PT_DYNAMIC:
            dynamic = address
    if dynamic is None:
        return None
    bias = start - (first_load or 0)
    tags: dict[int, int] = {}
    for number in range(256):
        tag, value = struct.unpack("<QQ", memory.read(bias + dynamic + 16 * number, 16))
        if tag == 0:
            break
        tags.setdefault(tag, value)
    for tag in (_DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_GNU_HASH):
        # glibc has put absolute addresses here while loading, musl leaves them as they were linked.
        if tag in tags and not (bias and tags[tag] >= bias):
            tags[tag] += bias
    return bias, tags


def _gnu_lookup(memory: Memory, at: int) -> Callable[[str], Iterator[int]]:
    buckets, first, bloom, _ = struct.unpack("<IIII", memory.read(at, 16))
    if not buckets:
        raise Unreadable("empty hash table")
    bucket_at = at + 16 + 8 * bloom
    chain_at = bucket_at + 4 * buckets

    def look(name: str) -> Iterator[int]:
        wanted = 5381
        for byte in name.encode():
            wanted = (wanted * 33 + byte) & 0xFFFFFFFF
        index = memory.u32(bucket_at + 4 * (wanted % buckets))
        while index >= first:
            entry = memory.u32(chain_at + 4 * (index - first))
            if entry | 1 == wanted | 1:
                yield index
            if entry & 1:
                return
            index += 1

    return look


def _sysv_lookup(memory: Memory, at: int) -> Callable[[str], Iterator[int]]:
    buckets, chains = struct.unpack("<II", memory.read(at, 8))
    if not buckets:
        raise Unreadable("empty hash table")

    def look(name: str) -> Iterator[int]:
        wanted = 0
        for byte in name.encode():
            wanted = (wanted << 4) + byte
            high = wanted & 0xF0000000
            wanted = (wanted ^ (high >> 24)) & ~high & 0xFFFFFFFF
        index = memory.u32(at + 8 + 4 * (wanted % buckets))
        steps = 0
        while index and steps < chains:
            yield index
            index = memory.u32(at + 8 + 4 * (buckets + index))
            steps += 1

    return look


def images(regions: Iterable[Region], executable: str) -> list[Region]:
    """The first mapping of each file, those that are likely to be the interpreter first."""
    seen: set[str] = set()
    likely: list[Region] = []
    others: list[Region] = []
    for region in regions:
        if not region.path.startswith("/") or region.path in seen or region.offset:
            continue
        seen.add(region.path)
        name = region.path.rsplit("/", 1)[-1]
        is_python = region.path.removesuffix(" (deleted)") == executable or _PYTHON_IMAGE.match(name)
        (likely if is_python else others).append(region)
    return likely + others
