"""What every ASGI server's requests have in common: the scope, whose request it is, what a call of ``receive`` is meant for."""

from __future__ import annotations

from collections.abc import Mapping

from hangwatch.integrations.base import Look
from hangwatch.reading.view import FrameView, ObjectView, plain
from hangwatch.records import Request

#: Headers looked at for ``traceparent``; more than any proxy lets through.
_HEADERS_LIMIT = 200
_LIFESPAN = "LIFESPAN"


def fields_of(mapping: ObjectView | None) -> dict[str, ObjectView]:
    """The values of a dict by those of its keys that are strings."""
    found = {}
    for key, value in mapping.pairs(_HEADERS_LIMIT) if mapping is not None else []:
        name = key.value()
        if isinstance(name, str):
            found[name] = value
    return found


def text(view: ObjectView | None) -> str:
    value = view.value() if view is not None else None
    return value if isinstance(value, str) else ""


def trace_of(headers: ObjectView | None) -> tuple[str | None, str | None, bool | None]:
    """Trace id, span id and sampled flag from ``traceparent`` (W3C Trace Context, version 00 and later ones that begin alike)."""
    for pair in headers.items(_HEADERS_LIMIT) if headers is not None else []:
        parts = [item.value() for item in pair.items(2)]
        if len(parts) != 2 or not isinstance(parts[0], bytes) or parts[0].lower() != b"traceparent" or not isinstance(parts[1], bytes):
            continue
        ids = parts[1].decode("ascii", "replace").strip().lower().split("-")
        if len(ids) >= 4 and len(ids[1]) == 32 and len(ids[2]) == 16:
            return ids[1], ids[2], ids[3][-1:] in "13579bdf"
    return None, None, None


def route_of(scope: Mapping[str, ObjectView]) -> str:
    """The pattern of the route that the framework chose (``/orders/{id}``), else the path; without its query string."""
    route = scope.get("route")
    pattern = (plain(route, "path_format") or plain(route, "path")) if route is not None else None
    return pattern if isinstance(pattern, str) and pattern else text(scope.get("path")).partition("?")[0]


def request_of(
    request_id: str,
    scope: ObjectView | None,
    phase: str,
    connection_id: str | None = None,
    task_id: str | None = None,
    body_complete: bool | None = None,
) -> Request | None:
    """The request of a scope; None for a lifespan's scope and for what is no scope."""
    fields = fields_of(scope)
    kind = text(fields.get("type"))
    if kind not in ("http", "websocket"):
        return None
    trace_id, span_id, sampled = trace_of(fields.get("headers"))
    return Request(
        id=request_id,
        connection_id=connection_id,
        task_id=task_id,
        method=text(fields.get("method")) or ("WEBSOCKET" if kind == "websocket" else ""),
        route=route_of(fields),
        since_ns=None,
        phase=phase,
        trace_id=trace_id,
        span_id=span_id,
        sampled=sampled,
        body_complete=body_complete,
    )


def client_text(scope: ObjectView | None) -> str | None:
    """``10.0.0.1:5123`` of a scope's ``client``."""
    parts = [str(item.value()) for item in client.items(2)] if (client := fields_of(scope).get("client")) is not None else []
    return ":".join(parts) or None


def meant_for(look: Look) -> str | None:
    """What the one who called ``receive`` wants: ``body``, ``disconnect``, or None where its frames do not tell."""
    for frame in reversed(look.chain[: look.index]):
        wanted = _wanted(frame)
        if wanted is not None:
            return wanted
    return None


def _wanted(frame: FrameView) -> str | None:
    if "disconnect" in frame.name and frame.name != "receive_or_disconnect":
        return "disconnect"
    if frame.name in ("stream", "body", "_get_form") and frame.file.endswith("/requests.py"):
        return "body"
    return None
