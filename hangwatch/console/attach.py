"""``hangwatch attach``: what hangs in a process that was never prepared for it."""

from __future__ import annotations

import gc

import click

from hangwatch import attach as attaching
from hangwatch.attach.target import Worker, resolve
from hangwatch.errors import CannotLook, HangwatchError
from hangwatch.records import Incident, to_json


@click.command("attach")
@click.argument("target", required=False, metavar="[PID|NAME|:PORT]")
@click.option("--json", "as_json", is_flag=True, help="Print the incident as one JSON object.")
@click.option("--native", is_flag=True, help="Ask py-spy for native frames too: it stops the target for some 50 ms.")
@click.option("--watch", "watching", is_flag=True, help="Look again and again, drawn like top; q ends it.")
@click.option("--outside", is_flag=True, help="Read the memory even where an agent inside would answer.")
@click.option("--install", "what", flag_value="install", help="Bring the agent in. 3.14+: through the interpreter's own door.")
@click.option("--uninstall", "what", flag_value="uninstall", help="Take out the agent that --install brought in.")
@click.option(
    "--by-ptrace", is_flag=True, help="With these two: where there is no door, start a thread in the stopped process. Not without risk."
)
@click.option("--force", is_flag=True, help="With --by-ptrace: also where its owner has switched remote debugging off.")
@click.option("--spool", metavar="DIR", help="With --install: where the agent keeps incidents, as the process sees it.")
@click.option(
    "--core", type=click.Path(exists=True, dir_okay=False), help="Read a core file (gcore's or the kernel's) in place of a process."
)
def command(
    target: str | None,
    as_json: bool,
    native: bool,
    watching: bool,
    outside: bool,
    what: str | None,
    by_ptrace: bool,
    force: bool,
    spool: str | None,
    core: str | None,
) -> int:
    """Look at a running worker from outside: what hangs, who should have ended it, why that one does not.

    Its memory is read; it is not stopped, and no code runs in it unless --install says so. Python 3.9 to 3.15, asyncio and uvloop. A port
    (:8000) or a part of the command line may stand for the pid, and a master for its workers.

    \b
    hangwatch attach 4242
    hangwatch attach :8000 --watch
    hangwatch attach 4242 --json | jq -r '.findings[0].title'

    Exit status: 0 nothing found, 1 findings, 2 it cannot be looked at.
    """
    if (target is None) == (core is None):
        raise CannotLook("name a process or a core file", "hangwatch attach PID, hangwatch attach :8000, or hangwatch attach --core FILE")
    if core is not None:
        return _show(attaching.look_at_core(core), as_json)
    assert target is not None
    workers = resolve(target)
    if what:
        return _enter(workers, what, by_ptrace, force, spool)
    if watching:
        from hangwatch.console.watching import run

        return run(workers)
    if len(workers) == 1:
        return _show(attaching.look(workers[0].pid, native=native, outside=outside, meanwhile=_prepare), as_json)
    return _show_worst(workers, as_json, native, outside)


def _enter(workers: list[Worker], what: str, by_ptrace: bool, force: bool, spool: str | None) -> int:
    """Each worker by itself: one that cannot be entered does not keep the others from it."""
    from hangwatch.attach import entry
    from hangwatch.console.style import safe

    status = 0
    for worker in workers:
        try:
            if what == "uninstall":
                entry.uninstall(worker.pid, by_ptrace=by_ptrace, force=force)
                click.echo(f"{worker.pid}  the agent is out again")
            else:
                said = entry.install(worker.pid, by_ptrace=by_ptrace, force=force, **({"spool": spool} if spool else {}))
                click.echo(f"{worker.pid}  the agent is in; incidents: hangwatch incidents --spool {safe(str(said.get('spool')))}")
        except HangwatchError as error:
            status = 2
            click.echo(f"hangwatch: {error}\n{error.help_text}".rstrip(), err=True)
    return status


def _show_worst(workers: list[Worker], as_json: bool, native: bool, outside: bool) -> int:
    """Several workers: each is looked at, the one with the surest findings is told, the others in a line each."""
    seen: list[tuple[Worker, Incident]] = []
    refused: HangwatchError | None = None
    for worker in workers:
        try:
            seen.append((worker, attaching.look(worker.pid, native=native, outside=outside)))
        except HangwatchError as error:
            refused = error
            click.echo(f"{worker.pid}  {error}", err=True)
    if not seen:
        raise refused or CannotLook("none of these processes can be looked at")
    seen.sort(key=lambda pair: _rank(pair[1]))
    for worker, incident in seen:
        said = incident.findings[0].title if incident.findings else "nothing stands still"
        click.echo(f"{worker.pid}  {worker.command}\n    {said}", err=True)
    return _show(seen[0][1], as_json)


def _rank(incident: Incident) -> tuple[int, int]:
    sure = {"proved": 0, "likely": 1, "suspected": 2}
    first = incident.findings[0] if incident.findings else None
    return (sure.get(first.confidence, 3) if first else 4, -(first.frees if first else 0))


def _prepare() -> None:
    """What shows the verdict, imported before it is there."""
    import hangwatch.console.options
    import hangwatch.console.render  # noqa: F401


def _show(incident: Incident, as_json: bool) -> int:
    # All that was seen stays until the process ends, which is soon: the collector would only walk through it.
    gc.freeze()
    if as_json:
        import json

        click.echo(json.dumps(to_json(incident), ensure_ascii=False))
    else:
        _print(incident)
    return 1 if incident.findings else 0


def _print(incident: Incident) -> None:
    """The page of `hangwatch show`; a short word when there is nothing to show."""
    from hangwatch.console.options import emit, paint
    from hangwatch.console.style import safe, width_of_terminal

    if incident.findings:
        from hangwatch.console.render import incident_lines

        emit(incident_lines(incident, width_of_terminal(), paint()))
        return
    seen = incident.snapshot
    click.echo(
        f"pid {seen.pid}, Python {seen.versions.get('python', '?')}: {len(seen.tasks)} tasks, {len(seen.requests)} requests,"
        f" {len(seen.threads)} threads. Nothing stands still that should move."
    )
    for gap in seen.gaps:
        click.echo(f"not seen: {safe(gap)}")
