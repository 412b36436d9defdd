"""The loop's thread is in a blocking call: a socket, a file, a child, a sleep."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Finding
from hangwatch.rules.base import Case
from hangwatch.rules.blocked_loop import findings


def check(case: Case) -> Iterator[Finding]:
    yield from findings(case, "blocked-loop-io", "io")
