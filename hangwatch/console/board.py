"""What ``hangwatch attach --watch`` shows of one worker, and what keys do to it. It is drawn in `boardlines`.

Without an agent a request's age is not known: what is shown is for how long it has been watched in the same state, marked with ``>``.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from hangwatch.attach.target import Worker
from hangwatch.records import Frame, Request, Snapshot, Task

SORTS = ("age", "waits", "name")


@dataclass
class Row:
    """One request, or one task that works for none. ``still_s``: for how long it has not moved, as far as it was watched."""

    id: str
    name: str
    waits: str
    holds: str
    place: str
    still_s: float
    frames: tuple[Frame, ...] = ()


@dataclass
class Board:
    """What is shown. ``seen`` maps an id to when (seconds) it was first seen in its present state, and that state.

    ``chosen``: the id of the row that was gone to, which stays selected while rows come and go around it; "" for the top.
    """

    worker: Worker
    sort: str = "age"
    wanted: str = ""
    typing: bool = False
    selected: int = 0
    chosen: str = ""
    opened: str = ""
    message: str = ""
    helping: bool = False
    #: Titles of findings, the surest first.
    suspects: tuple[str, ...] = ()
    others: int = 0
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
        labels = _labels(self.snapshot)
        requests: dict[str, Request] = {request.task_id: request for request in self.snapshot.requests if request.task_id}
        rows = []
        for task in self.snapshot.tasks:
            request = requests.get(task.id)
            holds = ", ".join(labels[hold.primitive_id] for hold in task.holds if hold.primitive_id in labels)
            name = f"{request.method} {request.route} ({request.phase})" if request else task.name
            waits = labels.get(task.waits_on or "", task.state)
            still_s = now_s - self.seen.get(task.id, (now_s, None))[0]
            row = Row(task.id, name, waits, holds, _place(task), still_s, task.frames)
            if self.wanted.lower() in f"{row.name} {row.waits} {row.holds} {row.place}".lower():
                rows.append(row)
        keys = {
            "age": lambda row: (-round(row.still_s), row.name, row.id),
            "waits": lambda row: (row.waits, -round(row.still_s), row.id),
            "name": lambda row: (row.name, row.id),
        }
        rows.sort(key=keys[self.sort])
        self.selected = self._place_of_chosen(rows)
        return rows

    def _place_of_chosen(self, rows: list[Row]) -> int:
        """Where a task has ended, its place is taken by the one below it."""
        for number, row in enumerate(rows):
            if row.id == self.chosen:
                return number
        place = max(0, min(self.selected, len(rows) - 1)) if self.chosen else 0
        if rows and self.chosen and not self.wanted:  # what a filter hides comes back
            self.chosen = rows[place].id
        return place

    def _go(self, steps: int) -> None:
        rows = self.rows(time.monotonic())
        if rows:
            self.selected = max(0, min(self.selected + steps, len(rows) - 1))
            self.chosen = rows[self.selected].id

    def press(self, key: str) -> str:
        """What a key asks of the one who runs the board: ``quit``, ``write``, ``next`` (worker) or nothing."""
        if self.typing:
            return self._type(key)
        if key in ("q", "\x03", "\x04"):
            return "quit"
        self.message = "" if key else self.message
        self.helping = key in ("?", "h") and not self.helping if key else self.helping
        if key in ("w", "\t"):
            return "write" if key == "w" else "next"
        if key == "s":
            self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]
        elif key == "/":
            self.typing, self.wanted = True, ""
        elif key in ("\x1b[A", "k"):
            self._go(-1)
        elif key in ("\x1b[B", "j"):
            self._go(1)
        elif key in ("\r", "\n"):
            rows = self.rows(time.monotonic())
            self.opened = "" if self.opened or not rows else rows[self.selected].id
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


def _labels(seen: Snapshot) -> dict[str, str]:
    """Two of one name (two locks of asyncio's) are told apart by the end of their ids."""
    known = {primitive.id: primitive.label for primitive in seen.primitives}
    many = Counter(known.values())
    return {
        key: f"{label.partition('.')[2]} {key[-4:]}" if many[label] > 1 and label.startswith(("asyncio.", "threading.")) else label
        for key, label in known.items()
    }
