"""Spans and log records as plain values, before any telemetry library is involved.

Plain, so that they can be made by the detecting thread, wait on disk for a receiver that is down, and be sent by a later process.

Ids are derived from the incident's id, so that any process can link to a span that another one sent.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from hangwatch import names
from hangwatch.records import Incident, Request, Snapshot

#: Tempo cuts every attribute value at 2048 bytes, and with it the end of a stack.
MAX_VALUE_BYTES = 1990
Value = str | int | bool


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """A link to another span, ids in lower hex."""

    trace_id: str
    span_id: str
    attributes: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EventSpec:
    """A span event, ``at_ns`` since the epoch."""

    name: str
    at_ns: int
    attributes: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SpanSpec:
    """One ended span. Times in ns since the epoch; ``parent_id`` empty for a root; ``remote``: the parent is another's span.

    ``error`` is the status description; empty leaves the status unset.
    """

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    remote: bool
    start_ns: int
    end_ns: int
    attributes: dict[str, Value] = field(default_factory=dict)
    links: tuple[LinkSpec, ...] = ()
    events: tuple[EventSpec, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class LogSpec:
    """One log record. ``severity`` is OpenTelemetry's number (9 info, 13 warn, 17 error); ids empty where there is no span."""

    event_name: str
    at_ns: int
    severity: int
    body: str
    trace_id: str
    span_id: str
    attributes: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is sent, or kept, as one: the spans or the log records of one thing that happened to one incident.

    ``key`` is a file name's stem, unique, sortable by the time it was written. ``resource`` is of the process that hung, which need not
    be the one that sends.
    """

    key: str
    signal: str
    incident_id: str
    resource: dict[str, Value]
    spans: tuple[SpanSpec, ...] = ()
    logs: tuple[LogSpec, ...] = ()


def derived_id(incident_id: str, role: str, n_bytes: int) -> str:
    """``n_bytes`` of lower hex, never all zero; the same for the same incident and role in every process."""
    digest = hashlib.sha256(f"{incident_id}/{role}".encode()).hexdigest()[: n_bytes * 2]
    return digest if digest.strip("0") else "1" * (n_bytes * 2)


def clip(text: str, limit: int = MAX_VALUE_BYTES) -> str:
    """At most ``limit`` bytes of UTF-8; what is too long loses its middle: both ends of a stack or a sentence tell more."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= limit:
        return raw.decode()
    half = (limit - 5) // 2
    return raw[:half].decode("utf-8", "ignore") + " ... "[: limit - 2 * half] + raw[-half:].decode("utf-8", "ignore")


def clean(attributes: dict[str, Value | None]) -> dict[str, Value]:
    """Without what is unknown, strings clipped, order kept."""
    return {
        name: clip(value) if isinstance(value, str) else value for name, value in attributes.items() if value is not None and value != ""
    }


def wall_ns(snapshot: Snapshot, monotonic_ns: int) -> int:
    """A monotonic time of the snapshot's process as ns since the epoch."""
    return int(snapshot.taken_at * 1e9) + monotonic_ns - snapshot.at_ns


def traced(request: Request | None) -> bool:
    """Is this request in a trace that a back-end will have? (An unsampled parent would leave our span an orphan there.)"""
    return request is not None and bool(request.trace_id) and bool(request.span_id) and request.sampled is not False


def resource_of(incident: Incident) -> dict[str, Value]:
    """Attributes of the process that hung."""
    pid = incident.snapshot.pid
    instance = f"{incident.host}:{pid}" if incident.host else None
    return clean(
        {
            names.SERVICE_NAME: incident.service,
            names.SERVICE_INSTANCE_ID: instance,
            names.HOST_NAME: incident.host,
            names.PROCESS_PID: pid,
        }
    )
