"""What a rule is given."""

from __future__ import annotations

from dataclasses import dataclass

from hangwatch.graph import WaitGraph
from hangwatch.records import Evidence, Snapshot, Stall


@dataclass(frozen=True, slots=True)
class Case:
    """One stall, what was seen, and (where a second sample could be taken) what was seen a moment before.

    ``earlier`` is an older snapshot of the same process: a contradiction seen in both is proof, in one only a hint.
    """

    stall: Stall
    snapshot: Snapshot
    graph: WaitGraph
    earlier: Snapshot | None = None
    evidence: tuple[Evidence, ...] = ()
