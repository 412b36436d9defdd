"""``hangwatch report``: one incident as a file to send around."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from hangwatch.console.options import finish_what_was_left, id_argument, note, open_store, spool_option
from hangwatch.errors import HangwatchError


@click.command()
@id_argument
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, allow_dash=True), metavar="F.html", help="Where to; '-' is stdout. [<id>.html]"
)
@spool_option
def command(incident_id: str, output: str | None, spool: str | None) -> int:
    """Write one self-contained HTML file: verdict, wait-for graph, source lines, stacks, evidence.

    It needs no network and no other file, reads well on a phone and in the dark, and prints. It holds paths, routes and source lines
    of the service: send it to whom you would send those.

    \b
    hangwatch report last -o incident.html

    Exit status: 1, as something hung; 2 when there is no such incident or the file cannot be written.
    """
    from hangwatch.console.page import page

    store = open_store(spool)
    finish_what_was_left(store)
    incident = store.load(incident_id)
    text = page(incident)
    if output == "-":
        sys.stdout.write(text)
        return 1
    path = Path(output or f"{incident.id}.html")
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise HangwatchError(f"cannot write {path}: {error.strerror}", "Name another place with -o.") from None
    note(f"{path} ({len(text.encode()) / 1024:.0f} KB)")
    return 1
