"""Metrics as plain values: what is rendered for Prometheus and what is sent by OTLP are the same families."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One stall behind a number: its value, its time (ns since the epoch), and the trace to open."""

    value: float
    at_ns: int
    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True)
class Point:
    labels: Labels
    value: float
    exemplar: Exemplar | None = None


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram's state: ``counts`` has one entry more than ``bounds`` (the last: above all). Exemplars by bucket."""

    labels: Labels
    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float
    exemplars: tuple[Exemplar | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Family:
    """``kind``: counter, gauge or histogram. ``unit`` in UCUM (``s``, ``1``, ``{request}``)."""

    name: str
    kind: str
    unit: str
    help: str
    points: tuple[Point, ...] = ()
    distributions: tuple[Distribution, ...] = ()


@dataclass(slots=True)
class Histogram:
    """Counts values; one thread writes, others read a copy."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0
    exemplars: list[Exemplar | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)
        self.exemplars = [None] * (len(self.bounds) + 1)

    def observe(self, value: float, exemplar: Exemplar | None = None) -> None:
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.total += value
        if exemplar is not None:
            self.exemplars[bucket] = exemplar

    def state(self, labels: Labels) -> Distribution:
        return Distribution(labels, self.bounds, tuple(self.counts), self.total, tuple(self.exemplars))
