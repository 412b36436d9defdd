"""Incident -> the parcels that tell it, by what the settings ask for: spans always, log records where ``events`` says so."""

from __future__ import annotations

import itertools
import time

from hangwatch.config import Config
from hangwatch.export import story
from hangwatch.export.specs import LogSpec, Parcel, SpanSpec, Value, resource_of
from hangwatch.records import Incident

_numbers = itertools.count()


def of_stall(incident: Incident, config: Config, extra: dict[str, Value] | None = None) -> list[Parcel]:
    """What is told when it is detected. ``extra`` resource attributes do not replace the incident's own."""
    spans = story.stall_spans(incident, events=config.events != "logs")
    logs = story.stall_logs(incident) if config.events != "span" else ()
    return _pack(incident, "stall", spans, logs, extra or {})


def of_end(incident: Incident, config: Config, how: str, ended_ns: int, extra: dict[str, Value] | None = None) -> list[Parcel]:
    """What is told when it is over. ``how``: recovered, shutdown or killed; ``ended_ns`` since the epoch."""
    spans = story.ended_spans(incident, how, ended_ns, events=config.events != "logs")
    logs = story.ended_logs(incident, how, ended_ns) if config.events != "span" else ()
    return _pack(incident, "ended", spans, logs, extra or {})


def _pack(incident: Incident, part: str, spans: tuple[SpanSpec, ...], logs: tuple[LogSpec, ...], extra: dict[str, Value]) -> list[Parcel]:
    key = key_of(incident.id, part)
    resource = {**extra, **resource_of(incident)}
    parcels = [Parcel(key, "traces", incident.id, resource, spans=spans)]
    if logs:
        parcels.append(Parcel(key, "logs", incident.id, resource, logs=logs))
    return parcels


def key_of(incident_id: str, part: str) -> str:
    """A file name's stem, unique in this process, sortable by time."""
    safe_id = "".join(c if c.isalnum() or c in "-_" else "_" for c in incident_id)[:100]
    return f"{time.time_ns():020d}-{next(_numbers) % 1_000_000:06d}-{part}-{safe_id}"
