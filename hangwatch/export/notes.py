"""In a flood an incident is not turned into spans at once: a note says that it is to be told. The incident itself is in the spool already.

A note is an empty file in the outbox whose name says all: whole or not at all, and 30 µs to make, where spans and log records on disk
are 2 ms of an interpreter that the service needs. Who sends makes them later, from the spool.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

from hangwatch.config import Config
from hangwatch.export import parcels
from hangwatch.export.specs import Parcel, Value
from hangwatch.export.wire import switched_off
from hangwatch.records import Incident

SUFFIX = ".note"
#: So many are told at once; a service that hangs has one incident, or a few.
BURST = 30
#: And one more each so many seconds.
ONE_MORE_S = 6.0
#: A flood has ended when there was time for so many: while it goes on, nothing is told at once.
DEBT = 10

_NAME = re.compile(r"\d{20}-\d{6}-(stall|ended)-([A-Za-z0-9_-]{1,100})(?:\.(recovered|shutdown|killed)\.(\d{1,20}))?\.note")


@dataclass(frozen=True, slots=True)
class Note:
    """``how`` empty: its detection; else its end, at ``ended_ns`` since the epoch."""

    name: str
    incident_id: str
    how: str
    ended_ns: int


class Flood:
    """Is it one? Used by the detecting thread alone."""

    def __init__(self) -> None:
        self._left = float(BURST)
        self._at = time.monotonic()

    def rises(self) -> bool:
        """Counts one incident more."""
        now = time.monotonic()
        self._left = min(BURST, self._left + (now - self._at) / ONE_MORE_S)
        self._at = now
        rises = self._left < 1
        self._left = max(-DEBT, self._left - 1)
        return rises


def name_of(incident_id: str, how: str, ended_ns: int) -> str | None:
    """A file name that sorts by time; None for an id that cannot be in one."""
    name = f"{parcels.key_of(incident_id, 'ended' if how else 'stall')}{f'.{how}.{ended_ns}' if how else ''}{SUFFIX}"
    note = read(name)
    return name if note is not None and note.incident_id == incident_id else None


def read(name: str) -> Note | None:
    found = _NAME.fullmatch(name)
    return Note(name, found[2], found[3] or "", int(found[4] or 0)) if found else None


def told(note: Note, store: Any, config: Config, resource: dict[str, Value]) -> list[Parcel]:
    """What the note stands for. Raises what ``store.load`` raises: the spool has let go of it meanwhile."""
    return made(store.load(note.incident_id), config, resource, note.how, note.ended_ns)


def made(incident: Incident, config: Config, resource: dict[str, Value], how: str, ended_ns: int) -> list[Parcel]:
    """All that is told of an incident's detection, or of its end."""
    found = parcels.of_end(incident, config, how, ended_ns, resource) if how else parcels.of_stall(incident, config, resource)
    return [parcel for parcel in found if not switched_off(parcel.signal)]
