"""What spans say of places in the code, requests and waits, under the names of semantic conventions where those have one."""

from __future__ import annotations

from hangwatch import names
from hangwatch.export.chain import Hop, Index
from hangwatch.export.specs import Value, clean
from hangwatch.records import Frame, Incident, Request, Snapshot

#: The methods that semantic conventions know; others become ``_OTHER`` so that the attribute stays countable.
METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"))


def code_of(frame: Frame | None) -> dict[str, Value | None]:
    if frame is None:
        return {}
    return {names.CODE_FUNCTION: frame.function, names.CODE_FILE: frame.file, names.CODE_LINE: frame.line}


def stack_of(frames: tuple[Frame, ...]) -> str:
    """Innermost first: what a back-end cuts is the end."""
    return "\n".join(f"{frame.function} ({frame.file}:{frame.line})" for frame in reversed(frames))


def http_of(request: Request | None, snapshot: Snapshot) -> dict[str, Value | None]:
    if request is None:
        return {}
    known = request.method.upper() in METHODS
    pattern = "{" in request.route
    age = None if request.since_ns is None else (snapshot.at_ns - request.since_ns) // 1_000_000
    connection = next((c for c in snapshot.connections if c.id == request.connection_id), None)
    address, port = _address(connection.client if connection else None)
    return {
        names.HTTP_METHOD: (request.method.upper() if known else "_OTHER") if request.method else None,
        names.HTTP_METHOD_ORIGINAL: None if known else request.method,
        names.HTTP_ROUTE: request.route if pattern else None,
        names.URL_PATH: None if pattern else request.route,
        names.CLIENT_ADDRESS: address,
        names.CLIENT_PORT: port,
        names.REQUEST_PHASE: request.phase,
        names.REQUEST_AGE_MS: age,
    }


def wait_of(incident: Incident, index: Index, hop: Hop, age_ms: int) -> dict[str, Value]:
    """Of one wait in the chain."""
    return clean(
        {
            **code_of(hop.wait.frame),
            names.WAITER: index.label(hop.wait.task_id),
            names.WAIT_OP: hop.wait.op,
            names.WAIT_FOR: hop.primitive.label,
            names.WAIT_KIND: hop.primitive.kind,
            names.WAIT_LIBRARY: hop.primitive.library,
            names.WAIT_AGE_MS: age_ms,
            names.WAIT_SINCE_KNOWN: hop.wait.since_ns is not None,
            names.WAIT_HOLDER: index.label(hop.holder_id) if hop.holder_id else None,
            names.WAIT_HOLDERS_OTHER: hop.others or None,
            names.WAIT_CYCLE: hop.cycle or None,
            names.INCIDENT_ID: incident.id,
        }
    )


def _address(client: str | None) -> tuple[str | None, int | None]:
    host, colon, port = (client or "").rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.startswith("[")):
        return host.strip("[]"), int(port)
    return client or None, None
