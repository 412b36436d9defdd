"""``hangwatch prune``: makes room in the spool."""

from __future__ import annotations

import time

import click

from hangwatch.config import Config
from hangwatch.console.options import spool_option, spool_path
from hangwatch.errors import ConfigError
from hangwatch.store import Store


@click.command()
@spool_option
@click.option("--days", type=float, metavar="D", help="Keep incidents of the last D days. [14]")
@click.option("--mb", type=float, metavar="MB", help="Keep at most this many megabytes, the newest. [200]")
@click.option("--all", "everything", is_flag=True, help="Remove every incident.")
def command(spool: str | None, days: float | None, mb: float | None, everything: bool) -> int:
    """Remove old incidents. The agent does so by itself whenever it stores one.

    \b
    hangwatch prune --days 3
    hangwatch prune --mb 50 --spool /var/lib/hangwatch
    """
    if (days is not None and days < 0) or (mb is not None and mb < 0):
        raise ConfigError("--days and --mb are not negative")
    config = Config.make()
    store = Store(spool_path(spool), config.spool_max_mb if mb is None else mb, config.spool_max_days if days is None else days)
    if everything:
        store.max_bytes = 0
    removed = store.prune(time.time())
    click.echo(f"{removed} removed, {len(store.ids())} kept in {store.root}")
    return 0
