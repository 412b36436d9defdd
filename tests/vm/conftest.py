"""The table of all checks, at the end of the run."""

from __future__ import annotations

import pytest

_TABLE = []


@pytest.fixture
def table():
    """(machine, what was said), in order."""
    return _TABLE


def pytest_terminal_summary(terminalreporter):
    if not _TABLE:
        return
    terminalreporter.section("virtual machines")
    for machine, said in _TABLE:
        # A skipped target is told with its reason; what a check has seen is worth a line too.
        terminalreporter.line(
            f"{machine:15} {said.target:13} {said.check:21} {said.state:8} {said.took_s:6.1f} s  {said.said.splitlines()[0][:120] if said.said else ''}"
        )
