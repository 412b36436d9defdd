"""The span that an instrumented application has open for a request, read out of its task's context. Imports nothing of OpenTelemetry.

A stall belongs below that span, not beside it below the caller's. But contexts are inherited: uvicorn starts a pipelined request in the
context of the one before, whose span then seems current. So a span counts only when it was begun after the request was; from outside, where
that is not known, when it is of the trace that the request came with.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from hangwatch.integrations.base import Desk
from hangwatch.reading.view import ObjectView, TaskView
from hangwatch.records import Request

NAME = "opentelemetry"
#: Of opentelemetry.context.contextvars_context; the entry's key has a random end.
VARIABLE = "current_context"
KEY = "current-span-"
_LIMIT = 100


@dataclass(frozen=True, slots=True)
class ActiveSpan:
    """``began_ns`` since the epoch. Ids in lower hex."""

    trace_id: str
    span_id: str
    sampled: bool
    began_ns: int


def active_span(task: TaskView) -> ActiveSpan | None:
    """The span that is current in this task, where it is recording (the SDK's, begun and not ended)."""
    context = task.context(VARIABLE)
    for key, span in context.pairs(_LIMIT) if context is not None else ():
        name = key.value()
        if isinstance(name, str) and name.startswith(KEY):
            return _of(span)
    return None


def _of(span: ObjectView) -> ActiveSpan | None:
    began, ended, identity = span.attr("_start_time"), span.attr("_end_time"), span.attr("_context")
    began_ns = began.value() if began is not None else None
    if identity is None or not isinstance(began_ns, int) or (ended is not None and ended.value() is not None):
        return None
    # SpanContext is a tuple: trace id, span id, is it remote, flags, state, is it valid.
    parts = [part for item in identity.items(4) if isinstance(part := item.value(), int)]
    if len(parts) < 4 or not parts[0] or not parts[1] or parts[2]:
        return None
    return ActiveSpan(f"{parts[0]:032x}", f"{parts[1]:016x}", bool(parts[3] & 1), began_ns)


def note(request_id: str, task: TaskView, desk: Desk) -> None:
    """Keeps what the request's own task has current, until all that is known of the request has come together."""
    span = active_span(task)
    if span is not None:
        desk.memo.setdefault(NAME, {}).setdefault(request_id, span)


def in_its_span(request: Request, desk: Desk) -> Request:
    """The request with its own span in place of its caller's."""
    span: ActiveSpan | None = desk.memo.get(NAME, {}).get(request.id)
    if span is None or not _is_of(span, request):
        return request
    return replace(request, trace_id=span.trace_id, span_id=span.span_id, sampled=span.sampled)


def _is_of(span: ActiveSpan, request: Request) -> bool:
    if request.since_ns is None:  # seen from outside
        return span.trace_id == request.trace_id
    return span.began_ns >= request.since_ns + time.time_ns() - time.monotonic_ns()
