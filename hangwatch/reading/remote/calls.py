"""Which C method the innermost frame of a running thread is inside of: ``lock.acquire``, ``sock.recv``, ``time.sleep``.

Receiver and method lie on the frame's value stack, but how far that stack reaches is in a register while the frame runs, and
above it lie remains of earlier calls. So every candidate is checked against the kernel's word on the thread: the futex it sleeps on is
the lock's own (up to 3.12), the descriptor in its system call is the socket's, the system call is a sleep. What the kernel
cannot confirm counts only when there is one candidate.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, Protocol

from hangwatch.reading.remote.code import CodeInfo, Codes
from hangwatch.reading.remote.heap import Heap
from hangwatch.reading.remote.kernelside import KernelSide
from hangwatch.reading.remote.memory import Unreadable
from hangwatch.reading.remote.objects import RemoteObject
from hangwatch.reading.view import ObjectView

_BROKEN = (Unreadable, struct.error, OverflowError)
_LOCKS: Final = ("lock", "rlock")
_SLEEPS: Final = ("nanosleep", "clock_nanosleep", "select", "pselect6")
#: Methods in which a thread can stay: nothing else on a value stack is taken for a call.
_WAITING: Final = frozenset(
    {"acquire", "__enter__", "get", "recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "send", "sendall", "sendmsg", "sendto",
     "connect", "accept", "_accept", "sleep"}
)  # fmt: skip


class Frame(Protocol):
    codes: Codes
    address: int
    code: CodeInfo

    def held(self) -> list[ObjectView]: ...


def calling(frame: Frame, native_id: int, side: KernelSide) -> tuple[ObjectView, str] | None:
    """Receiver and method name, see ``FrameView.calling``."""
    found = list(dict.fromkeys(_candidates(frame)))
    call = side.syscall(native_id)
    likely: dict[int, str] = {}
    entered = {view.id for view in frame.held()}
    for address, name in found:
        verdict = _confirmed(frame.codes.heap, address, name, native_id, side, call)
        if verdict:
            return RemoteObject(frame.codes, address), name
        if verdict is None and address not in entered:
            likely.setdefault(address, name)
    if len(likely) != 1:
        return None
    address, name = next(iter(likely.items()))
    return RemoteObject(frame.codes, address), name


def _candidates(frame: Frame) -> Iterator[tuple[int, str]]:
    """(receiver, method) pairs on the value stack, and locks that lie there alone (a ``with`` that is being entered)."""
    heap = frame.codes.heap
    first = frame.address + heap.layout.frame_locals + 8 * len(frame.code.slots)
    try:
        words = heap.memory.words(first, min(frame.code.stack_size + 1, 256))
    except _BROKEN:
        return
    before = ""
    for word in words:
        address = word & ~7
        name = ""
        try:
            info = heap.class_of(address) if address else None
            if info is None:
                pass
            elif heap.shape(info) == "cfunction":
                method = heap.memory.text(heap.memory.u64(heap.memory.u64(address + heap.layout.cfunction_definition)))
                owner = heap.memory.u64(address + heap.layout.cfunction_self)
                if owner and method in _WAITING:
                    yield owner, method
                elif owner and method == "__exit__" and heap.shape(heap.class_of(owner)) in _LOCKS:
                    yield owner, "acquire"  # up to 3.13 the exit is in place before the lock is entered
            elif info.plain_name == "method_descriptor":
                name = heap.text(heap.memory.u64(address + 24))
            elif before in _WAITING:
                yield address, before
            elif heap.shape(info) in _LOCKS:
                yield address, "acquire"
        except _BROKEN:
            pass
        before = name


def _confirmed(heap: Heap, receiver: int, name: str, native_id: int, side: KernelSide, call: str | None) -> bool | None:
    """True or False where the kernel can tell, None where it cannot."""
    word = call.split(" ")[0] if call else ""
    shape = heap.shape(heap.class_of(receiver))
    if shape in _LOCKS:
        if not word or word != "futex":
            return None if not word else False
        if heap.layout.version >= (3, 13):
            return None if _locked(heap, receiver, shape) else False  # a lock that is free is not what a thread sleeps on
        waits_on = side.futex(native_id)
        return heap.memory.u64(receiver + 16) == waits_on if waits_on else None
    if name == "sleep":
        return word in _SLEEPS if word else None
    if name == "get":
        return (None if word == "futex" or not word else False) if heap.class_of(receiver).plain_name == "SimpleQueue" else False
    descriptors = side.descriptors(native_id)
    if not descriptors:
        return None if not word else False
    # PySocketSockObject begins with its descriptor.
    return heap.class_of(receiver).plain_name == "socket" and heap.memory.i32(receiver + 16) in descriptors


def _locked(heap: Heap, lock: int, shape: str) -> bool:
    if shape == "lock":
        return bool(heap.memory.u8(lock + heap.layout.lock_locked) & 1)
    return bool(heap.memory.u64(lock + heap.layout.rlock_owner))
