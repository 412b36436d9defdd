"""The loop's thread is ready to run and the system does not let it: a quota, too many busy threads."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Finding
from hangwatch.rules.base import Case
from hangwatch.rules.blocked_loop import findings


def check(case: Case) -> Iterator[Finding]:
    yield from findings(case, "cpu-starved", "starved")
