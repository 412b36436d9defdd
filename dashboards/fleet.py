"""Which service, which route, which cause, since when: all workers on one page."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard
from panels import as_unit, board, choice, lines, linked, merged, number, promql, rows, source

JOBS = 'job=~"$job"'
TO_INCIDENTS = "/d/hangwatch-incidents?${__url_time_range}&var-job=${__data.fields.Service}"
TO_WORKER = "/d/hangwatch-worker?${__url_time_range}&var-job=${__data.fields.Service}&var-instance=${__data.fields.Worker}"


def build() -> Dashboard:
    made = board("hangwatch-fleet", "hangwatch / Fleet", "What hangs now, where, why, and since when.")
    made = made.with_variable(source("prometheus", "prometheus"))
    made = made.with_variable(choice("job", "Service", "label_values(hangwatch_gil_wait_seconds_count, job)"))
    for panel in (*numbers(), open_now(), workers(), *history()):
        made = made.with_panel(panel)
    return made


def numbers():
    yield number("Open incidents", "Incidents that have not ended.", "short", f"sum(hangwatch_incidents_open{{{JOBS}}}) or vector(0)")
    yield number("Requests stalled", "Requests past their limit now.", "short", f"sum(hangwatch_requests_stalled{{{JOBS}}}) or vector(0)")
    yield number(
        "Loops blocked", "Event loops without a sign of life for more than a second.", "short",
        f"count(hangwatch_loop_silence_seconds{{{JOBS}}} > 1) or vector(0)",
    )  # fmt: skip
    yield number(
        "Oldest request",
        "Age of the oldest request that has a limit.",
        "s",
        f"max(hangwatch_requests_oldest_age_seconds{{{JOBS}}})",
        bad=10,
    )
    yield number(
        "Incidents, last hour", "Incidents begun in the last hour.", "short",
        f"sum(increase(hangwatch_incidents_total{{{JOBS}}}[1h])) or vector(0)", bad=None,
    )  # fmt: skip
    yield number("Workers watched", "Workers whose agent answers.", "short", f"count(hangwatch_gil_wait_seconds_count{{{JOBS}}})", bad=None)


def open_now():
    """Times as ms since the epoch, as Grafana's date unit wants them."""
    by = "by (job, hangwatch_cause)"
    made = rows(
        "Open now: service and cause", "The cause's name leads to its traces.",
        promql(f"sum {by} (hangwatch_incidents_open{{{JOBS}}}) > 0", instant=True),
        promql(f"sum {by} (hangwatch_tasks_parked{{{JOBS}}})", instant=True),
        promql(f"(time() - max {by} (hangwatch_incidents_oldest_age_seconds{{{JOBS}}})) * 1000", instant=True),
        width=14,
    )  # fmt: skip
    columns = {"job": "Service", "hangwatch_cause": "Cause", "Value #A": "Incidents", "Value #B": "Held up", "Value #C": "Since"}
    made = as_unit(merged(made, columns), "Since", "dateTimeAsIso")
    return linked(made, "Cause", "Its traces", TO_INCIDENTS)


def workers():
    by = "by (job, instance)"
    stalled, silence = f"sum {by} (hangwatch_requests_stalled{{{JOBS}}})", f"max {by} (hangwatch_loop_silence_seconds{{{JOBS}}})"
    bad = f"and on (job, instance) ({stalled} > 0 or {silence} > 1)"
    made = rows(
        "Workers in trouble", "Workers with stalled requests or a silent loop.",
        promql(f"{stalled} {bad}", instant=True),
        promql(f"{silence} {bad}", instant=True),
        width=10,
    )  # fmt: skip
    columns = {"job": "Service", "instance": "Worker", "Value #A": "Stalled", "Value #B": "Loop silent"}
    return linked(as_unit(merged(made, columns), "Loop silent", "s"), "Worker", "This worker", TO_WORKER)


def history():
    yield lines(
        "Stalled requests by route", "Past their limit, by service and route.", "short",
        promql(f"sum by (job, http_route) (hangwatch_requests_stalled{{{JOBS}}})", "{{job}} {{http_route}}"),
    )  # fmt: skip
    yield lines(
        "Incidents by cause", "New incidents in each interval. The dots lead to the trace of one.", "short",
        promql(f"sum by (job, hangwatch_cause) (increase(hangwatch_incidents_total{{{JOBS}}}[$__rate_interval]))", "{{job}} {{hangwatch_cause}}", exemplars=True),
    )  # fmt: skip
    yield lines(
        "Event loop lag, p99", "How long loops give no sign of life.", "s",
        promql(f"histogram_quantile(0.99, sum by (job, le) (rate(hangwatch_loop_lag_seconds_bucket{{{JOBS}}}[$__rate_interval])))", "{{job}}"),
    )  # fmt: skip
    yield lines(
        "Oldest request by service", "Age of the oldest request that has a limit.", "s",
        promql(f"max by (job) (hangwatch_requests_oldest_age_seconds{{{JOBS}}})", "{{job}}"),
    )  # fmt: skip
