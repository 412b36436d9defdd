"""One thread of another process, stopped by ptrace(2), made to call functions, and let go as it was (x86-64).

All registers are put back, the vector registers too: without them a sum in flight loses what it has added up. Signals are blocked in the
thread meanwhile, so that they stay queued as they came. No breakpoint is set and no trap is sprung, so no SIGTRAP can be left over: the
stops are those of system calls. At every moment the thread would find back by itself (`wayback`), should the tracer die.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import struct
import time
from types import TracebackType
from typing import Final

from hangwatch.attach.entry import wayback
from hangwatch.attach.entry.wayback import NO_SYSTEM_CALL
from hangwatch.attach.entry.writing import IoVec, libc, write
from hangwatch.errors import CannotLook
from hangwatch.kernel import files

# linux/ptrace.h and asm/ptrace-abi.h. PTRACE_O_EXITKILL is not asked for: our end must not be the target's.
_CONT, _DETACH, _SYSCALL = 7, 17, 24
_GETREGSET, _SETREGSET, _SEIZE, _INTERRUPT, _GETSIGMASK, _SETSIGMASK = 0x4204, 0x4205, 0x4206, 0x4207, 0x420A, 0x420B
_TRACE_SYSTEM_GOOD: Final = 1
_NT_PRSTATUS, _NT_X86_XSTATE = 1, 0x202
_GETPID: Final = 39
_WALL: Final = 0x40000000
_EVENT_STOP: Final = 128
_SYSTEM_CALL_STOP: Final = signal.SIGTRAP | 0x80
#: struct user_regs_struct of x86-64, in its order.
_NAMES: Final = tuple(
    "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs".split()  # noqa: SIM905
)
_REGISTERS: Final = struct.Struct(f"<{len(_NAMES)}Q")
_ARGUMENTS: Final = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
#: Faults of the call itself; blocked, they would kill.
_OWN_FAULTS: Final = (signal.SIGTRAP, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
_DIRECTION_FLAG: Final = 0x400
#: More than the AVX-512 and AMX state of any processor.
_XSTATE_BYTES: Final = 1 << 16
#: What pthread_create needs of the stack, with much to spare.
_STACK_BYTES: Final = 8192
#: A stop is asked for and had within a millisecond. On a machine that has no CPU to give it takes longer.
_PATIENCE_S: Final = 5.0

libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
libc.ptrace.restype = ctypes.c_long


class Broken(CannotLook):
    """A call in the target did not come back as it should. The thread finds back by itself."""


class Tracee:
    """``with Tracee(pid, tid) as stopped``: stopped within, going on after. Raises CannotLook."""

    def __init__(self, pid: int, tid: int) -> None:
        self.pid, self.tid = pid, tid
        self.registers: dict[str, int] = {}
        self._vector = b""
        self._mask = b""
        self._stack = 0
        self._calling = False
        self._stopped_by_others = False
        self._on_its_way = 0

    def __enter__(self) -> Tracee:
        self._ptrace(_SEIZE, 0, _TRACE_SYSTEM_GOOD)
        try:
            self._stop()
            self.registers = self._read_registers()
        except BaseException:
            self._let_go()
            raise
        return self

    def _stop(self) -> None:
        """Raises CannotLook where the whole process was stopped by a signal: it is to stay so."""
        self._ptrace(_INTERRUPT)
        while True:
            status = self._wait(_PATIENCE_S)
            number = os.WSTOPSIG(status)
            if status >> 16 != _EVENT_STOP:
                # A signal on its way: delivered as it would have been. Its stop has taken the place of the one asked for.
                self._on_its_way = number
                self._ptrace(_CONT, 0, number)
                self._on_its_way = 0
                self._ptrace(_INTERRUPT)
            elif number == signal.SIGTRAP:
                return
            else:
                raise CannotLook(f"process {self.pid} is stopped ({signal.Signals(number).name})", f"kill -CONT {self.pid} lets it go on.")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._let_go()
        if self._stopped_by_others:
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGSTOP)  # it came while we were here

    def begin_calls(self, getpid: int, restorer: int) -> None:
        """Lays the way back, by these addresses in the target. Nothing is changed that counts."""
        self._vector = self._read_set(_NT_X86_XSTATE, _XSTATE_BYTES)
        mask = ctypes.create_string_buffer(8)
        self._ptrace(_GETSIGMASK, 8, ctypes.addressof(mask))
        self._mask = mask.raw
        try:
            self._stack, data = wayback.frame(self.registers, self._vector, self._mask, getpid, restorer)
        except ValueError as error:
            raise CannotLook(f"thread {self.tid} cannot be made to call: {error}") from None
        if files.read_memory(self.pid, self._stack - _STACK_BYTES, 8) is None:
            raise CannotLook(f"thread {self.tid} has little room left on its stack")
        write(self.pid, self._stack, data)

    def call(self, function: int, *arguments: int, makes: tuple[int, ...]) -> int:
        """Until ``function`` has returned: what the last system call with a number of ``makes`` gave (signed), -ENOSYS without one.

        Raises Broken.
        """
        self._set_out(function, arguments)
        result = -errno.ENOSYS
        while True:
            registers = self._next_system_call()
            if registers["orig_rax"] in makes:
                result = wayback.signed(registers["rax"])
            elif registers["orig_rax"] == _GETPID and registers["rsp"] == self._stack + 8:
                return result

    def put_back(self) -> None:
        """All as it was, at the end of a system call of ours. The order matters: before its last step the way back is still open."""
        self._write_set(_NT_X86_XSTATE, self._vector)
        self._ptrace_bytes(_SETSIGMASK, self._mask)
        self._write_registers(wayback.resumed(self.registers))
        self._calling = False
        # What is left there must not look like a handler's frame to the next who comes.
        write(self.pid, self._stack, bytes(16))

    def _set_out(self, function: int, arguments: tuple[int, ...]) -> None:
        wanted = {**self.registers, "rip": function, "rsp": self._stack, "rax": 0, "orig_rax": NO_SYSTEM_CALL}
        wanted["eflags"] &= ~_DIRECTION_FLAG
        wanted.update((name, value & (1 << 64) - 1) for name, value in zip(_ARGUMENTS, arguments, strict=False))
        self._write_registers(wanted)
        if not self._calling:
            self._calling = True
            blocked = (1 << 64) - 1
            for fault in _OWN_FAULTS:
                blocked &= ~(1 << (fault - 1))
            self._ptrace_bytes(_SETSIGMASK, struct.pack("<Q", blocked))

    def _next_system_call(self) -> dict[str, int]:
        """The registers at the end of the next system call."""
        ends = 0
        while True:
            self._ptrace(_SYSCALL)
            status = self._wait(_PATIENCE_S)
            number = os.WSTOPSIG(status)
            if status >> 16 == 0 and number == _SYSTEM_CALL_STOP:
                ends += 1
                if ends == 2:
                    return self._read_registers()
            elif status >> 16 == 0 and number in _OWN_FAULTS:
                self.put_back()
                name = signal.Signals(number).name
                raise Broken(f"a call in process {self.pid} ended in {name}; it was undone", "Tell the authors of hangwatch.")
            elif status >> 16 == 0 and number == signal.SIGSTOP:
                self._stopped_by_others = True

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
        """In the middle of a call too: it ends that by itself. A thread that runs is stopped first, as only then it can be let go."""
        if libc.ptrace(_DETACH, self.tid, None, self._on_its_way) == 0 or not os.path.isdir(f"/proc/{self.pid}/task/{self.tid}"):
            return
        try:
            self._ptrace(_INTERRUPT)
            status = self._wait(_PATIENCE_S)
            number = os.WSTOPSIG(status)
            self._ptrace(_DETACH, 0, number if status >> 16 == 0 and number != _SYSTEM_CALL_STOP else 0)
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
            number = ctypes.get_errno()
            tracer = files.fields(files.read_text(f"/proc/{self.pid}/task/{self.tid}/status")).get("TracerPid", "0")
            if tracer not in ("0", str(os.getpid())):
                raise CannotLook(
                    f"thread {self.tid} of process {self.pid} is traced by process {tracer} (a debugger, strace?)", "End that first."
                )
            hint = "Its memory may be read, so a seccomp profile forbids ptrace(2) here: run it on the host, or --security-opt seccomp=unconfined."
            raise CannotLook(
                f"thread {self.tid} of process {self.pid} cannot be traced: {os.strerror(number)}", hint if number == errno.EPERM else ""
            )
