"""One worker: its loop, its requests, its pools, what hangwatch itself costs there."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard
from panels import board, choice, lines, number, promql, source, spread

ONE = 'job=~"$job", instance=~"$instance"'


def build() -> Dashboard:
    made = board(
        "hangwatch-worker", "hangwatch / Worker", "Loop lag, requests in flight, the oldest request. It answers while the loop is blocked."
    )
    made = made.with_variable(source("prometheus", "prometheus"))
    made = made.with_variable(choice("job", "Service", "label_values(hangwatch_gil_wait_seconds_count, job)"))
    made = made.with_variable(choice("instance", "Worker", 'label_values(hangwatch_gil_wait_seconds_count{job=~"$job"}, instance)'))
    for panel in (*numbers(), *loop(), *requests(), *causes(), *own()):
        made = made.with_panel(panel)
    return made


def numbers():
    yield number("Loop silent for", "Age of the loop's last sign of life.", "s", f"max(hangwatch_loop_silence_seconds{{{ONE}}})", width=6)
    yield number("In flight", "Requests begun and not ended.", "short", f"sum(hangwatch_requests_in_flight{{{ONE}}})", bad=None, width=6)
    yield number("Stalled", "Requests past their limit.", "short", f"sum(hangwatch_requests_stalled{{{ONE}}})", width=6)
    yield number("Oldest request", "That has a limit.", "s", f"max(hangwatch_requests_oldest_age_seconds{{{ONE}}})", bad=10, width=6)


def loop():
    yield spread(
        "Loop lag",
        "Ages of the loop's sign of life, as the watchdog found them.",
        f"sum by (le) (increase(hangwatch_loop_lag_seconds_bucket{{{ONE}}}[$__rate_interval]))",
    )
    yield lines(
        "Loop silence",
        "Age of the last sign of life when scraped.",
        "s",
        promql(f"hangwatch_loop_silence_seconds{{{ONE}}}", "{{instance}} loop {{hangwatch_loop}}"),
    )
    yield lines(
        "Loop utilisation",
        "Share of a CPU that the loop's thread used.",
        "percentunit",
        promql(f"hangwatch_loop_utilization_ratio{{{ONE}}}", "{{instance}} loop {{hangwatch_loop}}"),
    )
    yield lines(
        "Waits for the GIL or a CPU, p99", "How late the watchdog's own beats were.", "s",
        promql(f"histogram_quantile(0.99, sum by (instance, le) (rate(hangwatch_gil_wait_seconds_bucket{{{ONE}}}[$__rate_interval])))", "{{instance}}"),
    )  # fmt: skip


def requests():
    yield lines(
        "In flight by route",
        "Requests begun and not ended.",
        "short",
        promql(f"sum by (http_route) (hangwatch_requests_in_flight{{{ONE}}})", "{{http_route}}"),
    )
    yield lines(
        "Stalled by route",
        "Requests past their limit.",
        "short",
        promql(f"sum by (http_route) (hangwatch_requests_stalled{{{ONE}}})", "{{http_route}}"),
    )


def causes():
    yield lines(
        "Held up by cause", "Waiters that open incidents hold up.", "short",
        promql(f"sum by (hangwatch_cause) (hangwatch_tasks_parked{{{ONE}}})", "{{hangwatch_cause}}"), width=8,
    )  # fmt: skip
    yield lines(
        "Pools and limiters", "Share in use, as open incidents saw it.", "percentunit",
        promql(f"hangwatch_pool_in_use{{{ONE}}} / hangwatch_pool_capacity{{{ONE}}}", "{{hangwatch_pool}}"), width=8,
    )  # fmt: skip
    yield lines(
        "Garbage collection",
        "Share of time in collections of 20 ms and more.",
        "percentunit",
        promql(f"rate(hangwatch_gc_pause_seconds_total{{{ONE}}}[$__rate_interval])", "{{instance}}"),
        width=8,
    )


def own():
    yield lines(
        "hangwatch's own CPU",
        "Of its threads.",
        "percentunit",
        promql(f"rate(hangwatch_self_cpu_seconds_total{{{ONE}}}[$__rate_interval])", "{{instance}}"),
        width=8,
    )
    yield lines(
        "Sent",
        "Spans, log records, metrics, messages.",
        "short",
        promql(f"sum by (hangwatch_what) (increase(hangwatch_self_exported_total{{{ONE}}}[$__rate_interval]))", "{{hangwatch_what}}"),
        width=8,
    )
    yield lines(
        "Left out",
        "What hangwatch dropped, refused or could not send, by what it was.",
        "short",
        promql(f"sum by (hangwatch_what) (increase(hangwatch_self_dropped_total{{{ONE}}}[$__rate_interval]))", "{{hangwatch_what}}"),
        width=8,
    )
