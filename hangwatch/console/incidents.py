"""``hangwatch incidents``: what hung, a line each."""

from __future__ import annotations

import json

import click

from hangwatch.console.options import json_option, open_store, spool_option
from hangwatch.orphans import finish
from hangwatch.records import to_json


@click.command()
@spool_option
@json_option
def command(spool: str | None, as_json: bool) -> int:
    """What hung, newest last.

    Incidents of workers that were killed, or that hang so hard that they cannot write any more, are finished first from what they left on disk.

    \b
    hangwatch incidents
    hangwatch incidents --json | jq '.[-1].findings[0].title'
    """
    store = open_store(spool)
    finish(store)
    incidents = store.list()
    if as_json:
        click.echo(json.dumps([to_json(incident) for incident in incidents]))
    else:
        for incident in incidents:
            finding = incident.findings[0] if incident.findings else None
            click.echo(f"{incident.id}  {finding.cause if finding else '-'}  {finding.title if finding else ''}")
        if not incidents:
            click.echo(f"No incident in {store.root}.", err=True)
    return 1 if incidents else 0
