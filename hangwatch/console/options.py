"""What several commands share: options, the spool, the completion of ids, printing."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import click

from hangwatch.config import default_spool
from hangwatch.console.style import Paint, paint_for
from hangwatch.errors import HangwatchError
from hangwatch.store import Store

F = TypeVar("F", bound=Callable[..., Any])


def spool_option(command: F) -> F:
    """``--spool DIR``, else HANGWATCH_SPOOL, else the default place."""
    option = click.option("--spool", type=click.Path(file_okay=False), metavar="DIR", help="Where incidents are kept. [HANGWATCH_SPOOL]")
    return option(command)


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Machine readable: the records, one JSON value.")(command)


def id_argument(command: F) -> F:
    """One incident: its id, an unambiguous beginning of it, or ``last``. Shells complete it."""
    return click.argument("incident_id", metavar="ID", **_completed_by(_ids))(command)


def _completed_by(words: Callable[..., list[str]]) -> dict[str, Any]:
    """Click 8 takes it as ``shell_complete`` and calls it by position, click 7 as ``autocompletion`` and by keyword."""
    return {"shell_complete" if find_spec("click.shell_completion") else "autocompletion": words}


def _ids(ctx: click.Context, args: Any, incomplete: str) -> list[str]:
    with contextlib.suppress(HangwatchError, OSError):
        return [name for name in ["last", *reversed(open_store(ctx.params.get("spool")).ids())] if name.startswith(incomplete)]
    return []


def spool_path(spool: str | None) -> Path:
    return Path(spool or os.environ.get("HANGWATCH_SPOOL") or default_spool()).expanduser()


def open_store(spool: str | None) -> Store:
    """The spool for reading. Raises SpoolError."""
    return Store.existing(spool_path(spool))


def finish_what_was_left(store: Store) -> None:
    """Incidents of workers that were killed, or hang too hard to write, from what they left. A spool that is read-only stays as it is."""
    from hangwatch.orphans import finish

    with contextlib.suppress(HangwatchError):
        for incident in finish(store):
            note(f"{incident.id}: told by process {incident.snapshot.pid}'s leftovers, as it could not write itself")


def paint() -> Paint:
    return paint_for(sys.stdout)


def emit(lines: Iterable[str]) -> None:
    """To stdout as they are: whether there are colours was decided by `paint`, not by click."""
    for line in lines:
        click.echo(line.rstrip(), color=True)


def note(line: str) -> None:
    """Progress and asides, on stderr: stdout is for the answer."""
    click.echo(line, err=True)
