"""A thread of its own in the target, started while one of the target's is stopped at a safe place. No thread of the application runs ours.

A thread that stands elsewhere (`safeplace`) is let go at once; another is tried, or the same a moment later.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Callable
from typing import Final

from hangwatch.attach.entry.safeplace import Ground, candidates, unsafe
from hangwatch.attach.entry.tracee import Broken, Tracee
from hangwatch.attach.entry.writing import write
from hangwatch.errors import CannotLook
from hangwatch.kernel import files, procfs
from hangwatch.reading.remote import RemoteReader

_ROUNDS: Final = 200
_REST_S: Final = 0.003
_PAGE: Final = 4096

# The new thread, on what its argument (rbx) points to: 0 pthread_self, 8 pthread_detach, 16 PyGILState_Ensure, 24 the script,
# 32 PyRun_SimpleString, 40 PyGILState_Release, 48 this memory, 56 its size, 64 munmap, 72 whether it has begun, 80 whether it was called off.
_THREAD: Final = bytes.fromhex(
    "53 4889fb 4154 4883ec08"  # push rbx; mov rbx, rdi; push r12; sub rsp, 8
    "ff13 4889c7 ff5308"  # call [rbx]; mov rdi, rax; call [rbx+8]
    "ff5310 4189c4"  # call [rbx+16]; mov r12d, eax
    "48c7434801000000 48837b5000 7509"  # mov qword [rbx+72], 1; cmp qword [rbx+80], 0; jne over the next line
    "488b7b18 31f6 ff5320"  # mov rdi, [rbx+24]; xor esi, esi; call [rbx+32]
    "4489e7 ff5328"  # mov edi, r12d; call [rbx+40]
    "488b7b30 488b7338 488b4340"  # mov rdi, [rbx+48]; mov rsi, [rbx+56]; mov rax, [rbx+64]
    "4883c408 415c 5b ffe0"  # add rsp, 8; pop r12; pop rbx; jmp rax: munmap returns to the thread library
)
_BEGUN, _CALLED_OFF = 72, 80
_MMAP, _MPROTECT, _MUNMAP = (9,), (10,), (11,)
#: clone, clone3
_CLONE: Final = (56, 435)

#: Asks the new thread not to run the script; whether it surely does not.
CallOff = Callable[[], bool]


def run(reader: RemoteReader, script: str) -> CallOff:
    """Has a new thread of the target run ``script``; on x86-64 only. Raises CannotLook; the target is then as it was."""
    ground = Ground(reader)
    seen: dict[str, int] = {}
    for _ in range(_ROUNDS):
        for tid in candidates(reader.pid):
            try:
                with Tracee(reader.pid, tid) as stopped:
                    where = unsafe(stopped.registers, ground)
                    if not where:
                        return _start(stopped, ground, script)
                    seen[where] = seen.get(where, 0) + 1
            except Broken:
                raise
            except CannotLook as error:
                if not procfs.thread_ids(reader.pid):
                    raise CannotLook(f"process {reader.pid} has ended") from None
                if "seccomp" in error.help_text:
                    raise
                seen[str(error)] = seen.get(str(error), 0) + 1
        time.sleep(_REST_S)
    most = max(seen, key=lambda what: seen[what], default="each of its threads is in a system call that may be made with a lock held")
    raise CannotLook(f"process {reader.pid} was at no safe place in {_ROUNDS} tries: {most}", "It is as it was. Try again in a moment.")


def _start(stopped: Tracee, ground: Ground, script: str) -> CallOff:
    text = script.encode() + b"\0"
    size = 2 * _PAGE + (len(text) + _PAGE - 1) // _PAGE * _PAGE
    at, pid = ground.at, stopped.pid
    before = frozenset(procfs.thread_ids(pid))
    stopped.begin_calls(at["getpid"], ground.restorer)
    # Read and write, private and anonymous.
    code = stopped.call(at["mmap"], 0, size, 3, 0x22, -1, 0, makes=_MMAP)
    if code <= 0:
        stopped.put_back()
        raise Broken(f"process {pid} gets no memory ({os.strerror(-code)})", "Its limit may be reached.")
    argument, texts = code + _PAGE, code + 2 * _PAGE
    told = struct.pack(
        "<9Q2Q", at["pthread_self"], at["pthread_detach"], at["PyGILState_Ensure"], texts, at["PyRun_SimpleString"], at["PyGILState_Release"],
        code, size, at["munmap"], 0, 0,
    )  # fmt: skip
    write(pid, code, _THREAD)
    write(pid, argument, told)
    write(pid, texts, text)
    # Read and execute: never writable and executable at once.
    made = stopped.call(at["mprotect"], code, _PAGE, 5, makes=_MPROTECT)
    if made == 0:
        made = stopped.call(at["pthread_create"], argument + 128, 0, code, argument, makes=_CLONE)
    if made <= 0:
        stopped.call(at["munmap"], code, size, makes=_MUNMAP)
        stopped.put_back()
        why = os.strerror(-made)
        raise Broken(f"process {pid} cannot start a thread ({why})", "A seccomp filter or its limit of threads forbids it.")
    stopped.put_back()
    return lambda: _call_off(pid, frozenset(procfs.thread_ids(pid)) - before, argument, told)


def _call_off(pid: int, born: frozenset[int], argument: int, told: bytes) -> bool:
    """While it waits for the GIL it has not begun. It is stopped meanwhile, so that its memory cannot become somebody else's."""
    for tid in born:
        with contextlib.suppress(CannotLook), Tracee(pid, tid) as stopped:
            if stopped.registers["rbx"] == argument or _mentions(pid, stopped.registers["rsp"], argument):
                now = files.read_memory(pid, argument, len(told)) or b""
                if now[:_BEGUN] == told[:_BEGUN]:
                    write(pid, argument + _CALLED_OFF, struct.pack("<Q", 1))
                    return now[_BEGUN:_CALLED_OFF] == bytes(8)
    return False


def _mentions(pid: int, stack: int, word: int) -> bool:
    """rbx is kept on the stack by whom our thread has called."""
    data = files.read_memory(pid, stack, _PAGE - stack % _PAGE) or b""
    return struct.pack("<Q", word) in data
