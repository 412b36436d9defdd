"""What lets a thread find back by itself: a signal frame, as the kernel lays one when it runs a handler (x86-64).

A call made in a stopped thread returns to ``getpid``, a system call at which it can be had again, and that to ``rt_sigreturn(2)``, which
takes all that the thread had from here: registers, vector registers, signal mask. So the thread goes on as it was even when the one who made
it call is killed in the middle of it. Both are code of the C library's. Layouts are the kernel's ABI: ``struct rt_sigframe`` and ``struct
_fpx_sw_bytes`` of arch/x86.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

#: mov $15, %rax; syscall: where a signal handler returns to, in glibc and musl.
RESTORER: Final = bytes.fromhex("48c7c00f0000000f05")
#: Below the stack pointer the compiler may keep values without saying so (128 bytes, System V ABI).
_CLEAR_BYTES: Final = 1024
#: sigcontext of x86-64, in its order.
_CONTEXT: Final = tuple("r8 r9 r10 r11 r12 r13 r14 r15 rdi rsi rbp rbx rdx rax rcx rsp rip eflags".split())  # noqa: SIM905
_FRAME_BYTES: Final = 8 + 8 + 8 + 8 + 24 + 256 + 8
#: Vector state is stated, the stack segment too and meant as stated (asm/ucontext.h).
_FLAGS: Final = 1 | 2 | 4
#: No such mode of sigaltstack(2): the thread's own alternate stack stays as it is.
_LEAVE_ALTERNATE_STACK: Final = 0x55
#: In the bytes that fxsave leaves to software: what follows, and where it ends (asm/sigcontext.h).
_SOFTWARE, _HEADER = 464, 512
_MAGIC, _MAGIC_AT_END = 0x46505853, 0x46505845
#: AMX tiles: a thread that never used them has no room for them in its frames. Without them no processor's state is longer.
_TILES: Final = 1 << 17 | 1 << 18
_WITHOUT_TILES: Final = 2696

_RESTART_BLOCK: Final = -516
_RESTART: Final = (-512, -513, -514)
_EINTR: Final = 4
_RESTART_CALL: Final = 219
NO_SYSTEM_CALL: Final = (1 << 64) - 1


def signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def resumed(registers: Mapping[str, int]) -> dict[str, int]:
    """Registers with which the thread goes on as the kernel would have made it: a system call that was interrupted is made again."""
    back = dict(registers)
    call, result = signed(back["orig_rax"]), signed(back["rax"])
    back["orig_rax"] = NO_SYSTEM_CALL
    if call >= 0 and (result in _RESTART or result == _RESTART_BLOCK):
        back["rip"] -= 2  # the length of the instruction `syscall`
        back["rax"] = _RESTART_CALL if result == _RESTART_BLOCK else call
    return back


def frame(registers: Mapping[str, int], vector: bytes, mask: bytes, by_way_of: int, restorer: int) -> tuple[int, bytes]:
    """The stack pointer for the call, and what belongs there: the addresses that it returns to, one after the other, and the frame.

    Raises ValueError for a state that a signal frame cannot hold here.
    """
    back = resumed(registers)
    if back["rax"] == _RESTART_CALL and signed(registers["rax"]) == _RESTART_BLOCK:
        # rt_sigreturn forgets how long the call has waited, as it does after every handler. "Interrupted" is what a handler's end gives too.
        back["rax"], back["rip"] = (1 << 64) - _EINTR, registers["rip"]
    state = _vector_state(vector)
    at_state = (registers["rsp"] - _CLEAR_BYTES - len(state)) & ~63
    # A multiple of 16 once a called function has returned (System V ABI).
    at = ((at_state - _FRAME_BYTES) & ~15) - 8
    segments = struct.pack("<HHHH", back["cs"], 0, 0, back["ss"])
    context = struct.pack("<18Q", *(back[name] for name in _CONTEXT)) + segments + struct.pack("<4QQ64x", 0, 0, 0, 0, at_state)
    user_context = struct.pack("<QQQi4xQ", _FLAGS, 0, 0, _LEAVE_ALTERNATE_STACK, 0) + context + mask
    data = struct.pack("<QQ", by_way_of, restorer) + user_context
    return at, data.ljust(at_state - at, b"\0") + state


def _vector_state(vector: bytes) -> bytes:
    """The registers' state as ptrace gives it, marked as the kernel marks it in a frame."""
    features, _ = struct.unpack_from("<QQ", vector, _SOFTWARE)
    if features & _TILES and len(vector) > _WITHOUT_TILES:
        if struct.unpack_from("<Q", vector, _HEADER)[0] & _TILES:
            raise ValueError("it uses matrix registers")
        vector, features = vector[:_WITHOUT_TILES], features & ~_TILES
    marked = bytearray(vector)
    struct.pack_into("<IIQI28x", marked, _SOFTWARE, _MAGIC, len(vector) + 4, features, len(vector))
    return bytes(marked) + struct.pack("<I", _MAGIC_AT_END)
