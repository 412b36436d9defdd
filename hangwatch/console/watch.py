"""``hangwatch watch``: every Python worker of the host, seen from outside; one line an incident, while it lasts."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hangwatch.config import Config
from hangwatch.records import Incident, to_json

if TYPE_CHECKING:
    from hangwatch.watcher import Choice

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@click.command("watch")
@click.argument("names", nargs=-1, metavar="[PID|NAME|:PORT]…")
@click.option("--all", "everything", is_flag=True, help="Every Python process of this host, also those that start later.")
@click.option(
    "--container", "containers", multiple=True, metavar="ID", help="The Python processes of a container, by its id or the beginning of it."
)
@click.option("--json", "as_json", is_flag=True, help="One Incident a line, as JSON.")
@click.option(
    "--rate-limit",
    type=click.IntRange(min=0),
    default=30,
    show_default=True,
    metavar="N",
    help="Look into at most N stalls a minute; 0: all.",
)
@click.option("--cpu", "cpu_percent", type=float, default=1.0, show_default=True, metavar="PERCENT", help="Share of one CPU for watching.")
@click.option("--spool", metavar="DIR", help="Where incidents are kept. [HANGWATCH_SPOOL]")
@click.option("--otlp", metavar="URL", help="Export to this OTLP/HTTP receiver, as http://127.0.0.1:4318.")
@click.option("--loop-after", metavar="S", help="A loop that has not come back for S seconds is blocked. [0.5]")
@click.option("--stall-after", metavar="S", help="A request without an answer for S seconds is stalled. [10]")
@click.option("--native", is_flag=True, help="Ask py-spy for native frames at a stall: it stops the target for some 50 ms.")
@click.option(
    "--full", is_flag=True, help="Follow every call on every connection, always: exact, but some microseconds a request on the whole host."
)
@click.option("--heads", is_flag=True, help="With eBPF, copy method and path out of the first bytes of requests.")
@click.option("--no-ebpf", is_flag=True, help="Do without eBPF: sample /proc.")
def command(names: tuple[str, ...], everything: bool, containers: tuple[str, ...], **given: Any) -> int:
    """Watch workers from outside, with nothing inside them: blocked event loops, connections without an answer.

    \b
    hangwatch watch --all                  every Python process of the host
    hangwatch watch :8000                  whoever serves port 8000
    hangwatch watch --json gunicorn        for programs

    Not told from outside: which request of an HTTP/2 connection waits, whether a quiet event stream or websocket is stuck, a request
    pipelined behind an answered one (with --heads: where both heads are short). `hangwatch attach` reads the server's own state.

    What is found is looked into as `hangwatch attach` does, kept in the spool, exported. Ctrl-C ends it.
    Exit status: 0 nothing found, 1 something was, 2 it cannot watch.
    """
    from hangwatch.watcher import Choice

    if not (names or everything or containers):
        raise click.UsageError("whom? hangwatch watch PID, hangwatch watch :8000, or hangwatch watch --all")
    settings = {name: given[name] for name in ("otlp", "loop_after", "stall_after") if given[name] is not None}
    if given["spool"]:
        settings["spool"] = Path(given["spool"]).expanduser()
    return _watch(Config.make(**settings), Choice(names, everything, containers), given)


def _watch(config: Config, choice: Choice, given: dict[str, Any]) -> int:
    from hangwatch.watcher import Watcher

    found: list[str] = []

    def told(incident: Incident) -> None:
        found.append(incident.id)
        _say(json.dumps(to_json(incident), ensure_ascii=True) if given["as_json"] else line(incident))

    def note(text: str) -> None:
        click.echo(f"hangwatch: {plain(text)}", err=True)

    watcher = Watcher(
        config,
        choice,
        told=told,
        note=note,
        rate_per_minute=given["rate_limit"],
        cpu_share=given["cpu_percent"] / 100,
        use_bpf=not given["no_ebpf"],
        native=given["native"],
        full=given["full"],
        heads=given["heads"],
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: watcher.stop())
    try:
        watcher.run()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    for what, count in sorted(watcher.dropped.items()):
        note(f"{what}: {count}")
    return 1 if found else 0


def _say(text: str) -> None:
    click.echo(text)
    sys.stdout.flush()


def line(incident: Incident) -> str:
    """``11:02:03  pid 4242 main:app  blocked-loop-io (likely): …  [id]``. Names come from strangers: control characters are shown, not obeyed."""
    moment = time.strftime("%H:%M:%S", time.localtime(incident.opened_at))
    who = f"pid {incident.snapshot.pid} {incident.service}".rstrip()
    first = incident.findings[0] if incident.findings else None
    said = f"{first.cause} ({first.confidence}): {first.title}" if first else f"{incident.stall.kind} stalled, no cause found"
    return plain(f"{moment}  {who}  {said}  [{incident.id.rpartition('-')[2]}]")


def plain(text: str) -> str:
    """The text with everything a terminal might obey made visible."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)
