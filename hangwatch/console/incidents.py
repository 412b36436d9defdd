"""``hangwatch incidents``: what hung, newest last."""

from __future__ import annotations

import json
import time

import click

from hangwatch.console.groups import group_lines
from hangwatch.console.options import emit, finish_what_was_left, json_option, note, open_store, paint, spool_option
from hangwatch.console.render import table_lines
from hangwatch.console.style import width_of_terminal
from hangwatch.errors import HangwatchError
from hangwatch.fleet import grouped
from hangwatch.records import Incident, to_json
from hangwatch.store import Store


@click.command()
@spool_option
@json_option
@click.option("--last", "count", type=click.IntRange(min=1), metavar="N", help="Only the N newest.")
@click.option("--since", type=click.FLOAT, metavar="HOURS", help="Only what began in the last HOURS.")
@click.option("--service", metavar="NAME", help="Only of this service.")
@click.option("--group", "by_fingerprint", is_flag=True, help="One entry for each fingerprint: how many, on which hosts, since when.")
def command(spool: str | None, as_json: bool, count: int | None, since: float | None, service: str | None, by_fingerprint: bool) -> int:
    """What hung, newest last.

    Workers that were killed, or that hang too hard to write themselves, are looked after first: what they left on disk becomes an
    incident.

    \b
    hangwatch incidents
    hangwatch incidents --since 24 --service shop
    hangwatch incidents --group            what many workers and hosts have in common
    hangwatch incidents --json | jq -r '.[-1].findings[0].title'

    Exit status: 0 nothing hung, 1 something did, 2 the spool cannot be read.
    """
    store = open_store(spool)
    finish_what_was_left(store)
    found = [incident for incident in store.heads() if _fits(incident, since, service)][-count if count else 0 :]
    for folder, why in store.broken:
        note(f"left out, as it cannot be read: {folder.name} ({why})")
    if by_fingerprint and found:
        groups = grouped(found)
        if as_json:
            click.echo(json.dumps([to_json(group) for group in groups]))
        else:
            emit(group_lines(groups, width_of_terminal(), paint()))
            note(f"\nhangwatch show {groups[-1].newest} says why, and what to do.")
    elif as_json:
        _print_whole(store, found)
    elif found:
        emit(table_lines(found, width_of_terminal(), paint()))
        note(f"\nhangwatch show {found[-1].id} (or: last) says why, and what to do.")
    else:
        note(f"No incident in {store.root}.")
    return 1 if found else 0


def _print_whole(store: Store, heads: list[Incident]) -> None:
    """One array, one incident in memory at a time: a snapshot can be 20 MB."""
    printed = 0
    for head in heads:
        try:
            text = json.dumps(to_json(store.load(head.id)))
        except HangwatchError as error:  # gone or broken since we looked
            note(f"left out: {error}")
            continue
        click.echo((", " if printed else "[") + text, nl=False)
        printed += 1
    click.echo("]" if printed else "[]")


def _fits(incident: Incident, since_h: float | None, service: str | None) -> bool:
    if service is not None and incident.service != service:
        return False
    return since_h is None or incident.opened_at >= time.time() - since_h * 3600
