"""faulthandler's C timer, re-armed at each beat: when the beats end, it writes all thread stacks without needing the GIL.

One timer for all. It writes to ``faulthandler.txt`` in the worker's folder of the spool, or into memory when there is no disk to
write to. After a recovery the file is emptied again; what a killed process leaves in it is read by whoever finds the folder.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from pathlib import Path
from typing import Any, Final

from hangwatch.patching import Patcher

FILE_NAME: Final = "faulthandler.txt"
#: Silence before it fires, at the least. It reads other threads' stacks without the GIL, which is safe while native code keeps it and
#: is not while Python runs: a dump that fired on a busy machine, where the watchdog had merely not got a CPU for half a second, has
#: crashed CPython 3.11. What ends by itself mostly ends within seconds, and is told from the stacks at its end; this is for what does not end.
LEAST_S: Final = 5.0
#: Beats this late are the collector's doing, or a busy machine's: whoever runs then arms the timer anew, as Python does run.
LATE_S: Final = 0.5

#: A full collection keeps the GIL longer than that only where memory is swapped out; a dump that meets its end meets running Python. The
#: watchdog tells of it afterwards, from stacks taken with the GIL.
COLLECTING_S: Final = 10.0
#: Between two collections that follow each other at once, arming anew (some 50 microseconds) is saved.
_FRESH_NS: Final = 100_000_000


class StackTimer:
    """Armed with ``beat()``, silent after ``stop()``. Never raises; ``error`` says why there is none."""

    def __init__(self, timeout_s: float, folder: Path | None) -> None:
        self.timeout_s = max(LEAST_S, timeout_s)
        self.path: Path | None = None
        self.error: str | None = None
        #: The application arms this timer itself: there is only one in a process, and it is theirs.
        self.taken = False
        # Our own, held for microseconds: between "may I?" and arming no fork can come.
        self._gate = threading.Lock()
        self._beat_ns = 0
        self._stopped = False
        self._long = False
        self._fd = self._open(folder)

    def _open(self, folder: Path | None) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                fd = os.open(folder / FILE_NAME, flags, 0o600)
                self.path = folder / FILE_NAME
                return fd
            except OSError as error:
                self.error = f"stacks cannot be kept in {folder}: {error.strerror}"
        try:
            fd = os.memfd_create("hangwatch-stacks")
            self.path = Path(f"/proc/{os.getpid()}/fd/{fd}")
            return fd
        except (OSError, AttributeError) as error:
            self.error = f"no file for stacks: {error}"
            return -1

    def move_to(self, folder: Path) -> None:
        """From memory to disk, once the spool is there."""
        with self._gate:
            if self._stopped:
                return
            if self._fd >= 0 and not self.taken:
                # Before the file is closed: its number may be a socket's a moment later.
                faulthandler.cancel_dump_traceback_later()
            old, self._fd = self._fd, self._open(folder)
            if old >= 0:
                _copy(old, self._fd)
                os.close(old)
        self.beat()

    def watch_for_others(self, patcher: Patcher) -> None:
        """Stands back as soon as the application uses the timer."""
        patcher.before(faulthandler, "dump_traceback_later", self._others)

    def _others(self, *args: Any, file: Any = None, **kwargs: Any) -> None:
        if not (type(file) is int and file == self._fd):
            self.taken = True

    def beat(self) -> None:
        """All is well: the timer starts anew."""
        if self._fd < 0 or self.taken:
            return
        with self._gate:
            self._arm()

    def _arm(self, least_s: float = 0.0) -> None:
        try:
            faulthandler.dump_traceback_later(max(self.timeout_s, least_s), repeat=False, file=self._fd)
            self._beat_ns = time.monotonic_ns()
            self._long = least_s > 0
        except (RuntimeError, ValueError, OSError) as error:
            self.error = str(error)
            self.taken = True

    def beat_if_late(self, now_ns: int) -> None:
        """For who cannot wait, and may be inside `beat` already."""
        if now_ns - self._beat_ns >= LATE_S * 1e9:
            self._try_arm()

    def collection(self, now_ns: int, begins: bool) -> None:
        """A collection begins (a full one) or ends, on whichever thread.

        Between long collections the watchdog gets no turn for seconds, while Python runs a moment after each: a dump would meet it.
        """
        if not begins:
            self.beat_if_late(now_ns)
        elif not self._long or now_ns - self._beat_ns >= _FRESH_NS:
            self._try_arm(COLLECTING_S)

    def _try_arm(self, least_s: float = 0.0) -> None:
        if self._fd < 0 or self.taken or not self._gate.acquire(blocking=False):
            return
        try:
            self._arm(least_s)
        finally:
            self._gate.release()

    def written(self) -> bool:
        """It fired since the last ``clear``."""
        try:
            return self._fd >= 0 and os.fstat(self._fd).st_size > 0
        except OSError:
            return False

    def written_at(self) -> float | None:
        """Seconds since the epoch of the last write, None when nothing was written."""
        try:
            status = os.fstat(self._fd)
        except OSError:
            return None
        return status.st_mtime if status.st_size else None

    def clear(self) -> None:
        try:
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        except OSError:
            pass

    def stop(self) -> None:
        """Disarms (unless the timer is someone else's) and closes; a stopped timer stays stopped."""
        with self._gate:
            self._stopped = True
            if self._fd < 0:
                return
            if not self.taken:
                faulthandler.cancel_dump_traceback_later()
            old, self._fd = self._fd, -1
            os.close(old)

    def before_fork(self) -> None:
        """The timer is a C thread that does not exist in the child, which would wait for it for ever at its end."""
        self._gate.acquire()
        if self._fd >= 0 and not self.taken:
            faulthandler.cancel_dump_traceback_later()

    def after_fork_in_parent(self) -> None:
        self._gate.release()
        self.beat()

    def after_fork_in_child(self) -> None:
        """The parent's file is the parent's."""
        self._gate = threading.Lock()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _copy(old: int, new: int) -> None:
    """What was written already goes along, with its time."""
    try:
        status = os.fstat(old)
        if status.st_size and new >= 0:
            os.write(new, os.pread(old, status.st_size, 0))
            os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    except OSError:
        pass
