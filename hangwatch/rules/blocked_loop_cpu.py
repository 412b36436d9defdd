"""The loop's thread computes in Python."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Finding
from hangwatch.rules.base import Case
from hangwatch.rules.blocked_loop import findings


def check(case: Case) -> Iterator[Finding]:
    yield from findings(case, "blocked-loop-cpu", "cpu")
