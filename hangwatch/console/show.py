"""``hangwatch show``: one incident on a page."""

from __future__ import annotations

import json

import click

from hangwatch.console.options import emit, finish_what_was_left, id_argument, json_option, open_store, paint, spool_option
from hangwatch.console.render import incident_lines
from hangwatch.console.style import safe, width_of_terminal
from hangwatch.errors import ConfigError
from hangwatch.records import Incident, to_json


@click.command()
@id_argument
@spool_option
@json_option
@click.option("--all", "everything", is_flag=True, help="Every task, thread and frame, however many.")
@click.option("--evidence", metavar="TOOL", help="What this tool said, in full (faulthandler, py-spy, process, sockets).")
def command(incident_id: str, spool: str | None, as_json: bool, everything: bool, evidence: str | None) -> int:
    """Why it hung, who should have ended it, and what to do.

    ID is as `hangwatch incidents` lists it; its first characters, or those after the dash, are enough. `last` is the newest.

    \b
    hangwatch show last
    hangwatch show 4f1a9c --all | less -R
    hangwatch show last --evidence py-spy

    Exit status: 1, as something hung; 2 when there is no such incident.
    """
    store = open_store(spool)
    finish_what_was_left(store)
    incident = store.load(incident_id)
    if evidence is not None:
        return _evidence(incident, evidence)
    if as_json:
        click.echo(json.dumps(to_json(incident)))
    else:
        emit(incident_lines(incident, width_of_terminal(), paint(), everything=everything))
    return 1


def _evidence(incident: Incident, tool: str) -> int:
    found = next((said for said in incident.evidence if said.tool == tool), None)
    if found is None:
        there = ", ".join(said.tool for said in incident.evidence) or "none"
        raise ConfigError(f"incident {incident.id} has no evidence by {tool!r}", f"There is: {there}.")
    emit(safe(line) for line in (found.text or f"{found.error}\n{found.hint or ''}").splitlines())
    return 1
