"""Families in the text that Prometheus scrapes: OpenMetrics 1.0 (with exemplars) or the older format 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hangwatch.export.families import Distribution, Exemplar, Family, Labels

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TEXT = "text/plain; version=0.0.4; charset=utf-8"
_UNITS = {"s": "_seconds", "1": "_ratio"}


def render(families: Iterable[Family], openmetrics: bool) -> str:
    """Families without points are left out."""
    lines: list[str] = []
    for family in families:
        if family.points or family.distributions:
            lines += _family(family, openmetrics)
    if openmetrics:
        lines.append("# EOF")
    return "\n".join(lines) + "\n"


def metric_name(family: Family) -> str:
    """As OpenTelemetry's own exporters translate it, without a counter's ``_total``."""
    return family.name.replace(".", "_") + _UNITS.get(family.unit, "")


def _family(family: Family, openmetrics: bool) -> Iterator[str]:
    name = metric_name(family)
    counter = family.kind == "counter"
    titled = f"{name}_total" if counter and not openmetrics else name
    yield f"# HELP {titled} {_escaped(family.help)}"
    yield f"# TYPE {titled} {family.kind}"
    if openmetrics and family.unit == "s":
        yield f"# UNIT {titled} seconds"
    for point in family.points:
        exemplar = _exemplar(point.exemplar) if openmetrics and counter else ""
        yield f"{name}{'_total' if counter else ''}{_labels(point.labels)} {_number(point.value)}{exemplar}"
    for distribution in family.distributions:
        yield from _histogram(name, distribution, openmetrics)


def _histogram(name: str, state: Distribution, openmetrics: bool) -> Iterator[str]:
    below = 0
    for n, bound in enumerate([*map(_number, state.bounds), "+Inf"]):
        below += state.counts[n]
        exemplar = _exemplar(state.exemplars[n]) if openmetrics and state.exemplars else ""
        yield f"{name}_bucket{_labels((*state.labels, ('le', bound)))} {below}{exemplar}"
    yield f"{name}_sum{_labels(state.labels)} {_number(state.total)}"
    yield f"{name}_count{_labels(state.labels)} {below}"


def _exemplar(exemplar: Exemplar | None) -> str:
    if exemplar is None:
        return ""
    return f' # {{trace_id="{exemplar.trace_id}",span_id="{exemplar.span_id}"}} {_number(exemplar.value)} {exemplar.at_ns / 1e9:.3f}'


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name.replace(".", "_")}="{_escaped(value, quote=True)}"' for name, value in labels) + "}"


def _escaped(text: str, quote: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text


def _number(value: float) -> str:
    return repr(float(value))
