"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hangwatch.config import default_spool
from hangwatch.store import Store

F = TypeVar("F", bound=Callable[..., Any])


def spool_option(command: F) -> F:
    """``--spool DIR``, else HANGWATCH_SPOOL, else the default place."""
    return click.option("--spool", type=click.Path(file_okay=False), metavar="DIR", help="Where incidents are kept. [HANGWATCH_SPOOL]")(
        command
    )


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Machine readable: the records, one JSON value.")(command)


def spool_path(spool: str | None) -> Path:
    return Path(spool or os.environ.get("HANGWATCH_SPOOL") or default_spool()).expanduser()


def open_store(spool: str | None) -> Store:
    """The spool for reading. Raises SpoolError."""
    return Store(spool_path(spool))
