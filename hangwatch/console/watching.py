"""``hangwatch attach --watch``: workers again and again, drawn like top: loops, requests by age, what they wait on, suspects."""

from __future__ import annotations

import os
import select
import shutil
import sys
import termios
import time
import tty
from typing import Final

from hangwatch import attach
from hangwatch.attach import permissions
from hangwatch.attach.stalled import stall_between
from hangwatch.attach.target import Worker
from hangwatch.console.board import Board
from hangwatch.console.boardlines import lines
from hangwatch.console.options import paint
from hangwatch.errors import CannotLook, HangwatchError
from hangwatch.reading.remote import RemoteReader
from hangwatch.snapshot import take
from hangwatch.store import Store

EVERY_S: Final = 1.0
#: Rules look at everything; what stands still stays so.
_JUDGED_EVERY_S: Final = 5.0


class Watched:
    """One worker: its reader, and what is shown of it."""

    def __init__(self, worker: Worker, others: int) -> None:
        self.board = Board(worker, others=others)
        self._reader: RemoteReader | None = None
        self._judged_s = 0.0

    def look(self, now_s: float) -> None:
        """Raises CannotLook."""
        if self._reader is None:
            self._reader = attach.open_reader(self.board.worker.pid)
        else:
            self._reader.refresh()
        board = self.board
        board.take_in(attach.settled(take(self._reader), self._reader), now_s)
        stall = stall_between(board.earlier, board.snapshot) if board.earlier and board.snapshot else None
        if stall is None:
            board.suspects = ()
        elif board.snapshot and (not board.suspects or now_s - self._judged_s > _JUDGED_EVERY_S):
            found = attach.conclude(stall, board.earlier, board.snapshot, (), "").findings
            board.suspects = tuple(
                f"{finding.cause} ({finding.confidence}): {finding.title}" for finding in found if finding.cause != "unknown"
            )
            self._judged_s = now_s


def run(workers: list[Worker]) -> int:
    """Draws until q. Raises CannotLook when the first worker cannot be looked at, or there is no terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CannotLook(
            "--watch draws on a terminal, and this is none", "Without --watch it answers once; --json gives the same for programs."
        )
    watched = [Watched(worker, len(workers) - 1) for worker in workers]
    watched[0].look(time.monotonic())
    before = termios.tcgetattr(sys.stdin)
    sys.stdout.write("\x1b[?1049h\x1b[?25l")
    try:
        tty.setcbreak(sys.stdin)
        _redraw(watched)
    except KeyboardInterrupt:
        pass
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
    return 0


def _redraw(watched: list[Watched]) -> None:
    painted, due = paint(), 0.0
    while True:
        now_s, board = time.monotonic(), watched[0].board
        if now_s >= due:
            due = now_s + EVERY_S
            try:
                watched[0].look(now_s)
                board.message = "" if board.message.endswith(_KEPT) else board.message
            except CannotLook as error:
                board.message = f"{permissions.ended(board.worker.pid, error)}{_KEPT}"
        size = shutil.get_terminal_size()
        screen = list(lines(board, now_s, size.columns, size.lines, painted))
        # Not shutil's idea after a resize in the middle: what is below is cleared.
        sys.stdout.write("\x1b[H" + "\x1b[K\r\n".join(screen) + "\x1b[K\x1b[J")
        sys.stdout.flush()
        asked = board.press(_key(max(0.0, due - time.monotonic())))
        if asked == "quit":
            return
        if asked == "write":
            board.message = _write(board.worker.pid)
        elif asked == "next" and len(watched) > 1:
            watched.append(watched.pop(0))
            due = 0.0


#: Behind what is said of a worker that cannot be looked at, until it can be again.
_KEPT: Final = "  (what is shown is from before; q ends)"


def _key(patience_s: float) -> str:
    """One key press, escape sequences whole; "" after the time, ``q`` at the end of input."""
    # Past Python's own buffer: select would not see what that has taken in.
    handle = sys.stdin.fileno()
    if not select.select([handle], [], [], patience_s)[0]:
        return ""
    key = os.read(handle, 1)
    if not key:
        return "q"
    if key == b"\x1b" and select.select([handle], [], [], 0.02)[0]:
        key += os.read(handle, 2)
    while key[0] >= 0xC0 and len(key) < 4 and select.select([handle], [], [], 0)[0]:
        key += os.read(handle, 1)  # the rest of a character beyond ASCII
    return key.decode("utf-8", "replace")


def _write(pid: int) -> str:
    from hangwatch.config import Config

    try:
        incident = attach.look(pid, outside=True)
        path = Store(Config.make().spool).add(incident)
    except (HangwatchError, OSError) as error:
        return str(error)
    return f"written: hangwatch show {incident.id.rpartition('-')[2]}  ({path})"
