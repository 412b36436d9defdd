"""Where a coroutine, generator or async generator keeps its frame, and whether it is suspended, awaiting, running or done.

Sources: ``Objects/genobject.c`` and ``Include/internal/pycore_frame.h`` of each release. Before 3.13 "awaiting" is not a state of its own: it is
told by the argument of the RESUME that follows (3.11, 3.12) or by the YIELD_FROM that follows (3.9, 3.10).
"""

from __future__ import annotations

from typing import Final

from hangwatch.reading.remote.code import CodeInfo, Codes
from hangwatch.reading.remote.heap import Heap

CREATED, SUSPENDED, AWAITING, RUNNING, DONE = "created", "suspended", "awaiting", "running", "done"
#: Opcode of YIELD_FROM in 3.9 and 3.10.
_YIELD_FROM: Final = 72
#: ``PyFrameState`` (Include/internal/pycore_frame.h) as an unsigned byte: 3.13 and 3.14, before (255: suspended or awaiting), from 3.15.
_STATES: Final = {253: CREATED, 254: SUSPENDED, 255: AWAITING, 0: RUNNING}
_STATES_311: Final = {254: CREATED, 255: SUSPENDED, 0: RUNNING}
_STATES_315: Final = {0: CREATED, 1: SUSPENDED, 2: AWAITING, 3: AWAITING, 4: RUNNING}


def generator_frame(codes: Codes, address: int) -> tuple[str, int]:
    """State of a coroutine, generator or async generator, and the address of its frame (0 when it is done)."""
    heap = codes.heap
    memory, layout = heap.memory, heap.layout
    if layout.version <= (3, 10):
        return _old_generator_frame(heap, memory.u64(address + layout.generator_frame))
    state, frame = memory.u8(address + layout.generator_state), address + layout.generator_frame
    if layout.version >= (3, 13) or state != 255:
        return _stated(layout.version, state), frame
    following = memory.u64(frame + layout.frame_instruction) + 2
    return (AWAITING if memory.u8(following + 1) & 3 >= 2 else SUSPENDED), frame


def _stated(version: tuple[int, int], state: int) -> str:
    """By the byte alone."""
    if version >= (3, 15):
        return _STATES_315.get(state, DONE)
    return (_STATES if version >= (3, 13) else _STATES_311).get(state, DONE)


def is_done(version: tuple[int, int], state: int) -> bool:
    """By the byte alone, from 3.11 on."""
    return _stated(version, state) == DONE


def inline_state(codes: Codes, code: CodeInfo, state: int, offset: int) -> str:
    """Of a coroutine of 3.11 or later, whose state byte and instruction were read together with its frame."""
    if codes.heap.layout.version >= (3, 13) or state != 255:
        return _stated(codes.heap.layout.version, state)
    awaits = code.awaits.get(offset)
    if awaits is None:
        awaits = code.awaits[offset] = codes.heap.memory.u8(code.instructions + offset + 3) & 3 >= 2
    return AWAITING if awaits else SUSPENDED


def _old_generator_frame(heap: Heap, frame: int) -> tuple[str, int]:
    memory, layout = heap.memory, heap.layout
    if not frame:
        return DONE, 0
    last = memory.i32(frame + layout.frame_lasti)
    if last < 0:
        return CREATED, frame
    if layout.version == (3, 9):
        if not memory.u64(frame + layout.frame_top):
            return RUNNING, frame
    else:
        state = memory.i8(frame + layout.frame_state)
        if state >= 0:
            return (RUNNING, frame) if state == 0 else (DONE, frame)
        last *= 2
    code = memory.u64(memory.u64(frame + layout.frame_code) + layout.code_bytes) + layout.bytes_items
    return (AWAITING if memory.u8(code + last + 2) == _YIELD_FROM else SUSPENDED), frame
