"""The board of ``hangwatch attach --watch`` as lines of a screen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hangwatch.attach.stalled import stall_between
from hangwatch.console.board import Board, Row
from hangwatch.console.style import Paint, columns, cut, cut_path, safe
from hangwatch.records import Snapshot

KEYS: Final = "q quit  s sort  / filter  ↑↓ select  ⏎ open  w write  ? help"
HELP: Final = (
    "q      end",
    "s      sort by age, by what is waited for, by name",
    "/      show only rows with some text; Esc shows all again",
    "↑ ↓    select a row (also k and j)",
    "Enter  open the selected row: its frames; again: close it",
    "w      write an incident to the spool: what `hangwatch attach` would say now",
    "Tab    the next worker, where there are several",
    "",
    "still: for how long a task has been seen in one place. How long it was there before is known to an agent only.",
)
#: Shares of the width, the rest is for the place: what, waits for, holds.
_SHARES: Final = (0.32, 0.26, 0.16)
_STILL: Final = 7
_MOST_FRAMES: Final = 10


def lines(board: Board, now_s: float, width: int, height: int, painted: Paint) -> Iterator[str]:
    """The whole screen: ``height`` lines."""
    screen = list(_body(board, now_s, width, height - 1, painted))[: height - 1]
    yield from screen
    yield from [""] * (height - 1 - len(screen))
    more = "  Tab next worker" if board.others else ""
    yield painted(cut(safe(board.message) or (f"filter: {board.wanted}▏" if board.typing else KEYS + more), width), "dim")


def _body(board: Board, now_s: float, width: int, height: int, painted: Paint) -> Iterator[str]:
    seen = board.snapshot
    head = f"pid {board.worker.pid}" + (f" (and {board.others} more: Tab)" if board.others else "")
    yield painted(cut(f"{head}  {safe(board.worker.command)}", width), "title")
    if board.helping:
        yield from (cut(line, width) for line in ("", *HELP))
        return
    if seen is None:
        yield "looking…"
        return
    rows = board.rows(now_s)
    top = [cut(safe(line), width) for line in _facts(board, seen, now_s)]
    yield from top
    yield from (painted(cut(safe(line), width), "bad") for line in _suspects(board, seen, rows, now_s))
    above = 2 + len(top) + len(list(_suspects(board, seen, rows, now_s)))
    widths = _widths(width)
    yield painted(_line(("still".rjust(_STILL), "what", "waits for", "holds", "where"), widths), "strong")
    opened = next((row for row in rows if row.id == board.opened), None)
    below = list(_opened(opened, width, painted)) if opened is not None else []
    room = max(1, height - above - len(below))
    first = max(0, board.selected - room + 1)
    for number, row in enumerate(rows[first : first + room], first):
        text = _line((_still(row), row.name, row.waits, row.holds, row.place), widths)
        yield painted(text, "mark") if number == board.selected else text
    if not rows:
        yield "  nothing matches the filter" if board.wanted else "  no tasks"
    yield from below


def _facts(board: Board, seen: Snapshot, now_s: float) -> Iterator[str]:
    yield (
        f"Python {seen.versions.get('python', '?')}  {len(seen.requests)} requests  {len(seen.tasks)} tasks  {len(seen.threads)} threads"
        f"  looked in {seen.took_ms or 0:.0f} ms  by {board.sort}" + (f"  filter {board.wanted!r}" if board.wanted else "")
    )
    for loop in seen.loops:
        awake_s = now_s - board.awake[loop.id] if loop.id in board.awake else 0.0
        state = "asleep" if loop.asleep else f"awake for {awake_s:.1f} s" if loop.asleep is False else "not known whether asleep"
        where = f"thread {loop.thread_id.partition(':')[2]}" if loop.thread_id else "not running"
        yield f"loop {loop.kind}, {where}: {state}" + (f", {loop.ready} ready" if loop.ready is not None else "")
    if seen.gaps:
        yield f"not seen: {seen.gaps[0]}" + (f" (and {len(seen.gaps) - 1} more)" if len(seen.gaps) > 1 else "")


def _suspects(board: Board, seen: Snapshot, rows: list[Row], now_s: float) -> Iterator[str]:
    """What the rules say, else only that something stands still."""
    stall = stall_between(board.earlier, seen) if board.earlier else None
    if stall is None:
        return
    yield from (f"suspect: {title}" for title in board.suspects[:2])
    if not board.suspects:
        names = {request.id: f"{request.method} {request.route}" for request in seen.requests} | {row.id: row.name for row in rows}
        yield f"stands still: {stall.kind} {names.get(stall.subject_id, stall.subject_id)}"


def _opened(row: Row, width: int, painted: Paint) -> Iterator[str]:
    yield painted(cut(f"{safe(row.name)}  {row.id}", width), "strong")
    for frame in row.frames[-_MOST_FRAMES:]:
        function = cut(safe(frame.function), width // 2)
        yield f"    {function}  " + cut_path(safe(f"{frame.file}:{frame.line}"), max(12, width - 6 - columns(function)))


def _widths(width: int) -> tuple[int, ...]:
    room = max(24, width - _STILL - 8)
    shares = tuple(int(room * share) for share in _SHARES)
    return (_STILL, *shares, room - sum(shares))


def _line(cells: tuple[str, ...], widths: tuple[int, ...]) -> str:
    cut_cells = [cut(safe(cell), width) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(cell + " " * (width - columns(cell)) for cell, width in zip(cut_cells, widths, strict=True)).rstrip()


def _still(row: Row) -> str:
    seconds = int(row.still_s)
    text = f"{seconds} s" if seconds < 600 else f"{seconds // 60} min" if seconds < 36000 else f"{seconds // 3600} h"
    return f">{text}".rjust(_STILL)
