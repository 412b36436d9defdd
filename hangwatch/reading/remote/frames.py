"""`FrameView` over another process' memory. What a suspended frame awaits is the top of its value stack."""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import Final

from hangwatch.reading.remote.calls import calling
from hangwatch.reading.remote.code import CodeInfo, Codes, handler_depths
from hangwatch.reading.remote.generators import CREATED, DONE, RUNNING, SUSPENDED, generator_frame, inline_state
from hangwatch.reading.remote.heap import Heap
from hangwatch.reading.remote.kernelside import KernelSide
from hangwatch.reading.remote.memory import Unreadable
from hangwatch.reading.remote.objects import RemoteObject
from hangwatch.reading.view import ObjectView

_BROKEN = (Unreadable, struct.error, OverflowError)
_U64 = struct.Struct("<Q").unpack_from
_I32 = struct.Struct("<i").unpack_from
_EXITS: Final = ("__exit__", "__aexit__")
_FROM_GENERATOR: Final = ("_GeneratorContextManager", "_AsyncGeneratorContextManager")


class RemoteFrame:
    """One frame. ``state`` is CREATED, SUSPENDED or AWAITING for a coroutine that is not running, RUNNING otherwise."""

    __slots__ = ("_exits", "_managers", "_raw", "_start", "address", "code", "codes", "inside", "offset", "owner", "state")

    def __init__(self, codes: Codes, address: int, state: str = "", owner: int = 0) -> None:
        """``state`` is left out for the frame of a coroutine of 3.11 or later: it is read with the frame, at one moment."""
        heap = codes.heap
        memory, layout = heap.memory, heap.layout
        self.codes = codes
        self.address = address
        self.state = state
        self.owner = owner
        #: the thread that stands in this very frame, and who knows its system call (the innermost of a running thread only)
        self.inside: tuple[int, KernelSide] | None = None
        # From 3.14 on the low bits of a stack reference say how it is counted.
        self.code: CodeInfo = codes.info(memory.u64(address + layout.frame_code) & ~7)
        # One copy of the whole frame, from the byte on that says how its coroutine stands: what is asked of it later comes from the same moment.
        self._start = 0 if state else layout.generator_frame - layout.generator_state
        self._raw = memory.read(
            address - self._start, self._start + layout.frame_locals + 8 * (len(self.code.slots) + self.code.stack_size)
        )
        if self._word(layout.frame_code) & ~7 != self.code.address:
            raise Unreadable("torn frame")
        if layout.version >= (3, 11):
            self.offset = self._word(layout.frame_instruction) - self.code.instructions
        else:
            self.offset = self._number(layout.frame_lasti) * (2 if layout.version == (3, 10) else 1)
        if not -2 <= self.offset < 1 << 24:
            raise Unreadable("torn frame")
        if not state:
            self.state = inline_state(codes, self.code, self._raw[0], self.offset)
        self._exits: list[tuple[int, bytes]] = []
        depths = self._depths() if self.state != DONE else ()
        self._managers = [address for address in map(self._context_manager, reversed(depths)) if address] if depths else []

    def _word(self, place: int) -> int:
        number: int = _U64(self._raw, self._start + place)[0]
        return number

    def _number(self, place: int) -> int:
        number: int = _I32(self._raw, self._start + place)[0]
        return number

    @property
    def content(self) -> list[tuple[int, bytes]]:
        """Where the frame and the exits on its stack lie, and what stood there when they were read."""
        return [(self.address - self._start, self._raw), *self._exits]

    @property
    def holds_state(self) -> bool:
        """`content` tells how its coroutine stood, too."""
        return self._start > 0

    def __repr__(self) -> str:
        return f"<RemoteFrame {self.function} {self.file}:{self.line} {self.state}>"

    @property
    def where(self) -> tuple[str, int, str, str]:
        code = self.code
        known = code.wheres.get(self.offset)
        if known is None:
            known = code.wheres[self.offset] = (code.file, self.line, code.qualname, code.name)
        if self.owner and self.codes.heap.layout.version < (3, 11):
            return (*known[:2], self.function, known[3])
        return known

    @property
    def file(self) -> str:
        return self.code.file

    @property
    def line(self) -> int:
        return self.codes.line(self.code, self.offset)

    @property
    def function(self) -> str:
        heap = self.codes.heap
        if heap.layout.version >= (3, 11) or not self.owner:
            return self.code.qualname
        try:
            return heap.text(heap.memory.u64(self.owner + heap.layout.generator_qualname))
        except _BROKEN:
            return self.code.name

    @property
    def suspendable(self) -> bool:
        return self.code.suspendable

    @property
    def name(self) -> str:
        return self.code.name

    @property
    def id(self) -> int:
        return self.owner or self.address

    def _slot(self, place: int) -> int:
        """The object in one fast local, its cell opened; 0 when unset."""
        heap = self.codes.heap
        address = self._word(heap.layout.frame_locals + 8 * place) & ~3
        if address and place in self.code.boxed and heap.class_of(address).name == "cell":
            return heap.memory.u64(address + heap.layout.cell_contents)
        return address

    def local(self, name: str) -> ObjectView | None:
        try:
            for place, known in enumerate(self.code.slots):
                if known == name:
                    address = self._slot(place)
                    if address:
                        return RemoteObject(self.codes, address)
            found = self.codes.heap.find_in_dict(self._namespace(), name)
            return RemoteObject(self.codes, found) if found else None
        except _BROKEN:
            return None

    def local_names(self) -> tuple[str, ...]:
        try:
            namespace = self._namespace()
            return tuple(name for name, _ in self.codes.heap.text_pairs(namespace)) if namespace else tuple(dict.fromkeys(self.code.slots))
        except _BROKEN:
            return ()

    def _namespace(self) -> int:
        """The dictionary that holds the locals of a module's or a class' body; 0 for functions."""
        heap = self.codes.heap
        if self.code.optimized:
            return 0
        address = self._word(heap.layout.frame_namespace)
        return address if address and heap.shape(heap.class_of(address)) == "dict" else 0

    def stack(self) -> list[int]:
        """The value stack of a frame that is not running, bottom first; 0 where an entry is no object."""
        version, (bottom, count) = self.codes.heap.layout.version, self._extent()
        return [_reference(word, version) for word in struct.unpack_from(f"<{count}Q", self._raw, self._start + bottom)]

    def _extent(self) -> tuple[int, int]:
        """Where in the frame its value stack begins, and how many entries it has."""
        layout = self.codes.heap.layout
        bottom = layout.frame_locals + 8 * len(self.code.slots)
        if layout.version == (3, 9) or layout.version >= (3, 14):
            top = self._word(layout.frame_top) - self.address
        else:
            depth = self._number(layout.frame_top)
            top = (bottom if layout.version == (3, 10) else layout.frame_locals) + 8 * depth
        count = (top - bottom) // 8
        if not 0 <= count <= self.code.stack_size:
            raise Unreadable("torn stack")
        return bottom, count

    def awaited(self) -> int:
        """What an AWAITING frame delegates to."""
        version, (bottom, count) = self.codes.heap.layout.version, self._extent()
        top = _reference(self._word(bottom + 8 * (count - 1)), version) if count else 0
        if not top and version >= (3, 15) and count > 1:
            return _reference(self._word(bottom + 8 * (count - 2)), version)  # 3.15 keeps a second word above the iterator
        return top

    def held(self) -> list[ObjectView]:
        found: list[ObjectView] = []
        for address in self._managers:
            manager = RemoteObject(self.codes, address)
            found.append(manager)
            try:
                found += self._held_by_generator(manager)
            except _BROKEN:
                continue
        return found

    def _held_by_generator(self, manager: RemoteObject) -> list[ObjectView]:
        """What a context manager made by contextlib has entered in turn, in the generator behind it (it has one frame, suspended at its yield)."""
        if not _from_generator(manager.base_names):
            return []
        generator = manager.attr("gen")
        if generator is None:
            return []
        state, address = generator_frame(self.codes, generator.id)
        return RemoteFrame(self.codes, address, state, generator.id).held() if state == SUSPENDED else []

    def _depths(self) -> Sequence[int]:
        """Stack depths of the blocks that are open at this instruction, innermost first."""
        if self.state == CREATED:
            return []
        layout = self.codes.heap.layout
        if layout.version >= (3, 11):
            return handler_depths(self.code, self.offset)
        count = self._number(layout.frame_blocks)
        if not 0 <= count <= 20:
            raise Unreadable("torn block stack")
        first = layout.frame_block_stack
        # PyTryBlock: type, handler, level (12 bytes)
        # A try inside a with keeps nothing on the stack: it shares the level.
        return list(dict.fromkeys(self._number(first + 12 * number + 8) for number in reversed(range(count))))

    def _context_manager(self, depth: int) -> int:
        """Whose exit waits right below that depth; 0 when that block is no ``with``."""
        heap = self.codes.heap
        bottom = heap.layout.frame_locals + 8 * len(self.code.slots)
        if depth < 1 or depth > self.code.stack_size:
            return 0
        top = _reference(self._word(bottom + 8 * (depth - 1)), heap.layout.version)
        if heap.layout.version < (3, 14):
            return self._entered_by(top) if top else 0
        below = _reference(self._word(bottom + 8 * (depth - 2)), heap.layout.version) if depth > 1 else 0
        if below and top and _known_exit(heap, below):
            return top
        return self._entered_by(top) if top else 0

    def _entered_by(self, exit_at: int) -> int:
        """Whose exit this bound method is; 0 when it is something else."""
        heap = self.codes.heap
        shape = heap.shape(heap.class_of(exit_at))
        bound = shape in ("method", "cfunction")
        # Methods are small, and their memory is used again at once: part of what a second reading must agree with.
        raw = heap.memory.read(exit_at + 8, 24 if bound else 8)
        self._exits.append((exit_at + 8, raw))
        if not bound:
            return 0
        layout = heap.layout
        callee, owner = _U64(raw, layout.method_function - 8)[0], _U64(raw, layout.method_self - 8)[0]
        if shape == "cfunction":
            return owner if is_exit(heap, exit_at) else 0
        return owner if _known_exit(heap, callee) else 0

    def calling(self) -> tuple[ObjectView, str] | None:
        if self.inside is None or self.state != RUNNING:
            return None
        try:
            return calling(self, *self.inside)
        except _BROKEN:
            return None

    def references(self) -> list[ObjectView]:
        found: dict[int, None] = {}
        for place in range(len(self.code.slots)):
            try:
                found[self._slot(place)] = None
            except _BROKEN:
                continue
        try:
            found.update(dict.fromkeys(self.stack() if self.state != RUNNING else []))
        except _BROKEN:
            pass
        found.pop(0, None)
        return [RemoteObject(self.codes, address) for address in found]


def _reference(word: int, version: tuple[int, int]) -> int:
    """The object that a word of the value stack stands for; 3.14+ marks numbers with both low bits."""
    if version < (3, 14):
        return word
    return 0 if word & 3 == 3 else word & ~3


def is_exit(heap: Heap, address: int) -> bool:
    """A function or method called ``__exit__`` or ``__aexit__``."""
    try:
        shape = heap.shape(heap.class_of(address))
        layout, memory = heap.layout, heap.memory
        if shape == "function":
            return heap.text(memory.u64(address + layout.function_name)) in _EXITS
        if shape == "cfunction":
            return memory.text(memory.u64(memory.u64(address + layout.cfunction_definition))) in _EXITS
        if shape == "method":
            return is_exit(heap, memory.u64(address + layout.method_function))
        name = heap.class_of(address).plain_name
        if name in ("method_descriptor", "wrapper_descriptor"):
            # PyDescrObject: head, class, name
            return heap.text(memory.u64(address + 24)) in _EXITS
        return name == "cython_function_or_method"
    except _BROKEN:
        return False


def _known_exit(heap: Heap, function: int) -> bool:
    """`is_exit`, asked once for each function."""
    known = heap.exits.get(function)
    if known is None:
        known = heap.exits[function] = is_exit(heap, function)
    return known


@functools.lru_cache(1024)
def _from_generator(base_names: tuple[str, ...]) -> bool:
    return any(name.rpartition(".")[2] in _FROM_GENERATOR for name in base_names)
