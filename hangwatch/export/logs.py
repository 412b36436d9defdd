"""Log specs -> the SDK's log records -> OTLP/HTTP. Span events are on their way out; log records with an event name replace them.

The SDK's log API is not declared stable and moved between 1.15 and today; the three places where it did are each one function here. Where
a version has no ``event_name``, the attribute ``event.name`` carries it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from hangwatch import names
from hangwatch.config import Config
from hangwatch.export.dial import make_exporter
from hangwatch.export.specs import LogSpec, Parcel
from hangwatch.export.wire import Outcome, Providers, breathe, outcome, unobserved
from hangwatch.version import VERSION

#: Where log records had no event name of their own yet.
EVENT_NAME_ATTRIBUTE = "event.name"


class LogSender:
    """Sends parcels of log records. Make it on the export thread. Not for use by several threads."""

    def __init__(self, config: Config, timeout_s: float) -> None:

        self._exporter, self._session = make_exporter("logs", config, timeout_s)
        self._emitted: list[Any] = []
        self._providers = Providers(self._provider)
        self._record_class = _record_class()
        self._known = set(inspect.signature(self._record_class.__init__).parameters)
        with unobserved():  # what the SDK imports and sets up late is there from now on
            self._providers.of({})

    def _provider(self, resource: Any) -> Any:
        from opentelemetry.sdk._logs import LoggerProvider

        provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_log_record_processor(_collector(self._emitted))
        return provider

    def send(self, parcels: Sequence[Parcel]) -> Outcome:
        """One request with all of them; blocks for at most about the timeout."""
        self._emitted.clear()
        for parcel in parcels:
            provider = self._providers.of(parcel.resource)
            for spec in parcel.logs:
                _logger(provider).emit(self._record(spec, provider.resource))
                breathe()
        if not self._emitted:
            return Outcome(True)
        try:
            with unobserved():
                result = self._exporter.export([_readable(record) for record in self._emitted])
        except Exception as error:
            return outcome(False, self._session) if self._session else Outcome(False, True, type(error).__name__)
        finally:
            self._emitted.clear()
        return outcome(getattr(result, "name", "") == "SUCCESS", self._session)

    def _record(self, spec: LogSpec, resource: Any) -> Any:
        """A record by whichever of the constructor's parameters this version knows."""
        from opentelemetry.trace import TraceFlags

        attributes = dict(spec.attributes)
        if "event_name" not in self._known:
            attributes[EVENT_NAME_ATTRIBUTE] = spec.event_name
        ids: dict[str, Any] = {"trace_id": int(spec.trace_id, 16), "span_id": int(spec.span_id, 16), "trace_flags": TraceFlags(1)}
        if "trace_id" not in self._known or "context" in self._known:
            ids = {"context": _context(spec)}
        given = {
            "timestamp": spec.at_ns,
            "observed_timestamp": spec.at_ns,
            "severity_number": _severity(spec.severity),
            "severity_text": "ERROR" if spec.severity >= 17 else "INFO",
            "body": spec.body,
            "attributes": attributes,
            "event_name": spec.event_name,
            "resource": resource,
            **ids,
        }
        return self._record_class(**{name: value for name, value in given.items() if name in self._known})

    def close(self) -> None:
        self._exporter.shutdown()


def _record_class() -> Any:
    """Until 1.3x the SDK had its own LogRecord, which carries the resource; since then loggers take the API's."""
    import opentelemetry._logs as api
    import opentelemetry.sdk._logs as sdk

    return getattr(sdk, "LogRecord", None) or api.LogRecord


def _severity(number: int) -> Any:
    try:
        from opentelemetry._logs import SeverityNumber
    except ImportError:
        from opentelemetry.sdk._logs import SeverityNumber  # type: ignore[attr-defined,no-redef]
    return SeverityNumber(number)


def _context(spec: LogSpec) -> Any:
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    span = SpanContext(int(spec.trace_id, 16), int(spec.span_id, 16), False, TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(span), Context())


def _logger(provider: Any) -> Any:
    try:
        return provider.get_logger(names.SCOPE, VERSION, schema_url=names.SCHEMA_URL)
    except TypeError:
        return provider.get_logger(names.SCOPE, VERSION)


def _collector(emitted: list[Any]) -> Any:
    """A processor under both names its method has had."""
    from opentelemetry.sdk._logs import LogRecordProcessor

    class Collect(LogRecordProcessor):
        def on_emit(self, log_record: Any) -> None:
            emitted.append(log_record)

        def emit(self, log_data: Any) -> None:
            emitted.append(log_data)

        def shutdown(self) -> None:
            pass

        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return True

    return Collect()


def _readable(record: Any) -> Any:
    """What exporters take: since 1.4x a read-only twin of what processors are given."""
    import opentelemetry.sdk._logs as sdk

    readable = getattr(sdk, "ReadableLogRecord", None)
    if readable is None or isinstance(record, readable):
        return record
    return readable(
        log_record=record.log_record, resource=record.resource, instrumentation_scope=record.instrumentation_scope, limits=record.limits
    )
