"""One thread of another process, stopped by ptrace(2), made to call a function, and let go as it was (x86-64).

All registers are put back, the vector registers too: without them a sum in flight loses what it has added up. Signals are blocked in the
thread meanwhile, so that they stay queued as they came. Only while the thread is stopped does anything here last: no breakpoint is set,
and should the tracer die, the kernel lets the thread go.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import time
from types import TracebackType
from typing import Final

from hangwatch.attach.entry.writing import IoVec, libc, write
from hangwatch.errors import CannotLook

# linux/ptrace.h and asm/ptrace-abi.h
_CONT, _DETACH, _GETREGSET, _SETREGSET, _SEIZE, _INTERRUPT, _GETSIGMASK, _SETSIGMASK = 7, 17, 0x4204, 0x4205, 0x4206, 0x4207, 0x420A, 0x420B
_NT_PRSTATUS, _NT_X86_XSTATE = 1, 0x202
_WALL: Final = 0x40000000
_EVENT_STOP: Final = 128
#: struct user_regs_struct of x86-64, in its order.
_NAMES: Final = tuple(
    "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs".split()  # noqa: SIM905
)
_REGISTERS: Final = struct.Struct(f"<{len(_NAMES)}Q")
_ARGUMENTS: Final = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
#: Faults of the call itself; blocked, they would kill.
_OWN_FAULTS: Final = (signal.SIGTRAP, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
_NO_SYSTEM_CALL: Final = (1 << 64) - 1
_DIRECTION_FLAG: Final = 0x400
#: More than the AVX-512 and AMX state of any processor.
_XSTATE_BYTES: Final = 1 << 16
#: Below the stack pointer the compiler may keep values without saying so (128 bytes, System V ABI).
_CLEAR_BYTES: Final = 1024

libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
libc.ptrace.restype = ctypes.c_long


class Broken(CannotLook):
    """A call in the target did not come back as it should. Its registers were put back."""


class Tracee:
    """``with Tracee(pid, tid) as stopped``: stopped within, going on after. Raises CannotLook."""

    def __init__(self, pid: int, tid: int) -> None:
        self.pid, self.tid = pid, tid
        self.registers: dict[str, int] = {}
        self._vector = b""
        self._mask = b""
        self._changed = False

    def __enter__(self) -> Tracee:
        self._ptrace(_SEIZE)
        try:
            self._ptrace(_INTERRUPT)
            while (status := self._wait(2.0)) >> 16 != _EVENT_STOP:
                self._ptrace(_CONT, 0, os.WSTOPSIG(status))  # a signal on its way: delivered as it would have been
            self.registers = self._read_registers()
        except BaseException:
            self._let_go()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._changed:
                self._write_set(_NT_X86_XSTATE, self._vector)
                self._write_registers(self.registers)
                self._ptrace_bytes(_SETSIGMASK, self._mask)
        finally:
            self._let_go()

    def begin_calls(self) -> None:
        """Remembers what calls change."""
        self._vector = self._read_set(_NT_X86_XSTATE, _XSTATE_BYTES)
        mask = ctypes.create_string_buffer(8)
        self._ptrace(_GETSIGMASK, 8, ctypes.addressof(mask))
        self._mask = mask.raw
        self._changed = True
        blocked = (1 << 64) - 1
        for fault in _OWN_FAULTS:
            blocked &= ~(1 << (fault - 1))
        self._ptrace_bytes(_SETSIGMASK, struct.pack("<Q", blocked))

    def call(self, function: int, trap: int, *arguments: int, patience_s: float = 2.0) -> int:
        """What ``function`` returns (unsigned). ``trap``: address of a byte 0xCC, where it returns to. Raises Broken."""
        stack = ((self.registers["rsp"] - _CLEAR_BYTES) & ~15) - 8
        write(self.pid, stack, struct.pack("<Q", trap))
        wanted = {**self.registers, "rip": function, "rsp": stack, "rax": 0, "orig_rax": _NO_SYSTEM_CALL}
        wanted["eflags"] &= ~_DIRECTION_FLAG
        wanted.update((name, value & (1 << 64) - 1) for name, value in zip(_ARGUMENTS, arguments, strict=False))
        self._write_registers(wanted)
        end = time.monotonic() + patience_s
        self._ptrace(_CONT)
        while True:
            status = self._wait(max(0.01, end - time.monotonic()))
            number = os.WSTOPSIG(status)
            if status >> 16 == 0 and number in _OWN_FAULTS:
                now = self._read_registers()
                if number == signal.SIGTRAP and now["rip"] == trap + 1:
                    return now["rax"]
                if number != signal.SIGTRAP:
                    raise Broken(
                        f"a call in process {self.pid} ended in {signal.Signals(number).name}; it was undone",
                        "Tell the authors of hangwatch.",
                    )
            self._ptrace(_CONT)

    # ptrace

    def _wait(self, patience_s: float) -> int:
        """The status of its next stop."""
        end = time.monotonic() + patience_s
        spins = 0
        while True:
            found, status = os.waitpid(self.tid, _WALL | os.WNOHANG)
            if found == self.tid:
                if not os.WIFSTOPPED(status):
                    raise CannotLook(f"thread {self.tid} of process {self.pid} has ended")
                return status
            if time.monotonic() > end:
                raise Broken(f"thread {self.tid} of process {self.pid} does not stop", "It may be in an uninterruptible wait (state D).")
            spins += 1
            if spins > 200:
                time.sleep(0.0001)

    def _let_go(self) -> None:
        """A thread that would not stop is stopped first, as only then it can be let go in good order."""
        if libc.ptrace(_DETACH, self.tid, None, None) == 0 or not os.path.isdir(f"/proc/{self.pid}/task/{self.tid}"):
            return
        try:
            self._ptrace(_INTERRUPT)
            self._wait(2.0)
            if self._changed:
                self._write_set(_NT_X86_XSTATE, self._vector)
                self._write_registers(self.registers)
                self._ptrace_bytes(_SETSIGMASK, self._mask)
            self._ptrace(_DETACH)
        except CannotLook:
            pass  # at our own end the kernel does it

    def _read_registers(self) -> dict[str, int]:
        return dict(zip(_NAMES, _REGISTERS.unpack(self._read_set(_NT_PRSTATUS, _REGISTERS.size)), strict=True))

    def _write_registers(self, wanted: dict[str, int]) -> None:
        self._write_set(_NT_PRSTATUS, _REGISTERS.pack(*(wanted[name] for name in _NAMES)))

    def _read_set(self, kind: int, size: int) -> bytes:
        room = ctypes.create_string_buffer(size)
        vector = IoVec(ctypes.addressof(room), size)
        self._ptrace(_GETREGSET, kind, ctypes.addressof(vector))
        return room.raw[: vector.length]

    def _write_set(self, kind: int, data: bytes) -> None:
        room = ctypes.create_string_buffer(data, len(data))
        vector = IoVec(ctypes.addressof(room), len(data))
        self._ptrace(_SETREGSET, kind, ctypes.addressof(vector))

    def _ptrace_bytes(self, request: int, data: bytes) -> None:
        room = ctypes.create_string_buffer(data, len(data))
        self._ptrace(request, len(data), ctypes.addressof(room))

    def _ptrace(self, request: int, address: int = 0, data: int = 0) -> None:
        if libc.ptrace(request, self.tid, address, data) < 0:
            raise CannotLook(f"thread {self.tid} of process {self.pid} cannot be traced: {os.strerror(ctypes.get_errno())}")
