"""What faulthandler's C timer wrote: the stacks of all threads, taken without the GIL, on disk even if the process was killed.

The agent arms the timer anew at every beat of the loop; when the beats end, the timer writes. It is the only witness while
native code holds the GIL. The file may hold several dumps (each time the loop was silent), and the last may be cut short.

``data``: {"threads": [{"ident", "native_id"?, "name"?, "current": bool, "collecting": bool, "frames": [{"file", "line",
"function"}]}], "dumps": how many the file holds, "complete": False when the last one was cut short, "written_at": seconds since
the epoch}. Frames outermost first. ``native_id`` and ``name`` are there when the process is this one, or the name when Python
wrote it (3.14+). ``collecting``: that thread was in a garbage collection. Threads of the agent are left out.
"""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import Any

from hangwatch.evidence.base import OWN_THREADS, Target
from hangwatch.records import Evidence

NAME = "faulthandler"

# Only the end counts; a dump of 100 threads (CPython's own limit) with 100 frames each stays below this.
_TAIL_BYTES = 2 << 20
_THREAD = re.compile(r"(Thread|Current thread) 0x([0-9a-f]+)(?: \[(.*)\])? \(most recent call first\):$")
_FRAME = re.compile(r'  File "(.*)", line (\d+|\?\?\?) in (.*)$')
_TIMEOUT = "Timeout ("


def capture(target: Target) -> Evidence:
    """Reads ``target.faulthandler_file``. A missing or empty file is no fault: the timer has not fired."""
    if target.faulthandler_file is None:
        return Evidence(NAME, error="no dump file: the agent is not in this process", hint="Start it with hangwatch run … -- CMD.")
    return read(target.faulthandler_file, target.pid)


def read(path: Path, pid: int = 0) -> Evidence:
    """The Evidence of one dump file; also of a process that is gone (``pid`` 0)."""
    try:
        with open(path, "rb") as file:
            size, written_at = os.fstat(file.fileno()).st_size, os.fstat(file.fileno()).st_mtime
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode("utf-8", "backslashreplace")
    except OSError as error:
        return Evidence(NAME, error=f"cannot read {path}: {error.strerror}")
    dumps = split(text)
    if not dumps:
        return Evidence(NAME, error="its timer has not fired: the loop was never silent for long enough", data={"threads": [], "dumps": 0})
    threads = parse(dumps[-1])
    if pid == os.getpid():
        _name(threads)
    threads = [thread for thread in threads if not thread.get("name", "").startswith(OWN_THREADS)]
    data = {"threads": threads, "dumps": len(dumps), "complete": _complete(dumps[-1]), "written_at": written_at}
    return Evidence(NAME, text=dumps[-1], data=data)


def split(text: str) -> list[str]:
    """The dumps in a file, oldest first. A file cut at its start loses its first, incomplete one."""
    starts = [found.start() for found in re.finditer(rf"^{re.escape(_TIMEOUT)}", text, re.MULTILINE)]
    if not starts:
        return [text] if _THREAD.search(text.partition("\n")[0]) else []
    return [text[start:end].rstrip("\n") + "\n" for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def parse(dump: str) -> list[dict[str, Any]]:
    """The threads of one dump in its order, whatever part of it was written."""
    threads: list[dict[str, Any]] = []
    for line in dump.splitlines():
        header = _THREAD.match(line)
        if header:
            threads.append(_thread(header))
        elif threads and "Garbage-collecting" in line:
            threads[-1]["collecting"] = True
        elif threads and (frame := _FRAME.match(line)):
            file, number, function = frame.groups()
            # CPython writes the innermost first.
            threads[-1]["frames"].insert(0, {"file": file, "line": int(number) if number.isdigit() else 0, "function": function})
    return threads


def _thread(header: re.Match[str]) -> dict[str, Any]:
    kind, ident, name = header.groups()
    thread: dict[str, Any] = {"ident": int(ident, 16), "current": kind == "Current thread", "collecting": False, "frames": []}
    if name:
        thread["name"] = name
    return thread


def _complete(dump: str) -> bool:
    """The last line is whole, and the last thread has at least one frame or says that it has none."""
    lines = dump.splitlines()
    return len(lines) > 1 and bool(_FRAME.match(lines[-1]) or lines[-1].startswith(("  <", "  ...")))


def _name(threads: list[dict[str, Any]]) -> None:
    # A copy of the interpreter's own table: threading.enumerate() would take a lock that the stuck thread may hold.
    known = dict(getattr(threading, "_active", {}))
    for thread in threads:
        found = known.get(thread["ident"])
        if found is not None:
            thread["name"] = found.name
            thread["native_id"] = found.native_id
