"""What came of it, as the target tells it: a memfd of that name, which needs no path, no port and no common namespace.

The target makes it before it does anything, writes one line of JSON into it at the end, and keeps it until that was read. A word of ours at
`WORD_AT` says so, or calls all off: then it undoes what it has done.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any, Final

from hangwatch.kernel import files

#: Without a sign of life: ours waits there as long as the GIL is kept. To compile and import all modules takes about a second on a free CPU,
#: and very long without one; each is a sign.
PATIENCE_S: Final = 30.0
#: As in `within`: ours, and how many modules it has.
WORD_AT, STEPS_AT = 1 << 20, (1 << 20) + 8
READ, CALLED_OFF = b"r", b"w"


def wait(pid: int, token: str, patience_s: float = PATIENCE_S) -> dict[str, Any] | None:
    """None when nothing was told and nothing has moved for so long, or the process has ended."""
    end = time.monotonic() + patience_s
    steps = b""
    while time.monotonic() < end and os.path.isdir(f"/proc/{pid}"):
        path = _path(pid, token)
        if path and (now := _steps(path)) != steps:
            steps, end = now, time.monotonic() + patience_s
        line, ended, _ = (files.read_text(path, WORD_AT) or "").partition("\n") if path else ("", "", "")
        if path and ended:
            _say(path, token, READ)
            found: dict[str, Any] = json.loads(line)
            return found
        time.sleep(0.01)
    return None


def call_off(pid: int, token: str) -> bool:
    """Whether the target will take notice: it has begun and not ended, and undoes what it has done."""
    path = _path(pid, token)
    return path is not None and _say(path, token, CALLED_OFF)


def _path(pid: int, token: str) -> str | None:
    for number in files.list_numbers(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{number}"
        if _is_it(path, token):
            return path
    return None


def _is_it(path: str, token: str) -> bool:
    return (files.read_link(path) or "").startswith(f"/memfd:hangwatch-{token}")


def _steps(path: str) -> bytes:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return os.pread(file.fileno(), 8, STEPS_AT)
    return b""


def _say(path: str, token: str, word: bytes) -> bool:
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            # The target may have closed it since, and its number may be that of a file of the application's.
            return _is_it(f"/proc/self/fd/{handle}", token) and os.pwrite(handle, word, WORD_AT) == 1
        finally:
            os.close(handle)
    return False
