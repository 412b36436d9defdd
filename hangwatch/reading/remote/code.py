"""Code objects from memory: names, the line of an instruction, the ``with`` blocks around it.

Table formats: 3.9 ``Objects/lnotab_notes.txt`` of that release, 3.10 the same file (PEP 626), 3.11+ CPython's
``InternalDocs/code_objects.md`` and ``InternalDocs/exception_handling.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hangwatch.reading.remote.heap import Heap
from hangwatch.reading.remote.memory import Unreadable

#: ``co_localspluskinds`` bits: what the slot is.
_CELL, _FREE = 0x40, 0x80


#: CO_GENERATOR, CO_COROUTINE, CO_ITERABLE_COROUTINE, CO_ASYNC_GENERATOR (Include/cpython/code.h).
_SUSPENDABLE = 0x20 | 0x80 | 0x100 | 0x200


@dataclass(slots=True)
class CodeInfo:
    """One code object. ``slots`` names the fast locals in order; ``boxed`` are the positions that hold cells."""

    address: int
    file: str
    name: str
    qualname: str
    first_line: int
    line_table: bytes
    slots: tuple[str, ...]
    boxed: frozenset[int]
    #: names of free variables, in the order of the function's ``__closure__``
    free: tuple[str, ...]
    instructions: int
    stack_size: int
    exceptions: bytes
    #: its locals lie in the frame (``CO_OPTIMIZED``), not in a dictionary
    optimized: bool = True
    #: a coroutine's, generator's or async generator's
    suspendable: bool = False
    lines: dict[int, int] = field(default_factory=dict)
    depths: dict[int, list[int]] = field(default_factory=dict)
    #: by instruction: whether a coroutine suspended there awaits (3.11, 3.12), and what `RemoteFrame.where` gives
    awaits: dict[int, bool] = field(default_factory=dict)
    wheres: dict[int, tuple[str, int, str, str]] = field(default_factory=dict)


class Codes:
    """Decodes each code object once."""

    def __init__(self, heap: Heap, peer: Callable[[int], str | None] = lambda descriptor: None) -> None:
        self.heap = heap
        #: who is at the other end of one of the target's descriptors
        self.peer = peer
        self._known: dict[int, CodeInfo] = {}

    def info(self, address: int) -> CodeInfo:
        known = self._known.get(address)
        if known is None:
            known = self._known[address] = self._read(address)
        return known

    def _read(self, address: int) -> CodeInfo:
        heap = self.heap
        memory, layout = heap.memory, heap.layout
        if heap.class_of(address).name != "code":
            raise Unreadable(f"{address:#x} is no code object")
        name = heap.text(memory.u64(address + layout.code_name))
        file = heap.text(memory.u64(address + layout.code_filename))
        lines = _all_bytes(heap, memory.u64(address + layout.code_lines))
        flags = memory.u32(address + layout.code_flags)
        optimized, suspendable = bool(flags & 1), bool(flags & _SUSPENDABLE)
        first, depth = memory.i32(address + layout.code_first_line), memory.i32(address + layout.code_stacksize)
        if layout.version >= (3, 11):
            names = [heap.text(item) for item in heap.tuple_items(memory.u64(address + layout.code_names))]
            kinds = _all_bytes(heap, memory.u64(address + layout.code_kinds))
            boxed = frozenset(place for place, kind in enumerate(kinds) if kind & (_CELL | _FREE))
            qualname = heap.text(memory.u64(address + layout.code_qualname))
            exceptions = _all_bytes(heap, memory.u64(address + layout.code_exceptions))
            free = tuple(word for word, kind in zip(names, kinds, strict=False) if kind & _FREE)
            return CodeInfo(
                address,
                file,
                name,
                qualname,
                first,
                lines,
                tuple(names),
                boxed,
                free,
                address + layout.code_bytes,
                depth,
                exceptions,
                optimized,
                suspendable,
            )
        groups = [
            [heap.text(item) for item in heap.tuple_items(memory.u64(address + offset))]
            for offset in (layout.code_varnames, layout.code_cellvars, layout.code_freevars)
        ]
        plain = len(groups[0])
        slots = tuple(groups[0] + groups[1] + groups[2])
        code = memory.u64(address + layout.code_bytes) + layout.bytes_items
        return CodeInfo(
            address,
            file,
            name,
            name,
            first,
            lines,
            slots,
            frozenset(range(plain, len(slots))),
            tuple(groups[2]),
            code,
            depth,
            b"",
            optimized,
            suspendable,
        )

    def line(self, code: CodeInfo, offset: int) -> int:
        """The source line of the instruction at byte ``offset``; the first line when it has not begun."""
        known = code.lines.get(offset)
        if known is None:
            known = code.lines[offset] = _line(code, offset, self.heap.layout.version)
        return known


def _all_bytes(heap: Heap, address: int) -> bytes:
    return heap.raw_bytes(address, 1 << 20) if address else b""


def _line(code: CodeInfo, offset: int, version: tuple[int, int]) -> int:
    if offset < 0:
        return code.first_line
    if version >= (3, 11):
        spans: Iterator[tuple[int, int | None]] = _locations(code.line_table, code.first_line)
    elif version == (3, 10):
        spans = _line_table_310(code.line_table, code.first_line)
    else:
        return _line_39(code.line_table, code.first_line, offset)
    latest = code.first_line
    for end, line in spans:
        latest = line if line is not None else latest
        if end > offset:
            return latest
    return latest


def _line_39(table: bytes, line: int, offset: int) -> int:
    """Pairs of (bytecode step, signed line step)."""
    at = 0
    for place in range(0, len(table) - 1, 2):
        at += table[place]
        if at > offset:
            break
        step = table[place + 1]
        line += step - 256 if step >= 128 else step
    return line


def _line_table_310(table: bytes, line: int) -> Iterator[tuple[int, int | None]]:
    """Pairs of (length of the range, signed line step); a step of -128 marks a range without a line."""
    end = 0
    for place in range(0, len(table) - 1, 2):
        end += table[place]
        step = table[place + 1]
        if step == 128:
            yield end, None
            continue
        line += step - 256 if step > 128 else step
        yield end, line


def _locations(table: bytes, line: int) -> Iterator[tuple[int, int | None]]:
    """Entries of a code byte (kind, length), then what the kind says: nothing, a column byte, columns, or varints."""
    place = end = 0
    while place < len(table):
        head = table[place]
        place += 1
        kind, end = head >> 3 & 15, end + 2 * ((head & 7) + 1)
        if kind == 15:
            yield end, None
            continue
        if kind >= 13:
            word, place = _varint(table, place, little=True)
            line += -(word >> 1) if word & 1 else word >> 1
            for _ in range(3 if kind == 14 else 0):
                _, place = _varint(table, place, little=True)
        elif kind >= 10:
            line += kind - 10
            place += 2
        else:
            place += 1
        yield end, line


def _varint(table: bytes, place: int, *, little: bool) -> tuple[int, int]:
    """Six bits a byte with a bit that says "more": least significant first in location tables, last in exception tables."""
    number = shift = 0
    while place < len(table):
        byte = table[place]
        place += 1
        if little:
            number |= (byte & 63) << shift
            shift += 6
        else:
            number = number << 6 | (byte & 63)
        if not byte & 64:
            break
    return number, place


def handler_depths(code: CodeInfo, offset: int) -> list[int]:
    """Stack depths to which the handlers around ``offset`` would unwind, innermost first (3.11+).

    A ``with`` block keeps its exit callable right below that depth: everything below it is in place while the block runs, so it
    can be read even of a frame that is executing, whose stack pointer is in a register.
    """
    known = code.depths.get(offset)
    if known is None:
        known = code.depths[offset] = _handler_depths(code, offset)
    return known


def _handler_depths(code: CodeInfo, offset: int) -> list[int]:
    entries = list(_exception_entries(code.exceptions))
    depths: list[int] = []
    for _ in range(64):
        # The handler itself may lie inside an outer block: follow it outward.
        inner = next((entry for entry in entries if entry[0] <= offset < entry[1]), None)
        if inner is None or inner[2] == offset:
            break
        # A handler's own clean-up is entered with more on the stack than there is now: it says nothing about this moment.
        if not depths or inner[3] < depths[-1]:
            depths.append(inner[3])
        offset = inner[2]
    return depths


def _exception_entries(table: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(start, end, handler, depth): byte offsets, and the depth of the stack on entry of the handler."""
    place = 0
    while place < len(table):
        start, place = _varint(table, place, little=False)
        length, place = _varint(table, place, little=False)
        handler, place = _varint(table, place, little=False)
        depth, place = _varint(table, place, little=False)
        yield 2 * start, 2 * (start + length), 2 * handler, depth >> 1
