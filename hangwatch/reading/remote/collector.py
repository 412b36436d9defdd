"""Does the target collect garbage at this moment? One number of the interpreter's: found, checked, then read as often as one likes."""

from __future__ import annotations

import struct

from hangwatch.reading.remote.heap import Heap
from hangwatch.reading.remote.layouts import Roots
from hangwatch.reading.remote.memory import Unreadable

#: struct _gc_runtime_state of 3.9 to 3.12, from its ``generation0``, which points back at the first of three generations of 24 bytes:
#: behind it lie the permanent generation, three statistics of 24 bytes, ``collecting``, ``garbage`` and ``callbacks``.
_GENERATIONS_BEFORE = 72
_COLLECTING, _GARBAGE, _CALLBACKS = 8 + 24 + 72, 8 + 24 + 72 + 8, 8 + 24 + 72 + 16
#: Of the interpreter's state, that part in which it lies: at 600 to 800 in 3.9 to 3.12.
_SEARCHED_BYTES = 8192


def collecting_flag(heap: Heap, roots: Roots) -> int | None:
    """The address of an int that is 1 during a collection, else 0. None where it is not known for sure."""
    layout, memory = heap.layout, heap.memory
    try:
        if layout.has("interpreter_collecting"):
            return roots.interpreter + layout.interpreter_collecting
        data = memory.read(roots.interpreter, _SEARCHED_BYTES)
        words = struct.unpack(f"<{_SEARCHED_BYTES // 8}Q", data)
        for place, word in enumerate(words[: -_CALLBACKS // 8]):
            if word == roots.interpreter + 8 * place - _GENERATIONS_BEFORE and _fits(heap, words, place):
                return roots.interpreter + 8 * place + _COLLECTING
    except (Unreadable, struct.error):
        pass
    return None


def _fits(heap: Heap, words: tuple[int, ...], place: int) -> bool:
    """``gc.garbage`` and ``gc.callbacks`` are lists, the flag is 0 or 1."""
    lists = (words[place + _GARBAGE // 8], words[place + _CALLBACKS // 8])
    return words[place + _COLLECTING // 8] & 0xFFFFFFFF in (0, 1) and all(not at or heap.class_of(at).name == "list" for at in lists)
