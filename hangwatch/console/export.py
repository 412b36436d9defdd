"""``hangwatch export``: sends stored incidents to an OTLP receiver."""

from __future__ import annotations

from typing import Any

import click

from hangwatch.config import Config
from hangwatch.console.options import open_store, spool_option, spool_path
from hangwatch.errors import ConfigError, ExportError, NoSuchIncident


@click.command()
@click.argument("ids", nargs=-1, metavar="ID…")
@click.option("--all", "everything", is_flag=True, help="Every incident in the spool, oldest first.")
@click.option("--otlp", metavar="URL", help="Base address of the receiver. [OTEL_EXPORTER_OTLP_ENDPOINT]")
@spool_option
def command(ids: tuple[str, ...], everything: bool, otlp: str | None, spool: str | None) -> int:
    """Send incidents as traces (and log records) to an OTLP/HTTP receiver.

    Ids are as `hangwatch incidents` lists them; their first characters are enough. Sent to the same receiver a second time, an
    incident shows its spans twice there.

    \b
    hangwatch export 20260101T0000 --otlp http://collector:4318
    hangwatch export --all
    """
    if not ids and not everything:
        raise NoSuchIncident("name incidents, or --all")
    if ids and everything:
        raise NoSuchIncident("name incidents or --all, not both")
    given: dict[str, Any] = {"spool": spool_path(spool)}
    if otlp:
        given["otlp"] = otlp
    config = Config.make(**given)
    if config.otlp is None:
        raise ConfigError("no receiver to send to", "Name one with --otlp http://127.0.0.1:4318 or OTEL_EXPORTER_OTLP_ENDPOINT.")
    store = open_store(spool)
    if everything and not store.ids():
        click.echo(f"No incident in {store.root}.", err=True)
        return 0
    from hangwatch.export import once

    try:
        report = once.send(store.each() if everything else (store.load(name) for name in ids), config)
    except ImportError as error:
        raise ExportError(f"OpenTelemetry cannot be imported: {error}", "pip install hangwatch installs it.") from None
    if report.reason:
        raise ExportError(f"{report.sent} of {report.total} incidents sent to {config.otlp}, then: {report.reason}")
    extra = " (it takes no log records)" if report.logs is False else ""
    click.echo(f"{report.sent} incident{'' if report.sent == 1 else 's'} sent to {config.otlp}{extra}")
    return 0
