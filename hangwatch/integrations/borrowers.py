"""Who has what a pool has given out: the tasks and threads whose frames refer to a connection, directly or through its library's own objects.

A pool knows which of its connections are out, seldom with whom. The borrower has it in a local: the connection itself, or a session, a
pipeline, a response behind which the connection stands. So every frame's references are followed, but only through the kinds of
object that the lender names, a few steps far. What is out and found with nobody is a leak.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from hangwatch.integrations import recognise
from hangwatch.integrations.desk import SnapshotDesk
from hangwatch.reading.view import FrameView, ObjectView

#: Time for one search; some ten thousand tasks.
TIME_LIMIT_NS = 500_000_000
#: From a session to its connection are some six steps (SQLAlchemy: session, transaction, dict, connection, fairy, record).
STEPS = 8
#: Objects looked at behind one local.
OBJECTS = 300
_CONTAINERS = frozenset({"list", "dict", "tuple", "set", "collections.deque", "collections.OrderedDict", "method", "cell"})


@dataclass(frozen=True, slots=True)
class Loan:
    """One thing that is out. ``through``: prefixes of the type names that may stand between a local and it."""

    primitive_id: str
    address: int
    through: tuple[str, ...]


class Search:
    def __init__(self, loans: Iterable[Loan]) -> None:
        self.loans = {loan.address: loan for loan in loans}
        self.through_types = tuple({prefix for loan in self.loans.values() for prefix in loan.through})
        self.found: dict[int, set[str]] = {address: set() for address in self.loans}
        self._behind: dict[int, frozenset[int]] = {}

    def through(self, desk: SnapshotDesk, chains: Mapping[str, list[FrameView]], pause: Callable[[], None]) -> None:
        """Tells the desk who holds what, with the outermost frame that has it; and how much of each pool was found with somebody."""
        began = time.perf_counter_ns()
        for owner_id, chain in chains.items():
            if time.perf_counter_ns() - began > TIME_LIMIT_NS:
                desk.gap("not every task was searched for what it has borrowed")
                return
            for frame in chain:
                self._frame(desk, owner_id, frame)
            pause()
        self._account(desk)

    def _frame(self, desk: SnapshotDesk, owner_id: str, frame: FrameView) -> None:
        for view in frame.references():
            for address in self._reach(view):
                loan = self.loans[address]
                if owner_id not in self.found[address]:
                    self.found[address].add(owner_id)
                    desk.hold(owner_id, loan.primitive_id, recognise.record_of(frame, desk))

    def _reach(self, view: ObjectView) -> frozenset[int]:
        """Loans at or behind an object of the lenders' libraries."""
        if view.id in self.loans:
            return frozenset((view.id,))
        if not view.type_name.startswith(self.through_types):
            return frozenset()
        known = self._behind.get(view.id)
        if known is None:
            known = self._behind[view.id] = self._walk(view)
        return known

    def _walk(self, start: ObjectView) -> frozenset[int]:
        """Breadth first. A client or a pool is never among ``through``: everybody who may borrow refers to it, and would seem to have borrowed all."""
        found: set[int] = set()
        seen, todo = {start.id}, [start]
        for _ in range(STEPS):
            following: list[ObjectView] = []
            for view in todo:
                for child in view.parts():
                    if child.id in seen or len(seen) > OBJECTS:
                        continue
                    seen.add(child.id)
                    if child.id in self.loans:
                        found.add(child.id)
                    elif child.type_name in _CONTAINERS or child.type_name.startswith(self.through_types):
                        following.append(child)
            todo = following
        return frozenset(found)

    def _account(self, desk: SnapshotDesk) -> None:
        """``out with the living``: how many of a pool's loans somebody alive has."""
        counts: dict[str, int] = {}
        for loan in self.loans.values():
            counts[loan.primitive_id] = counts.get(loan.primitive_id, 0) + bool(self.found[loan.address])
        for primitive_id, count in counts.items():
            primitive = desk.primitives.get(primitive_id)
            if primitive is not None:
                desk.primitives[primitive_id] = replace(primitive, state={**primitive.state, "out with the living": count})
