"""Source lines around a frame, from this machine's disk, and whether they can still be trusted."""

from __future__ import annotations

import linecache
import os
from dataclasses import dataclass

from hangwatch.records import Frame

#: Lines before and after the one that matters.
AROUND = 3


@dataclass(frozen=True, slots=True)
class Excerpt:
    """``lines``: (number, text, is it the one?). Empty where the file is not here. ``changed``: edited after the incident."""

    frame: Frame
    lines: tuple[tuple[int, str, bool], ...]
    changed: bool = False


def excerpt(frame: Frame, opened_at: float, around: int = AROUND) -> Excerpt:
    """Blank lines at both ends are left out, common indentation too."""
    linecache.checkcache(frame.file)
    source = linecache.getlines(frame.file) if frame.file and not frame.file.startswith("<") else []
    if not 0 < frame.line <= len(source):
        return Excerpt(frame, ())
    first, last = max(1, frame.line - around), min(len(source), frame.line + around)
    numbered = [(n, source[n - 1].rstrip().expandtabs(4), n == frame.line) for n in range(first, last + 1)]
    while numbered and not numbered[0][1]:
        del numbered[0]
    while numbered and not numbered[-1][1]:
        del numbered[-1]
    indent = min((len(text) - len(text.lstrip()) for _, text, _ in numbered if text), default=0)
    return Excerpt(frame, tuple((n, text[indent:], here) for n, text, here in numbered), _changed(frame.file, opened_at))


def _changed(file: str, opened_at: float) -> bool:
    try:
        return os.stat(file).st_mtime > opened_at > 0
    except OSError:
        return False
