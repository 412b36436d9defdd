"""``hangwatch run``: any Python service with the agent inside, no code change."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import click

import hangwatch
from hangwatch.config import Config
from hangwatch.errors import HangwatchError

PRELOAD = Path(hangwatch.__file__).parent / "preload"


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--spool", metavar="DIR", help="Where incidents are kept. [HANGWATCH_SPOOL]")
@click.option("--stall-after", metavar="S", help="A request older than S seconds is stalled. [10]")
@click.option("--loop-after", metavar="S", help="A loop without a sign of life for S seconds is blocked. [0.5]")
@click.option(
    "--route", "routes", multiple=True, metavar="PATTERN=S", help="Own limit of a route, 'none' for never: --route '/events=none'."
)
@click.option("--otlp", metavar="URL", help="Export to this OTLP/HTTP receiver, as http://127.0.0.1:4318.")
@click.option("--service", metavar="NAME", help="service.name of what is stored and exported.")
@click.option("--no-pyspy", is_flag=True, help="Never run py-spy, which stops the process for some milliseconds.")
@click.argument("command_line", nargs=-1, type=click.UNPROCESSED, metavar="-- CMD…")
def command(
    spool: str | None,
    stall_after: str | None,
    loop_after: str | None,
    routes: tuple[str, ...],
    otlp: str | None,
    service: str | None,
    no_pyspy: bool,
    command_line: tuple[str, ...],
) -> int:
    """Run a service with the agent inside. Its output, signals and exit status are its own.

    \b
    hangwatch run -- uvicorn app:app
    hangwatch run --stall-after 5 -- python app.py
    hangwatch run -- gunicorn -k uvicorn.workers.UvicornWorker app:app

    Everything the command forks or spawns is watched too. What it finds: `hangwatch incidents`.
    """
    given = {
        "HANGWATCH_SPOOL": str(Path(spool).expanduser().absolute()) if spool else None,
        "HANGWATCH_STALL_AFTER": stall_after,
        "HANGWATCH_LOOP_AFTER": loop_after,
        "HANGWATCH_ROUTES": ",".join([*routes, *filter(None, [os.environ.get("HANGWATCH_ROUTES")])]) or None,
        "HANGWATCH_OTLP": otlp,
        "HANGWATCH_SERVICE": service,
        "HANGWATCH_PYSPY": "0" if no_pyspy else None,
    }
    environ = {**os.environ, **{name: value for name, value in given.items() if value is not None}, "HANGWATCH_RUN": "1"}
    Config.make(environ)  # a bad setting is told here, not in the service's output
    if not command_line:
        raise click.UsageError("which command? hangwatch run -- uvicorn app:app")
    program = shutil.which(command_line[0])
    if program is None:
        raise HangwatchError(f"{command_line[0]!r} is not found", "It is looked for on PATH; is the service's virtual environment active?")
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PRELOAD), environ.get("PYTHONPATH")]))
    os.execve(program, list(command_line), environ)
