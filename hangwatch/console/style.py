"""Colours by role, and text that fits a width. A line is laid out first and painted last, so that colours never change the layout."""

from __future__ import annotations

import os
import shutil
import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

#: Paints a text for a role; the identity where there are no colours.
Paint = Callable[[str, str], str]

#: SGR codes (ECMA-48). Only the sixteen colours that a person's own theme sets, so that both light and dark stay readable.
_ROLES = {
    "title": "1", "bad": "1;31", "warn": "33", "good": "32", "dim": "2", "key": "36", "mark": "1;33", "link": "4", "strong": "1",
}  # fmt: skip

MIN_WIDTH, MAX_WIDTH = 48, 140


def plain(text: str, role: str) -> str:
    return text


def coloured(text: str, role: str) -> str:
    return f"\x1b[{_ROLES[role]}m{text}\x1b[0m" if text else text


def paint_for(stream: IO[Any], environ: Mapping[str, str] = os.environ) -> Paint:
    """Colours for a terminal that has them, unless NO_COLOR is set to anything (no-color.org); FORCE_COLOR overrides the guess."""
    if environ.get("NO_COLOR"):
        return plain
    if environ.get("FORCE_COLOR"):
        return coloured
    terminal = getattr(stream, "isatty", bool)()
    return coloured if terminal and environ.get("TERM", "dumb") != "dumb" else plain


def width_of_terminal() -> int:
    """Columns (COLUMNS, else the terminal's, else 100), within what reads well."""
    return max(MIN_WIDTH, min(MAX_WIDTH, shutil.get_terminal_size((100, 24)).columns))


def safe(text: str) -> str:
    """Without control characters: what a service or a client put into a name must not drive the terminal of who reads it."""
    return "".join(c if c.isprintable() or c == " " else " " if c in "\t\n\r" else "�" for c in text)


def columns(text: str) -> int:
    """Columns that a text takes: wide characters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, width: int) -> str:
    """The beginning of a text that is too wide, with an ellipsis."""
    if columns(text) <= width:
        return text
    kept = ""
    for c in text:
        if columns(kept + c) > width - 1:
            break
        kept += c
    return kept.rstrip() + "…"


def cut_path(path: str, width: int) -> str:
    """The end of a path that is too wide, from a folder on: that is what tells files apart."""
    if columns(path) <= width:
        return path
    kept = path
    while kept and columns(kept) > width - 1:
        folder = kept.find("/", 1)
        kept = kept[folder:] if folder > 0 and columns(kept[folder:]) < columns(kept) else kept[1:]
    return "…" + kept


def wrap(text: str, width: int, first: str = "", rest: str | None = None) -> Iterator[str]:
    """Lines of at most ``width`` columns; ``first`` leads the first one, ``rest`` (blanks as wide) the others. Addresses stay whole."""
    rest = " " * columns(first) if rest is None else rest
    room = max(20, width)
    longest = room - max(columns(first), columns(rest))
    words = [piece for word in safe(text).split() for piece in _pieces(word, longest)]
    lines = textwrap.wrap(
        " ".join(words), room, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
    yield from lines or [first.rstrip()]


def _pieces(word: str, width: int) -> list[str]:
    """A word longer than a line, in parts; an address is to be clicked and stays in one."""
    if columns(word) <= width or word.startswith(("https://", "http://")):
        return [word]
    return (
        [word[at : at + width // 2] for at in range(0, len(word), width // 2)]
        if columns(word) > len(word)
        else [word[at : at + width] for at in range(0, len(word), width)]
    )
