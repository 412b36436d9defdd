"""``worker.json``: what this process is, kept fresh, so that whoever finds its folder after a kill can finish the incident."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hangwatch.config import Config
from hangwatch.ledger import Ledger
from hangwatch.records import Incident

FILE_NAME: Final = "worker.json"
#: Holds the id of the incident that somebody else told in this worker's place.
TOLD: Final = "told"
#: Holds the id of what a watcher outside has told of this worker, last.
SEEN: Final = "seen"
#: Two reports of one stall name its begin alike up to the watchdog's tick and the timer's period.
SAME_S: Final = 5.0
#: A watcher outside names it as exactly as the agent does: up to the agent's tick, and where requests queued, up to the loop's delay.
SAME_SEEN_S: Final = 1.0
#: Seconds between two writes. A killed worker's last beat is known this well, and a frozen one is told from a living after it.
EVERY_S: Final = 2.0


def facts(config: Config, ledger: Ledger, started_at: float, requests: list[dict[str, Any]]) -> dict[str, Any]:
    """``requests``: those in flight at the last stall, as records."""
    loops = [
        {
            "id": mark.id,
            "kind": type(mark.loop).__module__.partition(".")[0],
            "thread_native_id": mark.native_id,
            "thread_ident": mark.ident,
        }
        for mark in list(ledger.loops.values())
    ]
    return {
        "pid": os.getpid(),
        "started_at": started_at,
        "argv": sys.argv,
        "service": config.service,
        "host": host(),
        "python": platform.python_version(),
        "config": {
            "stall_after": config.stall_after,
            "loop_after": config.loop_after,
            "startup_after": config.startup_after,
            "shutdown_after": config.shutdown_after,
        },
        "loops": loops,
        "beat_at": time.time(),
        "requests": requests,
    }


def write(folder: Path, data: dict[str, Any]) -> None:
    """Whole or not at all. Raises OSError."""
    path = folder / FILE_NAME
    draft = folder / f".{FILE_NAME}.new"
    draft.write_text(json.dumps(data))
    os.replace(draft, path)


def remove(folder: Path) -> None:
    """A process that ends in good order leaves nothing to finish."""
    with contextlib.suppress(OSError):
        for entry in list(folder.iterdir()):
            entry.unlink()
        folder.rmdir()


@contextlib.contextmanager
def alone(folder: Path | None, patience_s: float = 0.5) -> Iterator[None]:
    """One of the agent and the watcher at a time looks whether the other has told a stall, and tells it. By a lock on the worker's folder,
    which the kernel gives back when its owner dies. Who does not get it (a stopped process, a file system without locks) goes on without."""
    handle = None
    try:
        with contextlib.suppress(OSError):
            handle = None if folder is None else os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if handle is not None:
            _lock(handle, patience_s)
        yield
    finally:
        if handle is not None:
            # Not by closing alone: a child forked in between has the same file open.
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)


def _lock(handle: int, patience_s: float) -> None:
    end = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                return
            time.sleep(0.005)
        except OSError:
            return


def same_stall(one: Incident, other: Incident, within_s: float) -> bool:
    """Two views of one hang. Of requests the begin alone does not tell it: many may wait at once, for different things."""
    if one.snapshot.pid != other.snapshot.pid or one.stall.kind != other.stall.kind or abs(one.opened_at - other.opened_at) > within_s:
        return False
    return one.stall.kind == "loop" or one.fingerprint == other.fingerprint or one.stall.subject_id == other.stall.subject_id


def host() -> str:
    with contextlib.suppress(OSError):
        return socket.gethostname()
    return ""


def service_name(config: Config) -> str:
    """What the person said, else the program's own name."""
    if config.service:
        return config.service
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] not in ("", "-c", "-m") else ""
    return program.removesuffix(".py") or "python"
