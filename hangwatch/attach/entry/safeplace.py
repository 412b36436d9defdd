"""Where a stopped thread may be made to call ``pthread_create``: no lock of malloc, of the loader or of the thread library is held there.

That is a blocking system call that is made with none of them, or the interpreter's own code; and never a signal handler, which may have
interrupted anything.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Final

from hangwatch.attach.entry.wayback import NO_SYSTEM_CALL, RESTORER
from hangwatch.errors import CannotLook
from hangwatch.kernel import files, procfs
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
#: What a call with a time-out is once the thread was stopped in it and went on. Its arguments still stand in the registers.
_RESTARTED: Final = 219
#: FUTEX_WAIT with and without FUTEX_PRIVATE_FLAG (128) and FUTEX_CLOCK_REALTIME (256).
_FUTEX_WAITS: Final = (0, 128, 256, 384)
#: Clocks of clock_nanosleep have such numbers; an address of a futex has not.
_LAST_CLOCK: Final = 16
#: A signal handler's frames are within this of the stack pointer: handlers are shallow.
_STACK_BYTES: Final = 16384
_PAGE: Final = 4096
#: From the return address of a signal frame to its segment registers, and what a 64-bit program has in cs and ss.
_SEGMENTS_AT: Final = 8 + 40 + 144
_SEGMENTS: Final = (0x33, 0x2B)
_FROM_PYTHON: Final = ("PyGILState_Ensure", "PyGILState_Release", "PyRun_SimpleString")
_FROM_LIBC: Final = ("pthread_create", "pthread_self", "pthread_detach", "getpid", "mmap", "munmap", "mprotect")
#: Of glibc alone. With musl 1.2.3 five of some 240 entries met a list of threads that was being changed, which no stop can be seen by.
_OF_GLIBC: Final = "gnu_get_libc_version"
_LIBC: Final = re.compile(r"/(libc[.-]|libpthread[.-]|ld-musl)[^/]*$")


class Ground:
    """What is where in the target. Raises CannotLook where something is absent."""

    def __init__(self, reader: RemoteReader) -> None:
        self.memory = reader.memory
        self.regions = reader.memory.regions
        image = reader.roots.image
        self.at = _symbols(self.memory, self.regions, (image,), _FROM_PYTHON)
        libraries = tuple(dict.fromkeys(region.path for region in self.regions if _LIBC.search(region.path)))
        self.at.update(_symbols(self.memory, self.regions, (*libraries, image), (*_FROM_LIBC, _OF_GLIBC)))
        absent = [name for name in (*_FROM_PYTHON, *_FROM_LIBC) if name not in self.at]
        if absent:
            raise CannotLook(f"process {reader.pid} does not export {', '.join(absent)}", "It may be linked statically.")
        if _OF_GLIBC not in self.at:
            raise CannotLook(
                f"process {reader.pid} does not run on glibc: with another C library (musl) a thread cannot be started safely from outside",
                "`hangwatch attach` without --install reads it all the same; `hangwatch run -- CMD` starts it with the agent inside.",
            )
        if "shstk" in files.fields(files.read_text(f"/proc/{reader.pid}/status")).get("x86_Thread_features", ""):
            raise CannotLook(f"process {reader.pid} runs with a shadow stack, which forbids calls from outside")
        self.python = _code(self.regions, image)
        self.others = [
            region for region in self.regions if "x" in region.permissions and region.path != image and region.path.startswith("/")
        ]
        self.restorer = _find(self.memory, _code(self.regions, *libraries), RESTORER)


def candidates(pid: int) -> list[int]:
    """Threads that may be at a safe place, without stopping any: those that sleep in a call first."""
    asleep, running = [], []
    for tid in procfs.thread_ids(pid):
        words = (files.read_text(f"/proc/{pid}/task/{tid}/syscall") or "running").split()
        if words[0] in ("running", "-1"):  # -1: stopped, and in no call
            running.append(tid)
        elif len(words) > 2 and not _unsafe_call(int(words[0]), int(words[1], 16), int(words[2], 16)):
            asleep.append(tid)
    return asleep + running


def unsafe(registers: Mapping[str, int], ground: Ground) -> str:
    """Why nothing may be called here; empty where it may."""
    call, place = registers["orig_rax"], registers["rip"]
    if call != NO_SYSTEM_CALL:
        why = _unsafe_call(call, registers["rdi"], registers["rsi"])
        if why:
            return why
    elif not any(region.start <= place < region.end for region in ground.python):
        return "a thread runs code that is not the interpreter's"
    return "a thread is in a signal handler" if _in_handler(registers["rsp"], ground) else ""


def _unsafe_call(call: int, first: int, second: int) -> str:
    if call == _FUTEX:
        return "" if second & 0x7F == _FUTEX_WAIT_BITSET else "a thread waits for a mutex"
    if call == _RESTARTED:
        return "a thread waits for a mutex" if second in _FUTEX_WAITS and first > _LAST_CLOCK else ""
    return "" if call in _WAITING else f"a thread is in system call {call}"


def _in_handler(stack: int, ground: Ground) -> bool:
    """A return address on the stack is that of the code that ends signal handlers, below a frame with a program's segments.

    What lies there from before may look so too: then another thread is taken, or the same later.
    """
    whole = ground.memory.fresh([(stack, size) for size in (_STACK_BYTES, _STACK_BYTES // 4, _PAGE - stack % _PAGE)])
    data = next((part for part in whole if part), b"")
    words = struct.unpack(f"<{len(data) // 8}Q", data[: len(data) // 8 * 8])
    if any(_stands_in(word, ground.others) for word in set(words)):
        places = [at for at, word in enumerate(words) if _stands_in(word, ground.others)]
        codes = ground.memory.fresh([(words[at], len(RESTORER)) for at in places])
        return any(code == RESTORER and _is_frame(data, at * 8) for at, code in zip(places, codes, strict=True))
    return False


def _stands_in(address: int, regions: list[Region]) -> bool:
    return any(region.start <= address < region.end for region in regions)


def _is_frame(data: bytes, at: int) -> bool:
    segments = data[at + _SEGMENTS_AT : at + _SEGMENTS_AT + 8]
    if len(segments) < 8:
        return True  # its end is beyond what was read
    code, _, _, stack = struct.unpack("<4H", segments)
    return (code, stack) == _SEGMENTS


def _symbols(memory: Memory, regions: list[Region], paths: tuple[str, ...], names: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for path in paths:
        first = next((region for region in regions if region.path == path and not region.offset), None)
        if first is not None:
            found = {**elf.symbols(memory, first.start, names), **found}
    return found


def _code(regions: list[Region], *paths: str) -> list[Region]:
    return [region for region in regions if region.path in paths and "x" in region.permissions]


def _find(memory: Memory, regions: list[Region], wanted: bytes) -> int:
    for region in regions:
        data = memory.fresh([(region.start, region.end - region.start)])[0] or b""
        if wanted in data:
            return region.start + data.index(wanted)
    raise CannotLook("the C library of the process has no end of signal handlers that is known here", "Tell the authors of hangwatch.")
