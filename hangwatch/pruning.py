"""Keeps a spool within its size and age, with any number of writers and no lock between them.

Looking at a thousand folders costs 20 ms of the interpreter, so it is not done for every incident. Each writer remembers what room it saw
and counts its own bytes; what others write meanwhile it learns at its next look.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from hangwatch.storefiles import RECORD

#: What a killed writer or pruner left half done is removed after this long; no write takes anything like it.
UNFINISHED_S: Final = 3600.0
#: Others write too, and time passes.
LOOK_EVERY_S: Final = 60.0
#: A full spool is emptied by so much more than is needed, or every incident would be one look.
SLACK: Final = 1 / 16
#: A file takes whole blocks.
_BLOCK: Final = 4096


class Pruner:
    """For the folder ``incidents``. ``remove`` takes one away; False when somebody else was faster."""

    def __init__(self, incidents: Path, remove: Callable[[str], bool]) -> None:
        self.incidents = incidents
        self._remove = remove
        self._room = 0
        self._grown = 0
        self._look_at = 0.0

    def wrote(self, size: int, files: int) -> None:
        self._grown += size + _BLOCK * files

    def due(self, max_bytes: int) -> bool:
        """Has so much been written, or has it been so long, that somebody should look?"""
        return time.monotonic() >= self._look_at or self._grown >= min(self._room, max(int(max_bytes * SLACK), _BLOCK))

    def prune(self, now: float, max_bytes: int, max_age_s: float, keep: str = "") -> int:
        """Removes incidents not touched for ``max_age_s``, then, where the rest is larger than ``max_bytes``, the oldest. How many."""
        sizes = sorted(self._sizes(now))
        total = sum(size for _, _, size in sizes)
        wanted = max_bytes if total <= max_bytes else max_bytes - int(max_bytes * SLACK)
        removed = 0
        for touched_at, name, size in sizes:
            if now - touched_at <= max_age_s and total <= wanted:
                break
            if name == keep:
                continue
            with contextlib.suppress(Exception):
                removed += self._remove(name)
                total -= size
        self._room, self._grown = max(0, max_bytes - total), 0
        self._look_at = time.monotonic() + LOOK_EVERY_S
        return removed

    def _sizes(self, now: float) -> Iterator[tuple[float, str, int]]:
        """(last touched, name, bytes on disk) of each incident; sweeps away what was left half done on the way."""
        for entry in scan(self.incidents):
            with contextlib.suppress(OSError):
                stat = entry.stat(follow_symlinks=False)
                if entry.name.startswith("."):
                    if now - stat.st_mtime > UNFINISHED_S:
                        shutil.rmtree(entry.path, ignore_errors=True)
                    continue
                within = [(file.name, file.stat(follow_symlinks=False)) for file in os.scandir(entry.path)]
                touched_at = max((s.st_mtime for name, s in within if name == RECORD), default=stat.st_mtime)
                yield touched_at, entry.name, sum(s.st_blocks * 512 for _, s in within)


def scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []
