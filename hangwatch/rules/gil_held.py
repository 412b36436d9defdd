"""Native code keeps the GIL: on the loop's thread or on another, nothing of Python runs."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Finding
from hangwatch.rules.base import Case
from hangwatch.rules.blocked_loop import findings


def check(case: Case) -> Iterator[Finding]:
    yield from findings(case, "gil-held", "native", "gil")
