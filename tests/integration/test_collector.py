"""A service that really hangs, real Collectors between, and its trace read back out of their output."""

from __future__ import annotations

import re
import subprocess
import time

import pytest

from hangwatch import names
from tests.export.receiver import Receiver, values
from tests.export.test_service import free
from tests.integration import rules
from tests.integration.stage import CONFIGURATION, Service, back, front
from tests.tools import find, needs, run, until

pytestmark = [pytest.mark.slow, pytest.mark.integration, needs("otelcol")]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VICTIM = "0af7651916cd43dd8448eb211c80319c"


def stalls(receiver):
    return [span for span in receiver.spans() if values(span.attributes).get(names.STALL_LIMIT_MS)]


def blocked(service, receiver):
    """Has it been told that a loop was blocked, and no longer is?"""
    service.send("/blocked")
    end = time.monotonic() + 6
    while time.monotonic() < end and not (told := any(span.name == names.SPAN_ENDED for span in receiver.spans())):
        time.sleep(0.1)
    return told


def test_the_collector_takes_the_configuration():
    run("otelcol", "validate", f"--config={CONFIGURATION}")


def test_a_configuration_that_is_wrong_is_refused(tmp_path):
    """So that the test above can fail."""
    (tmp_path / "wrong.yaml").write_text(CONFIGURATION.read_text().replace("memory_limiter, batch", "memory_limiter, no_such"))
    done = subprocess.run([find("otelcol"), "validate", f"--config={tmp_path / 'wrong.yaml'}"], capture_output=True, timeout=60)
    assert done.returncode != 0


@pytest.fixture
def stage(tmp_path):
    """(receiver behind the Collectors, front's HTTP port, its gRPC port). Jaeger's place is empty: nothing must suffer from it."""
    http, grpc, tempo = free(), free(), free()
    with Receiver() as receiver, back(tmp_path, tempo, receiver.url), front(tmp_path, tempo, free(), receiver.url, http, grpc):
        yield receiver, http, grpc


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_the_trace_comes_out_as_it_should_be_shown(stage, tmp_path, protocol):
    receiver, http, grpc = stage
    port = grpc if protocol == "grpc" else http
    with Service(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}", OTEL_EXPORTER_OTLP_PROTOCOL=protocol) as service:
        service.send("/lock", VICTIM)
        service.send("/lock", TRACE)
        receiver.wait(stalls, timeout=60)
        # A second of a loop is over before anybody looks where the machine is starved: then once more.
        until(lambda: blocked(service, receiver), lambda: f"{[span.name for span in receiver.spans()]}", timeout=60)
    rules.check(receiver.spans())
    for span in stalls(receiver):
        kind = values(span.attributes)[names.STALL_KIND]
        if kind == "request":
            rules.check_stall(span, span.trace_id.hex(), PARENT)
            assert span.trace_id.hex() in (TRACE, VICTIM)
    found = {span.span_id: span for span in receiver.spans()}
    linked = [(span, link) for span in receiver.spans() for link in span.links]
    assert linked, "who waits and who holds are linked"
    for span, link in linked:
        assert link.span_id in found, f"{span.name}: a link that leads nowhere"
    resources = receiver.resources()
    assert {resource["service.name"] for resource in resources} == {"shop"}


def test_log_records_carry_their_event_name_and_trace(stage, tmp_path):
    _, http, _ = stage
    log = tmp_path / "front.log"

    def told():
        records = re.split(r"LogRecord #\d+", log.read_text())[1:]
        return [record for record in records if "EventName: hangwatch.stall\n" in record and "Flags: " in record]

    with Service(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{http}") as service:
        service.send("/parked", TRACE)
        (record,) = until(told, "no log record came")
    assert f"Trace ID: {TRACE}\n" in record and "SeverityText: ERROR" in record


def test_metrics_come_out(stage, tmp_path):
    receiver, http, _ = stage
    settings = {"HANGWATCH_METRICS_OTLP": "1", "OTEL_METRIC_EXPORT_INTERVAL": "1000"}
    with Service(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{http}", **settings) as service:
        service.send("/parked", TRACE)
        receiver.wait(lambda r: names.METRIC_INCIDENTS in {metric.name for metric in r.metrics()}, timeout=60)
    assert {names.METRIC_LOOP_LAG, names.METRIC_REQUESTS_STALLED} <= {metric.name for metric in receiver.metrics()}


def test_a_collector_that_comes_late_gets_it_all(tmp_path):
    http, grpc, tempo = free(), free(), free()
    with Receiver() as receiver, Service(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{http}") as service:
        service.send("/parked", TRACE)
        until(lambda: list((tmp_path / "spool" / "outbox").glob("*/*.traces.json")), "nothing is kept")
        with back(tmp_path, tempo, receiver.url), front(tmp_path, tempo, free(), receiver.url, http, grpc):
            receiver.wait(stalls, timeout=90)
    assert stalls(receiver)[0].trace_id.hex() == TRACE
