"""A thread of its own in the target, started while one of the target's is stopped at a safe place. No thread of the application runs ours.

Safe is a place where ``pthread_create`` can be called: no lock of malloc, of the loader or of the thread library is held there. That is a
blocking system call that is made with none of them, or the interpreter's own code; and never a signal handler, which may have interrupted
anything. A thread elsewhere is let go at once; another is tried, or the same a moment later.
"""

from __future__ import annotations

import re
import struct
import time
from typing import Final

from hangwatch.attach.entry.tracee import Broken, Tracee
from hangwatch.attach.entry.writing import write
from hangwatch.errors import CannotLook
from hangwatch.kernel import procfs
from hangwatch.reading.remote import RemoteReader, elf
from hangwatch.reading.remote.memory import Memory, Region

#: x86-64 numbers. Not read, write, open or mmap: the loader makes them with its lock held, signal handlers write.
_WAITING: Final = {
    7: "poll", 23: "select", 35: "nanosleep", 42: "connect", 43: "accept", 45: "recvfrom", 47: "recvmsg", 61: "wait4", 230: "clock_nanosleep",
    232: "epoll_wait", 247: "waitid", 270: "pselect6", 271: "ppoll", 281: "epoll_pwait", 288: "accept4", 441: "epoll_pwait2",
}  # fmt: skip
_FUTEX: Final = 202
#: glibc waits so in semaphores and condition variables only; its mutexes, malloc's among them, use FUTEX_WAIT.
_FUTEX_WAIT_BITSET: Final = 9
#: mov $15, %rax; syscall: to where a signal handler returns.
_RESTORER: Final = bytes.fromhex("48c7c00f0000000f05")
#: A signal handler's frames are within this of the stack pointer: handlers are shallow.
_STACK_BYTES: Final = 16384
_ROUNDS: Final = 100
_REST_S: Final = 0.003
_PAGE: Final = 4096
_FROM_PYTHON: Final = ("PyGILState_Ensure", "PyGILState_Release", "PyRun_SimpleString")
_FROM_LIBC: Final = ("pthread_create", "pthread_self", "pthread_detach", "mmap", "munmap", "mprotect")
_LIBC: Final = re.compile(r"/(libc[.-]|libpthread[.-]|ld-musl)[^/]*$")

# The new thread, on what its argument (rbx) points to: 0 pthread_self, 8 pthread_detach, 16 PyGILState_Ensure, 24 the script,
# 32 PyRun_SimpleString, 40 PyGILState_Release, 48 this memory, 56 its size, 64 munmap.
_THREAD: Final = bytes.fromhex(
    "53 4889fb 4154 4883ec08"  # push rbx; mov rbx, rdi; push r12; sub rsp, 8
    "ff13 4889c7 ff5308"  # call [rbx]; mov rdi, rax; call [rbx+8]
    "ff5310 4189c4"  # call [rbx+16]; mov r12d, eax
    "488b7b18 31f6 ff5320"  # mov rdi, [rbx+24]; xor esi, esi; call [rbx+32]
    "4489e7 ff5328"  # mov edi, r12d; call [rbx+40]
    "488b7b30 488b7338 488b4340"  # mov rdi, [rbx+48]; mov rsi, [rbx+56]; mov rax, [rbx+64]
    "4883c408 415c 5b ffe0"  # add rsp, 8; pop r12; pop rbx; jmp rax: munmap returns to the thread library
)


class _Ground:
    """What is where in the target."""

    def __init__(self, reader: RemoteReader) -> None:
        self.memory = reader.memory
        self.regions = reader.memory.regions
        image = reader.roots.image
        self.at = _symbols(self.memory, self.regions, (image,), _FROM_PYTHON)
        libraries = tuple(dict.fromkeys(region.path for region in self.regions if _LIBC.search(region.path)))
        self.at.update(_symbols(self.memory, self.regions, (*libraries, image), _FROM_LIBC))
        absent = [name for name in (*_FROM_PYTHON, *_FROM_LIBC) if name not in self.at]
        if absent:
            raise CannotLook(f"process {reader.pid} does not export {', '.join(absent)}", "It may be linked statically.")
        self.python = _code(self.regions, image)
        self.others = [
            region for region in self.regions if "x" in region.permissions and region.path != image and region.path.startswith("/")
        ]
        self.trap = _byte(self.memory, _code(self.regions, *libraries) or self.python, b"\xcc")


def run(reader: RemoteReader, script: str) -> None:
    """Has a new thread of the target run ``script``; on x86-64 only. Raises CannotLook; the target is then as it was."""
    ground = _Ground(reader)
    seen: dict[str, int] = {}
    for _ in range(_ROUNDS):
        for tid in procfs.thread_ids(reader.pid):
            try:
                with Tracee(reader.pid, tid) as stopped:
                    where = unsafe(stopped, ground)
                    if not where:
                        _start(stopped, ground, script)
                        return
                    seen[where] = seen.get(where, 0) + 1
            except Broken:
                raise
            except CannotLook as error:
                if not procfs.thread_ids(reader.pid):
                    raise
                seen[str(error)] = seen.get(str(error), 0) + 1
        time.sleep(_REST_S)
    most = max(seen, key=lambda what: seen[what], default="it has no thread")
    raise CannotLook(f"process {reader.pid} was at no safe place in {_ROUNDS} tries: {most}", "It is as it was. Try again in a moment.")


def unsafe(stopped: Tracee, ground: _Ground) -> str:
    """Why nothing may be called here; empty where it may."""
    registers = stopped.registers
    call, place = registers["orig_rax"], registers["rip"]
    if call < 1 << 32:
        if call == _FUTEX and registers["rsi"] & 0x7F != _FUTEX_WAIT_BITSET:
            return "a thread waits for a mutex"
        if call != _FUTEX and call not in _WAITING:
            return f"a thread is in system call {call}"
    elif not any(region.start <= place < region.end for region in ground.python):
        return "a thread runs code that is not the interpreter's"
    return "a thread is in a signal handler" if _in_handler(registers["rsp"], ground) else ""


def _in_handler(stack: int, ground: _Ground) -> bool:
    """A return address on the stack is that of the code that ends signal handlers. What lies there from before may look so too."""
    whole = ground.memory.fresh([(stack, size) for size in (_STACK_BYTES, _STACK_BYTES // 4, _PAGE - stack % _PAGE)])
    data = next((part for part in whole if part), b"")
    words = struct.unpack(f"<{len(data) // 8}Q", data[: len(data) // 8 * 8])
    where = [(word, len(_RESTORER)) for word in dict.fromkeys(words) if any(region.start <= word < region.end for region in ground.others)]
    return _RESTORER in ground.memory.fresh(where) if where else False


def _start(stopped: Tracee, ground: _Ground, script: str) -> None:
    text = script.encode() + b"\0"
    size = 2 * _PAGE + (len(text) + _PAGE - 1) // _PAGE * _PAGE
    at = ground.at
    stopped.begin_calls()
    # Read and write, private and anonymous.
    code = stopped.call(at["mmap"], ground.trap, 0, size, 3, 0x22, -1, 0)
    if code >> 63 or not code:
        raise Broken(f"process {stopped.pid} gets no memory", "Its limit may be reached.")
    argument, texts = code + _PAGE, code + 2 * _PAGE
    told = struct.pack(
        "<9Q", at["pthread_self"], at["pthread_detach"], at["PyGILState_Ensure"], texts, at["PyRun_SimpleString"], at["PyGILState_Release"],
        code, size, at["munmap"],
    )  # fmt: skip
    write(stopped.pid, code, _THREAD)
    write(stopped.pid, argument, told)
    write(stopped.pid, texts, text)
    # Read and execute: never writable and executable at once.
    failed = stopped.call(at["mprotect"], ground.trap, code, _PAGE, 5)
    if not failed & 0xFFFFFFFF:
        failed = stopped.call(at["pthread_create"], ground.trap, argument + 128, 0, code, argument)
    if failed & 0xFFFFFFFF:
        stopped.call(at["munmap"], ground.trap, code, size)
        raise Broken(
            f"process {stopped.pid} cannot start a thread (error {failed & 0xFFFFFFFF})",
            "A seccomp filter or its limit of threads forbids it.",
        )


def _symbols(memory: Memory, regions: list[Region], paths: tuple[str, ...], names: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for path in paths:
        first = next((region for region in regions if region.path == path and not region.offset), None)
        if first is not None:
            found = {**elf.symbols(memory, first.start, names), **found}
    return found


def _code(regions: list[Region], *paths: str) -> list[Region]:
    return [region for region in regions if region.path in paths and "x" in region.permissions]


def _byte(memory: Memory, regions: list[Region], wanted: bytes) -> int:
    for region in regions:
        data = memory.fresh([(region.start, min(region.end - region.start, 1 << 20))])[0] or b""
        if wanted in data:
            return region.start + data.index(wanted)
    raise CannotLook("the C library has no byte to return to", "Tell the authors of hangwatch.")
