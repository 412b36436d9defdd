"""Families -> the SDK's metric data -> OTLP/HTTP. No instruments and no MeterProvider: the numbers exist already."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from typing import Any

from hangwatch import names
from hangwatch.config import Config
from hangwatch.export.dial import make_exporter
from hangwatch.export.families import Distribution, Exemplar, Family, Labels, Point
from hangwatch.export.specs import Value
from hangwatch.export.wire import Outcome, outcome, unobserved
from hangwatch.version import VERSION


class MetricSender:
    """Sends families, counted since ``began_ns`` (since the epoch). Make it on the export thread. Not for use by several threads."""

    def __init__(self, config: Config, timeout_s: float, resource: dict[str, Value], began_ns: int) -> None:
        from opentelemetry.sdk.resources import Resource

        self._exporter, self._session = make_exporter("metrics", config, timeout_s)
        self._began_ns = began_ns
        with unobserved():
            self._resource = Resource.create(dict(resource))

    def send(self, families: Iterable[Family], now_ns: int | None = None) -> Outcome:
        """One request; blocks for at most about the timeout. ``now_ns`` since the epoch."""
        from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        at_ns = time.time_ns() if now_ns is None else now_ns
        made = [self._metric(family, at_ns) for family in families if family.points or family.distributions]
        scope = InstrumentationScope(names.SCOPE, VERSION, names.SCHEMA_URL)
        data = MetricsData([ResourceMetrics(self._resource, [ScopeMetrics(scope, made, names.SCHEMA_URL)], names.SCHEMA_URL)])
        try:
            with unobserved():
                result = self._exporter.export(data)
        except Exception as error:
            return outcome(False, self._session) if self._session else Outcome(False, True, type(error).__name__)
        return outcome(getattr(result, "name", "") == "SUCCESS", self._session)

    def _metric(self, family: Family, at_ns: int) -> Any:
        from opentelemetry.sdk.metrics.export import AggregationTemporality, Gauge, Histogram, Metric, Sum

        data: Any
        points = [self._number(point, at_ns) for point in family.points]
        if family.kind == "histogram":
            data = Histogram([self._histogram(state, at_ns) for state in family.distributions], AggregationTemporality.CUMULATIVE)
        elif family.kind == "counter":
            data = Sum(points, AggregationTemporality.CUMULATIVE, True)
        else:
            data = Gauge(points)
        return Metric(family.name, family.help, family.unit, data)

    def _number(self, point: Point, at_ns: int) -> Any:
        from opentelemetry.sdk.metrics.export import NumberDataPoint

        values = {"attributes": _attributes(point.labels), "start_time_unix_nano": self._began_ns, "time_unix_nano": at_ns}
        return _made(NumberDataPoint, {**values, "value": float(point.value), "exemplars": _exemplars((point.exemplar,))})

    def _histogram(self, state: Distribution, at_ns: int) -> Any:
        from opentelemetry.sdk.metrics.export import HistogramDataPoint

        values: dict[str, Any] = {
            "attributes": _attributes(state.labels),
            "start_time_unix_nano": self._began_ns,
            "time_unix_nano": at_ns,
            "count": sum(state.counts),
            "sum": state.total,
            "bucket_counts": list(state.counts),
            "explicit_bounds": list(state.bounds),
            "min": None,  # not kept; optional in the protocol
            "max": None,
            "exemplars": _exemplars(state.exemplars),
        }
        return _made(HistogramDataPoint, values)

    def close(self) -> None:
        self._exporter.shutdown()


def _made(kind: Any, values: dict[str, Any]) -> Any:
    """Exemplars came to data points in 1.28."""
    known = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in known})


def _attributes(labels: Labels) -> dict[str, str]:
    return dict(labels)


def _exemplars(exemplars: tuple[Exemplar | None, ...]) -> list[Any]:
    try:
        from opentelemetry.sdk.metrics import Exemplar as SdkExemplar
    except ImportError:
        return []
    return [SdkExemplar({}, e.value, e.at_ns, int(e.span_id, 16), int(e.trace_id, 16)) for e in exemplars if e is not None]
