"""The await chain: from a task's coroutine through whatever it awaits, to the future or C iterator at its end."""

from __future__ import annotations

import struct
from typing import Final

from hangwatch.reading.remote.code import Codes
from hangwatch.reading.remote.frames import RemoteFrame
from hangwatch.reading.remote.generators import AWAITING, DONE, generator_frame, is_done
from hangwatch.reading.remote.heap import Heap
from hangwatch.reading.remote.memory import Unreadable

_BROKEN = (Unreadable, struct.error, OverflowError)
#: Longer chains are cut: recursion that deep is a finding of its own, and reading must end.
_CHAIN_LIMIT: Final = 500
#: Iterators that only stand between a coroutine and what it awaits: where they keep it.
_BETWEEN: Final = ("async_generator_asend", "async_generator_athrow", "coroutine_wrapper", "anext_awaitable")


def chain(codes: Codes, address: int) -> tuple[list[RemoteFrame], int]:
    """The frames from a coroutine down to where it stands, outermost first, and the address of what ends the chain (0: nothing).

    What ends it is the awaited object that has no frame to show: a future, or an iterator written in C.
    """
    heap = codes.heap
    frames: list[RemoteFrame] = []
    seen: set[int] = set()
    while address and address not in seen and len(frames) < _CHAIN_LIMIT:
        seen.add(address)
        info = heap.class_of(address)
        if heap.shape(info) == "generator":
            found = _frame_of(codes, address)
            if found is None:
                return frames, 0
            frames.append(found)
            if found.state != AWAITING:
                return frames, 0
            address = found.awaited()
        elif info.plain_name in _BETWEEN:
            address = heap.memory.u64(address + heap.layout.wrapped_iterator)
        elif info.name == "_asyncio.FutureIter":
            return frames, heap.memory.u64(address + heap.layout.future_iter)
        else:
            following = _behind(heap, address)
            if not following:
                return frames, address
            address = following
    return frames, address


def _frame_of(codes: Codes, address: int) -> RemoteFrame | None:
    """The frame of a coroutine or generator; None when it is done."""
    layout = codes.heap.layout
    if layout.version <= (3, 10):
        state, frame_at = generator_frame(codes, address)
        return RemoteFrame(codes, frame_at, state, address) if state != DONE else None
    if is_done(layout.version, codes.heap.memory.u8(address + layout.generator_state)):
        return None  # what lies where its frame was is none any more
    frame = RemoteFrame(codes, address + layout.generator_frame, owner=address)
    if frame.state == DONE:
        raise Unreadable("it ended while it was read")
    return frame


def _behind(heap: Heap, address: int) -> int:
    """What a foreign coroutine (Cython's, or a Python wrapper) delegates to; 0 when that cannot be told."""
    info = heap.class_of(address)
    for name in ("cr_await", "gi_yieldfrom", "ag_await"):
        if name in info.members:
            return heap.memory.u64(address + info.members[name])
    if info.plain_name == "_GeneratorWrapper":
        return heap.attribute(address, "_GeneratorWrapper__wrapped")
    if not info.name.startswith("_cython"):
        return 0
    # Cython's coroutine keeps it in a field whose place depends on Cython's version: the one that holds an awaitable.
    for offset in range(16, min(info.basic_size, 256), 8):
        try:
            word = heap.memory.u64(address + offset)
            if word and word != address and _is_awaitable(heap, word):
                return word
        except _BROKEN:
            continue
    return 0


def _is_awaitable(heap: Heap, address: int) -> bool:
    info = heap.class_of(address)
    return heap.shape(info) == "generator" or info.plain_name in _BETWEEN or info.name == "_asyncio.FutureIter" or (
        info.name.startswith("_cython") and info.plain_name in ("coroutine", "_cython_coroutine_await")
    )  # fmt: skip
