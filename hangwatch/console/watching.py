"""``hangwatch attach --watch``: one worker again and again, drawn like top: loops, requests by age, what they wait on, suspects.

`Board` holds what is shown and answers keys; `lines` draws it; `run` owns the terminal. Without an agent a request's
age is not known: what is shown is for how long it has been watched in the same state, marked with ``>``.
"""

from __future__ import annotations

import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Iterator
from dataclasses import dataclass, field

from hangwatch import attach
from hangwatch.attach.stalled import stall_between
from hangwatch.attach.target import Worker
from hangwatch.console.options import paint
from hangwatch.console.style import Paint, cut, safe
from hangwatch.errors import CannotLook, HangwatchError
from hangwatch.records import Frame, Request, Snapshot, Task
from hangwatch.snapshot import take
from hangwatch.store import Store

EVERY_S = 1.0
SORTS = ("age", "waits", "name")
HELP = "q quit  s sort  / filter  up/down select  enter open  w write an incident to the spool"


@dataclass
class Row:
    """One request, or one task that works for none."""

    id: str
    name: str
    waits: str
    holds: str
    place: str
    still_s: float
    frames: tuple[Frame, ...] = ()


@dataclass
class Board:
    """What is shown. ``seen`` maps an id to when (seconds) it was first seen in its present state, and that state."""

    worker: Worker
    sort: str = "age"
    wanted: str = ""
    typing: bool = False
    selected: int = 0
    opened: str = ""
    message: str = ""
    snapshot: Snapshot | None = None
    earlier: Snapshot | None = None
    seen: dict[str, tuple[float, object]] = field(default_factory=dict)
    awake: dict[str, float] = field(default_factory=dict)

    def take_in(self, snapshot: Snapshot, now_s: float) -> None:
        """A new look; what did not move since keeps its time."""
        self.earlier, self.snapshot = self.snapshot, snapshot
        states: dict[str, object] = {task.id: (task.frames, task.waits_on) for task in snapshot.tasks}
        self.seen = {
            key: self.seen[key] if key in self.seen and self.seen[key][1] == state else (now_s, state) for key, state in states.items()
        }
        self.awake = {loop.id: self.awake.get(loop.id, now_s) for loop in snapshot.loops if loop.asleep is False}

    def rows(self, now_s: float) -> list[Row]:
        if self.snapshot is None:
            return []
        primitives = {primitive.id: primitive for primitive in self.snapshot.primitives}
        requests: dict[str, Request] = {request.task_id: request for request in self.snapshot.requests if request.task_id}
        rows = []
        for task in self.snapshot.tasks:
            request = requests.get(task.id)
            waits = primitives.get(task.waits_on or "")
            holds = ", ".join(primitives[hold.primitive_id].label for hold in task.holds if hold.primitive_id in primitives)
            name = f"{request.method} {request.route} ({request.phase})" if request else task.name
            place = _place(task)
            row = Row(
                task.id,
                name,
                waits.label if waits else task.state,
                holds,
                place,
                now_s - self.seen.get(task.id, (now_s, None))[0],
                task.frames,
            )
            if self.wanted.lower() in f"{row.name} {row.waits} {row.holds} {row.place}".lower():
                rows.append(row)
        keys = {
            "age": lambda row: (-row.still_s, row.name),
            "waits": lambda row: (row.waits, -row.still_s),
            "name": lambda row: (row.name, row.id),
        }
        return sorted(rows, key=keys[self.sort])

    def press(self, key: str) -> str:
        """What a key asks of the one who runs the board: ``quit``, ``write`` or nothing."""
        if self.typing:
            return self._type(key)
        if key in ("q", "\x03", "\x04"):
            return "quit"
        if key == "w":
            return "write"
        if key == "s":
            self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]
        elif key == "/":
            self.typing, self.wanted = True, ""
        elif key in ("\x1b[A", "k"):
            self.selected = max(0, self.selected - 1)
        elif key in ("\x1b[B", "j"):
            self.selected += 1
        elif key in ("\r", "\n"):
            rows = self.rows(time.monotonic())
            self.opened = "" if self.opened or not rows else rows[min(self.selected, len(rows) - 1)].id
        elif key == "\x1b":
            self.opened = self.wanted = ""
        return ""

    def _type(self, key: str) -> str:
        if key in ("\r", "\n", "\x1b"):
            self.typing = False
        elif key in ("\x7f", "\b"):
            self.wanted = self.wanted[:-1]
        elif key.isprintable():
            self.wanted += key
        return ""


def _place(task: Task) -> str:
    own = [frame for frame in task.frames if "site-packages" not in frame.file and "/lib/python" not in frame.file]
    frame = own[-1] if own else task.frames[-1] if task.frames else None
    return f"{frame.function} {frame.file.rpartition('/')[2]}:{frame.line}" if frame else ""


def lines(board: Board, now_s: float, width: int, height: int, painted: Paint) -> Iterator[str]:
    """The screen, ``height`` lines at most."""
    seen = board.snapshot
    head = f"pid {board.worker.pid}  {safe(board.worker.command)}"
    yield painted(cut(head, width), "title")
    if seen is None:
        yield board.message or "looking…"
        return
    rows = board.rows(now_s)
    board.selected = max(0, min(board.selected, len(rows) - 1))
    body = [
        f"Python {seen.versions.get('python', '?')}  {len(seen.requests)} requests  {len(seen.tasks)} tasks  {len(seen.threads)} threads"
        f"  looked in {seen.took_ms or 0:.0f} ms  sorted by {board.sort}"
        + (f"  filter {board.wanted!r}" if board.wanted or board.typing else "")
    ]
    for loop in seen.loops:
        awake_s = now_s - board.awake[loop.id] if loop.id in board.awake else 0.0
        state = "asleep" if loop.asleep else f"awake {awake_s:.1f} s" if loop.asleep is False else "?"
        body.append(f"loop {loop.kind} {loop.thread_id or 'not running'}: {state}, {loop.ready if loop.ready is not None else '?'} ready")
    stall = stall_between(board.earlier, seen) if board.earlier else None
    body.append(f"stands still: {stall.kind} {stall.subject_id}" if stall else "nothing stands still that should move")
    yield from (cut(safe(line), width) for line in body)
    yield painted(cut(f"{'still':>8}  {'what':<40}  {'waits for':<34}  {'holds':<20}  where", width), "strong")
    room = max(1, height - len(body) - 4 - (12 if board.opened else 0))
    first = max(0, board.selected - room + 1)
    for number, row in enumerate(rows[first : first + room], first):
        text = cut(
            safe(
                f"{'>' + format(row.still_s, '.0f') + ' s':>8}  {row.name[:40]:<40}  {row.waits[:34]:<34}  {row.holds[:20]:<20}  {row.place}"
            ),
            width,
        )
        yield painted(text, "mark") if number == board.selected else text
    opened = next((row for row in rows if row.id == board.opened), None)
    if opened is not None:
        yield painted(cut(f"{opened.id}  {safe(opened.name)}", width), "strong")
        yield from (cut(safe(f"    {frame.function}  {frame.file}:{frame.line}"), width) for frame in opened.frames[-10:])
    yield painted(cut(safe(board.message) or HELP, width), "dim")


def run(worker: Worker) -> int:
    """Draws until q. Raises CannotLook when the worker cannot be looked at, or there is no terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CannotLook(
            "--watch draws on a terminal, and this is none", "Without --watch it answers once; --json gives the same for programs."
        )
    reader = attach.open_reader(worker.pid)
    board, painted = Board(worker), paint()
    before = termios.tcgetattr(sys.stdin)
    sys.stdout.write("\x1b[?1049h\x1b[?25l")
    try:
        tty.setcbreak(sys.stdin)
        due = 0.0
        while True:
            now_s = time.monotonic()
            if now_s >= due:
                try:
                    reader.refresh()
                    board.take_in(attach.settled(take(reader), reader), now_s)
                except CannotLook as error:
                    board.message = f"{error}  (q ends)"
                due = now_s + EVERY_S
            size = shutil.get_terminal_size()
            screen = list(lines(board, now_s, size.columns, size.lines, painted))[: size.lines]
            sys.stdout.write("\x1b[H" + "\x1b[K\r\n".join(screen) + "\x1b[J")
            sys.stdout.flush()
            asked = board.press(_key(max(0.0, due - time.monotonic())))
            if asked == "quit":
                return 0
            if asked == "write":
                board.message = _write(worker.pid)
    except KeyboardInterrupt:
        return 0
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()


def _key(patience_s: float) -> str:
    """One key press, escape sequences whole; "" after the time."""
    if not select.select([sys.stdin], [], [], patience_s)[0]:
        return ""
    key = sys.stdin.read(1)
    if key == "\x1b" and select.select([sys.stdin], [], [], 0.01)[0]:
        key += sys.stdin.read(2)
    return key


def _write(pid: int) -> str:
    from hangwatch.config import Config

    try:
        incident = attach.look(pid)
        path = Store(Config.make().spool).add(incident)
    except (HangwatchError, OSError) as error:
        return str(error)
    return f"written: {path}" if path else "not written"
