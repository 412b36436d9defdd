"""The errors a person can meet, each with what that person can do next.

Only commands and ``install()`` raise these. Nothing that runs beside the application's own code raises at all.
"""

from __future__ import annotations


class HangwatchError(Exception):
    """Base of all. ``help_text`` is a paragraph about the next step; commands print it under the message."""

    help_text = ""

    def __init__(self, message: str, help_text: str = "") -> None:
        super().__init__(message)
        if help_text:
            self.help_text = help_text


class ConfigError(HangwatchError):
    """A setting that does not exist or has an impossible value."""

    help_text = "See `python -c 'import hangwatch; help(hangwatch.Config)'` for every setting, its unit and its default."


class SpoolError(HangwatchError):
    """The spool cannot be read or written."""

    help_text = "Name a folder this user may write with --spool DIR or HANGWATCH_SPOOL."


class NoSuchIncident(HangwatchError):
    """No incident has this id."""

    help_text = "`hangwatch incidents` lists the ids; the first characters are enough where they are unambiguous."


class CannotLook(HangwatchError):
    """A process cannot be examined: it is gone, not Python, or not ours to read. ``reason`` is one word for programs."""

    reason = ""


class ExportError(HangwatchError):
    """A receiver did not take what was sent."""

    help_text = "Is the collector there? `--otlp URL` takes its base address, as http://127.0.0.1:4318."
