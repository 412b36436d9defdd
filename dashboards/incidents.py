"""The incidents themselves: each a row that opens its trace."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard
from panels import as_unit, board, choice, lines, merged, promql, rows, source, spread, traceql

JOBS = 'job=~"$job"'
#: Only the stall span itself has a limit; its fellows (waits, holders, victims) share the other attributes.
STALLS = 'instrumentation:name = "hangwatch" && span.hangwatch.stall.limit_ms != nil'
SHOWN = "span.asyncio.verdict, span.hangwatch.cause, span.hangwatch.confidence, span.code.function.name, span.hangwatch.incident.id, resource.host.name"


def build() -> Dashboard:
    made = board("hangwatch-incidents", "hangwatch / Incidents", "Every stall with its verdict; the trace id opens the trace.")
    made = made.with_variable(source("prometheus", "prometheus")).with_variable(source("tempo", "tempo"))
    made = made.with_variable(choice("job", "Service", "label_values(hangwatch_gil_wait_seconds_count, job)"))
    for panel in (stalls(), open_now(), ended(), *numbers()):
        made = made.with_panel(panel)
    return made


def stalls():
    query = f'{{ resource.service.name =~ "${{job:regex}}" && {STALLS} }} | select({SHOWN})'
    return rows("Stalls", "Newest first. The trace id leads into the trace, at the stall.", traceql(query), width=24, height=10)


def ended():
    query = f'{{ resource.service.name =~ "${{job:regex}}" && {STALLS.split(" && ")[0]} && span.hangwatch.ended_by != nil }} | select(span.hangwatch.ended_by, span.hangwatch.stall.total_ms, span.hangwatch.cause)'
    return rows("Ended", "How stalls ended: recovered, by shutdown, or by a kill.", traceql(query), width=12, height=8)


def open_now():
    by = "by (job, hangwatch_cause)"
    made = rows(
        "Open now", "Causes of incidents that have not ended.",
        promql(f"sum {by} (hangwatch_incidents_open{{{JOBS}}}) > 0", instant=True),
        promql(f"(time() - max {by} (hangwatch_incidents_oldest_age_seconds{{{JOBS}}})) * 1000", instant=True),
    )  # fmt: skip
    return as_unit(
        merged(made, {"job": "Service", "hangwatch_cause": "Cause", "Value #A": "Incidents", "Value #B": "Since"}), "Since", "dateTimeAsIso"
    )


def numbers():
    yield lines(
        "Incidents by cause", "New incidents in each interval. The dots lead to the trace of one.", "short",
        promql(f"sum by (hangwatch_cause) (increase(hangwatch_incidents_total{{{JOBS}}}[$__rate_interval]))", "{{hangwatch_cause}}", exemplars=True),
    )  # fmt: skip
    yield spread(
        "How long they lasted",
        "Ended stalls by their duration.",
        f"sum by (le) (increase(hangwatch_stall_duration_seconds_bucket{{{JOBS}}}[$__rate_interval]))",
    )
