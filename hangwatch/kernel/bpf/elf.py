"""An object file as clang writes it for the BPF target: its programs, the maps they use, its license.

Only what our own collectors need is understood: 64-bit little endian, one program a section, maps defined by BTF, relocations against
maps. Anything else is refused with words.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hangwatch.kernel.bpf.btf import BadBtf, Btf

_MAGIC = b"\x7fELF\x02\x01\x01"
_EM_BPF = 247
_SYMTAB, _FUNCTION = 2, 2
_EXECUTABLE = 0x4
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQ")
#: An instruction that loads 64 bits: the only one a map's descriptor can be written into.
_LOAD_64 = 0x18
_PSEUDO_MAP_FD = 1


class BadObject(ValueError):
    """Not an object file we can load, and why."""


@dataclass(frozen=True, slots=True)
class MapSpec:
    """One map as the source defines it."""

    name: str
    kind: int
    key_bytes: int
    value_bytes: int
    entries: int
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Program:
    """``section`` is ``raw_tp/<tracepoint>``; ``uses`` are (offset in ``code``, name of a map)."""

    name: str
    section: str
    code: bytes
    uses: tuple[tuple[int, str], ...]

    @property
    def tracepoint(self) -> str:
        return self.section.split("/")[1]

    def linked(self, descriptors: dict[str, int]) -> bytes:
        """The instructions with the maps' descriptors in their places."""
        code = bytearray(self.code)
        for at, name in self.uses:
            code[at + 1] = code[at + 1] & 0x0F | _PSEUDO_MAP_FD << 4
            struct.pack_into("<i", code, at + 4, descriptors[name])
        return bytes(code)


@dataclass(frozen=True, slots=True)
class Object:
    """One collector, not yet in the kernel."""

    name: str
    license: bytes
    maps: dict[str, MapSpec]
    programs: dict[str, Program]
    btf: Btf = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    kind: int
    flags: int
    at: int
    size: int
    link: int
    info: int


def load_object(path: Path) -> Object:
    """Raises BadObject, or OSError when the file cannot be read."""
    data = path.read_bytes()
    try:
        return _parse(path.name.partition(".")[0], data)
    except (struct.error, IndexError, KeyError, BadBtf, UnicodeDecodeError) as error:
        raise BadObject(f"{path} is not an object of ours: {error}") from None


def _parse(name: str, data: bytes) -> Object:
    if data[:7] != _MAGIC or struct.unpack_from("<H", data, 18)[0] != _EM_BPF:
        raise BadObject(f"{name} is no little-endian BPF object")
    sections = list(_sections(data))
    by_name = {section.name: section for section in sections}
    btf = Btf(_body(data, by_name[".BTF"]))
    maps = {spec.name: spec for spec in _maps(btf)}
    symbols = list(_symbols(data, sections))
    programs = {}
    for number, section in enumerate(sections):
        if section.flags & _EXECUTABLE and section.size and section.name.startswith("raw_tp/"):
            program = _program(data, sections, number, symbols, maps)
            programs[program.name] = program
    return Object(name, _body(data, by_name["license"]), maps, programs, btf)


def _sections(data: bytes) -> Iterator[_Section]:
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    rows = [_SECTION.unpack_from(data, table + number * size) for number in range(count)]
    strings = rows[names][4]
    for name_at, kind, flags, _, at, length, link, info, _, _ in rows:
        yield _Section(_text(data, strings + name_at), kind, flags, at, length, link, info)


def _symbols(data: bytes, sections: list[_Section]) -> Iterator[tuple[str, int, int]]:
    """Name, type and section of every symbol."""
    table = next(section for section in sections if section.kind == _SYMTAB)
    strings = sections[table.link].at
    for at in range(table.at, table.at + table.size, _SYMBOL.size):
        name_at, info, _, section, _, _ = _SYMBOL.unpack_from(data, at)
        yield _text(data, strings + name_at), info & 15, section


def _program(data: bytes, sections: list[_Section], number: int, symbols: list[tuple[str, int, int]], maps: dict[str, MapSpec]) -> Program:
    section = sections[number]
    names = [name for name, kind, where in symbols if kind == _FUNCTION and where == number]
    if len(names) != 1:
        raise BadObject(f"section {section.name} holds {len(names)} functions, not one")
    code = _body(data, section)
    uses = []
    relocations = next((s for s in sections if s.info == number and s.name == ".rel" + section.name), None)
    if relocations is not None:
        for at in range(relocations.at, relocations.at + relocations.size, _RELOCATION.size):
            offset, info = _RELOCATION.unpack_from(data, at)
            name = symbols[info >> 32][0]
            if name not in maps or code[offset] != _LOAD_64:
                raise BadObject(f"{names[0]} refers to {name or 'something'} that is no map")
            uses.append((offset, name))
    return Program(names[0], section.name, code, tuple(uses))


def _maps(btf: Btf) -> Iterator[MapSpec]:
    for name, kind in btf.section(".maps"):
        found: dict[str, int] = {}
        for member, member_type, _ in btf.members(kind):
            # __uint(x, n) is a pointer to an array of n, __type(x, t) a pointer to t (libbpf's bpf_helpers.h).
            behind = btf.pointed(member_type)
            found[member] = btf.bytes_of(behind) if member in ("key", "value") else btf.array_count(behind)
        yield MapSpec(
            name,
            found["type"],
            found.get("key", found.get("key_size", 0)),
            found.get("value", found.get("value_size", 0)),
            found["max_entries"],
            found.get("map_flags", 0),
        )


def _body(data: bytes, section: _Section) -> bytes:
    return data[section.at : section.at + section.size]


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()
