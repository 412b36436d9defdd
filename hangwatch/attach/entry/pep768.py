"""The interpreter's own door (PEP 768, 3.14+): a path and a flag in the main thread's state; it runs the script at its next safe point.

`sys.remote_exec` does the same from a Python of the same minor version only; this writes from any, at the offsets the target states.
A thread that sleeps in a call, or a loop without a timer, does not come by a safe point: then the flag is taken back.
"""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass
from typing import Final

from hangwatch.attach.entry.writing import write
from hangwatch.reading.remote import RemoteReader, debug_offsets
from hangwatch.reading.remote.memory import Memory

#: A loop with any timer of a server's comes by within 0.1 s.
PATIENCE_S: Final = 2.0
#: A script that was taken is opened within this long.
OPENED_S: Final = 0.2
#: _PY_EVAL_PLEASE_STOP_BIT of CPython's pycore_ceval.h: bit 5, in the word's lowest byte on a little-endian machine.
_PLEASE_STOP: Final = 1 << 5


@dataclass(frozen=True, slots=True)
class Switches:
    """Addresses in the target, and how long the path may be."""

    path: int
    pending: int
    breaker: int
    longest: int
    memory: Memory


def find(reader: RemoteReader) -> Switches | None:
    """None before 3.14, and where the target was told not to."""
    memory, roots = reader.memory, reader.roots
    names = debug_offsets.names(roots.layout.version)
    if names is None or "debugger_support.eval_breaker" not in names:
        return None
    offset = dict(zip(names, memory.words(roots.runtime, len(names)), strict=True))
    if memory.i32(roots.interpreter + offset["debugger_support.remote_debugging_enabled"]) != 1:
        return None
    main = memory.u64(roots.interpreter + offset["interpreter_state.threads_main"])
    support = main + offset["debugger_support.remote_debugger_support"]
    return Switches(
        path=support + offset["debugger_support.debugger_script_path"],
        pending=support + offset["debugger_support.debugger_pending_call"],
        breaker=main + offset["debugger_support.eval_breaker"],
        longest=offset["debugger_support.debugger_script_path_size"],
        memory=memory,
    )


def run(pid: int, switches: Switches, script: str) -> bool:
    """Whether the main thread has taken the script, a path as it sees it. When not, nothing is left of it."""
    path = os.fsencode(script) + b"\0"
    if len(path) > switches.longest or _flag(switches):
        return False
    write(pid, switches.path, path)
    write(pid, switches.pending, struct.pack("<i", 1))
    # Only the lowest byte: the others hold the version of the instrumentation, which the target changes itself.
    lowest = switches.memory.fresh([(switches.breaker, 1)])[0] or b"\0"
    write(pid, switches.breaker, bytes([lowest[0] | _PLEASE_STOP]))
    end = time.monotonic() + PATIENCE_S
    while _flag(switches):
        if time.monotonic() > end:
            # The path first: should the thread come by just now, it runs nothing.
            write(pid, switches.path, bytes(1))
            write(pid, switches.pending, struct.pack("<i", 0))
            return False
        time.sleep(0.002)
    time.sleep(OPENED_S)
    return True


def _flag(switches: Switches) -> int:
    data = switches.memory.fresh([(switches.pending, 4)])[0]
    return struct.unpack("<i", data)[0] if data else 0
