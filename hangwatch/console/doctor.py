"""``hangwatch doctor``: what works here, what does not and how to get it; known hangs among the installed versions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import click

from hangwatch.console import checks
from hangwatch.console.checks import Check
from hangwatch.console.options import emit, paint, spool_option, spool_path
from hangwatch.console.style import Paint, width_of_terminal, wrap

_MARKS = {"ok": ("✓", "good"), "limited": ("!", "warn"), "broken": ("✗", "bad"), "bug": ("✗", "bad")}


@click.command()
@click.argument("pid", type=click.IntRange(min=1), required=False)
@spool_option
@click.option("--json", "as_json", is_flag=True, help="Machine readable: one JSON array of checks.")
def command(pid: int | None, spool: str | None, as_json: bool) -> int:
    """What works here, what does not and how to get it; which installed versions carry a known hang.

    With a PID: may that process be looked at from outside, and which known hangs do its own packages carry?

    \b
    hangwatch doctor
    hangwatch doctor 4242

    Exit status: 0 all is well, 1 something is missing or a version carries a known hang, 2 that process cannot be looked at.
    """
    found = list(_run(pid, spool))
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(check) for check in found]))
    else:
        emit(line for check in found for line in _lines(check, width_of_terminal(), paint()))
    if pid is not None and any(check.state == "broken" for check in found):
        return 2
    return 1 if any(check.state in ("broken", "bug") for check in found) else 0


def _run(pid: int | None, spool: str | None) -> Iterator[Check]:
    if pid is not None:
        yield from checks.process(pid)
        return
    for check in checks.CHECKS:
        try:
            yield from check(spool_path(spool))
        except Exception as error:  # one check that fails must not hide the others
            yield Check(check.__name__, "broken", f"could not be checked: {type(error).__name__}: {error}")


def _lines(check: Check, width: int, brush: Paint) -> Iterator[str]:
    mark, role = _MARKS[check.state]
    first, *rest = wrap(check.said, width - 2, f"{check.name:<14} ", " " * 15)
    yield f"{brush(mark, role)} {first}"
    yield from (f"  {line}" for line in rest)
    if check.help_text and check.state != "ok":
        for paragraph in check.help_text.splitlines():
            yield from (brush(line, "dim") for line in wrap(paragraph, width, " " * 17))
