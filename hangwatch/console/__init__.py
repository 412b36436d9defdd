"""The commands, one file each (click), and `render`: records -> lines. May import everything; imported by nothing.

To add one: a module here with a click command named ``command`` that returns its exit status, one row in ``COMMANDS``.
Exit status: 0 nothing found, 1 findings, 2 usage or cannot look (with the next step on stderr).
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence

import click

from hangwatch import __version__
from hangwatch.errors import HangwatchError

#: In the order of `--help`, each with its line there (short enough for 80 columns); the module of each has its name.
COMMANDS = {
    "run": "Run a service with the agent inside.",
    "attach": "Look at a running worker from outside.",
    "watch": "Watch workers from outside by eBPF; say what stalls.",
    "incidents": "What hung, newest last.",
    "show": "Why it hung, who should have ended it, what to do.",
    "report": "The same as one HTML file, to pass on.",
    "export": "Send incidents to an OTLP/HTTP receiver.",
    "prune": "Remove old incidents.",
    "doctor": "What works here, what does not and how to get it.",
    "demo": "A real hang, caught and explained before your eyes.",
    "completion": "Print what makes the shell complete.",
}


class Commands(click.Group):
    """Imports a command's module when it is used, so that `hangwatch run` costs a service no more than it must."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = importlib.import_module(f"hangwatch.console.{cmd_name}").command
        found.name = cmd_name  # every module calls it `command`; click 7 completes by this name
        found.short_help = COMMANDS[cmd_name]
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's own, but nothing is imported for it."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hangwatch")
def cli() -> None:
    """Says which request of an asyncio service hangs, on what, and who should have ended the wait.

    \b
    hangwatch run -- uvicorn app:app     the service with the agent inside, no code change
    hangwatch incidents                  what hung
    hangwatch show last                  why, and what to do
    hangwatch attach PID                 a worker that has no agent inside
    hangwatch demo                       a real hang, caught before your eyes

    Exit status: 0 nothing found, 1 findings, 2 usage or cannot look. Colours respect NO_COLOR.
    """


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the ``hangwatch`` script. Every error a person can meet ends in words and a next step, never a traceback."""
    _print_what_can_be_printed()
    try:
        status = cli.main(args=None if argv is None else list(argv), prog_name="hangwatch", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status = 2
    except click.Abort:
        click.echo("stopped", err=True)
        status = 130
    except HangwatchError as error:
        click.echo(f"hangwatch: {error}", err=True)
        if error.help_text:
            click.echo(error.help_text, err=True)
        status = 2
    except BrokenPipeError:
        # `hangwatch show last | head`: the reader has seen enough. Python would complain once more at exit.
        sys.stderr.close()
        status = 0
    except Exception as error:
        if os.environ.get("HANGWATCH_DEBUG"):
            raise
        click.echo(f"hangwatch: this is a defect of hangwatch: {type(error).__name__}: {error}", err=True)
        click.echo("HANGWATCH_DEBUG=1 shows where. Please report it.", err=True)
        status = 2
    sys.exit(status if isinstance(status, int) else 0)


def _print_what_can_be_printed() -> None:
    """A terminal without Unicode shows a question mark in place of an arrow, rather than nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
