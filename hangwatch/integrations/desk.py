"""The desk of one snapshot: takes what integrations report, merges it, and knows nothing of any library."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any, TypeVar

from hangwatch.reading.view import ObjectView, Reader
from hangwatch.records import Connection, Frame, Hold, Primitive, Request, Wait

#: Primitives, requests and connections that one snapshot holds. Beyond that they are counted.
LIMIT = 50_000
GAPS_LIMIT = 100

R = TypeVar("R", Connection, Request)


class SnapshotDesk:
    """Collects for one snapshot. Nothing here raises; what is beyond ``LIMIT`` is counted in ``dropped``."""

    def __init__(self, reader: Reader, now_ns: int) -> None:
        self.reader = reader
        self.now_ns = now_ns
        self.memo: dict[str, Any] = {}
        self.primitives: dict[str, Primitive] = {}
        self.connections: dict[str, Connection] = {}
        self.requests: dict[str, Request] = {}
        self.bound: dict[str, str] = {}
        self.parents: dict[str, str] = {}
        self.holds: dict[str, list[Hold]] = {}
        self.waits: dict[tuple[str, str], Wait] = {}
        #: Waiters by primitive, apart from the records: a lock may have thousands.
        self.waiters: dict[str, dict[str, None]] = {}
        self.serves: dict[str, str] = {}
        self.gaps: list[str] = []
        self.dropped: dict[str, int] = {}
        #: Address of the object behind each primitive, for finding who else refers to it.
        self.addresses: dict[str, int] = {}
        #: (primitive, address of what is out, type names that may stand before it), for finding who has it.
        self.loans: list[tuple[str, int, tuple[str, ...]]] = []

    def id_of(self, kind: str, obj: ObjectView) -> str:
        made = f"{kind}:{obj.id:x}"
        self.addresses[made] = obj.id
        return made

    def known(self, kind: str, obj: ObjectView) -> Primitive | None:
        return self.primitives.get(f"{kind}:{obj.id:x}")

    def add_primitive(self, primitive: Primitive) -> None:
        known = self.primitives.get(primitive.id)
        if known is primitive:
            return
        if known is not None:
            self.primitives[primitive.id] = _merge_primitives(known, primitive)
        elif self._room("primitives", self.primitives):
            self.primitives[primitive.id] = primitive

    def add_connection(self, connection: Connection) -> None:
        self._complete("connections", self.connections, connection)

    def add_request(self, request: Request) -> None:
        self._complete("requests", self.requests, request)
        if request.task_id:
            self.bind(request.task_id, request.id)

    def known_requests(self) -> list[Request]:
        return list(self.requests.values())

    def bind(self, task_id: str, request_id: str) -> None:
        self.bound.setdefault(task_id, request_id)

    def parent(self, child_id: str, parent_id: str) -> None:
        if child_id != parent_id:
            self.parents.setdefault(child_id, parent_id)

    def hold(self, owner_id: str, primitive_id: str, frame: Frame | None = None, since_ns: int | None = None) -> None:
        held = self.holds.setdefault(owner_id, [])
        for index, known in enumerate(held):
            if known.primitive_id == primitive_id and (frame is None or known.frame in (None, frame)):
                held[index] = Hold(primitive_id, known.frame or frame, known.since_ns if known.since_ns is not None else since_ns)
                return
        held.append(Hold(primitive_id, frame, since_ns))

    def wait(
        self,
        waiter_id: str,
        primitive_id: str,
        op: str,
        since_ns: int | None = None,
        frame: Frame | None = None,
        deadline_ns: int | None = None,
    ) -> None:
        key = (waiter_id, primitive_id)
        if key not in self.waits:
            self.waits[key] = Wait(waiter_id, primitive_id, op, since_ns, frame, deadline_ns)
            self.waiters.setdefault(primitive_id, {})[waiter_id] = None

    def lend(self, primitive_id: str, obj: ObjectView, through: tuple[str, ...]) -> None:
        if len(self.loans) < LIMIT:
            self.loans.append((primitive_id, obj.id, through))

    def serve(self, thread_id: str, task_id: str) -> None:
        self.serves.setdefault(thread_id, task_id)

    def gap(self, sentence: str) -> None:
        if sentence not in self.gaps and len(self.gaps) < GAPS_LIMIT:
            self.gaps.append(sentence)

    def _room(self, name: str, held: dict[str, Any]) -> bool:
        if len(held) < LIMIT:
            return True
        self.dropped[name] = self.dropped.get(name, 0) + 1
        return False

    def _complete(self, name: str, held: dict[str, R], record: R) -> None:
        known = held.get(record.id)
        if known is not None:
            held[record.id] = complete(known, record)
        elif self._room(name, held):
            held[record.id] = record


def complete(known: R, further: R) -> R:
    """``known`` with what it lacks (None, False, 0, empty) taken from ``further``."""
    found = {field.name: getattr(further, field.name) for field in fields(known) if not getattr(known, field.name)}
    return replace(known, **{name: value for name, value in found.items() if value})


def union(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def _merge_primitives(known: Primitive, further: Primitive) -> Primitive:
    setters = known.setters if further.setters is None else union(known.setters or (), further.setters)
    return replace(
        known,
        label=known.label or further.label,
        state={**known.state, **further.state},
        waiters=union(known.waiters, further.waiters),
        holders=union(known.holders, further.holders),
        patience_ns=known.patience_ns if further.patience_ns is None else max(known.patience_ns or 0, further.patience_ns),
        ready=further.ready if known.ready is None else known.ready,
        setters=setters,
        capacity=further.capacity if known.capacity is None else known.capacity,
        in_use=further.in_use if known.in_use is None else known.in_use,
    )
