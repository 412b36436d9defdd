"""Span specs -> the OpenTelemetry SDK -> OTLP/HTTP.

An own TracerProvider, always on: the application's sampler cannot silence a stall, and its processors never see our spans. No batch
processor: the export thread sends itself, knows what arrived, and keeps what did not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hangwatch import names
from hangwatch.config import Config
from hangwatch.export.dial import make_exporter
from hangwatch.export.specs import LinkSpec, Parcel, SpanSpec, Value
from hangwatch.export.wire import Outcome, Providers, breathe, outcome, unobserved
from hangwatch.version import VERSION


class TraceSender:
    """Sends parcels of spans. Import of the SDK happens here, so make it on the export thread. Not for use by several threads."""

    def __init__(self, config: Config, timeout_s: float) -> None:

        self._exporter, self._session = make_exporter("traces", config, timeout_s)
        self._ids = _preset_ids()
        self._ended: list[Any] = []
        self._providers = Providers(self._provider)
        with unobserved():  # what the SDK imports and sets up late is there from now on
            self._providers.of({})

    def _provider(self, resource: Any) -> Any:
        from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        ended = self._ended

        class Collect(SpanProcessor):
            def on_end(self, span: Any) -> None:
                ended.append(span)

        limits = SpanLimits(max_span_attributes=128, max_events=128, max_links=128)
        provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False, id_generator=self._ids, span_limits=limits)
        provider.add_span_processor(Collect())
        return provider

    def send(self, parcels: Sequence[Parcel]) -> Outcome:
        """One request with all of them; blocks for at most about the timeout. Raises nothing that the SDK does not."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        self._ended.clear()
        for parcel in parcels:
            tracer = self._providers.of(parcel.resource).get_tracer(names.SCOPE, VERSION, names.SCHEMA_URL)
            for spec in parcel.spans:
                self._record(tracer, spec)
                breathe()
        if not self._ended:
            return Outcome(True)
        try:
            with unobserved():
                result = self._exporter.export(list(self._ended))
        except Exception as error:
            return outcome(False, self._session) if self._session else Outcome(False, True, type(error).__name__)
        finally:
            self._ended.clear()
        return outcome(result is SpanExportResult.SUCCESS, self._session)

    def _record(self, tracer: Any, spec: SpanSpec) -> None:
        from opentelemetry.trace import Link, Status, StatusCode

        self._ids.trace_id, self._ids.span_id = int(spec.trace_id, 16), int(spec.span_id, 16)
        links = [Link(_context(link), dict(link.attributes)) for link in spec.links]
        attributes: dict[str, Value] = dict(spec.attributes)
        span = tracer.start_span(spec.name, _parent(spec), attributes=attributes, links=links, start_time=spec.start_ns)
        for event in spec.events:
            span.add_event(event.name, dict(event.attributes), timestamp=event.at_ns)
        if spec.error:
            span.set_status(Status(StatusCode.ERROR, spec.error))
        span.end(end_time=spec.end_ns)

    def close(self) -> None:
        self._exporter.shutdown()


def _parent(spec: SpanSpec) -> Any:
    """The context to start a span in: its given parent, never whatever span happens to be current."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if not spec.parent_id:
        return Context()
    parent = SpanContext(int(spec.trace_id, 16), int(spec.parent_id, 16), spec.remote, TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _context(link: LinkSpec) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(int(link.trace_id, 16), int(link.span_id, 16), True, TraceFlags(TraceFlags.SAMPLED))


def _preset_ids() -> Any:
    """An id generator that gives the ids of the span about to be started."""
    from opentelemetry.sdk.trace.id_generator import IdGenerator

    class PresetIds(IdGenerator):
        trace_id = 1
        span_id = 1

        def generate_trace_id(self) -> int:
            return self.trace_id

        def generate_span_id(self) -> int:
            return self.span_id

    return PresetIds()
