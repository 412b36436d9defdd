"""The same incidents as log records: event name, the stall span's ids, and the choice between the two."""

from __future__ import annotations

import dataclasses

import pytest

from hangwatch import names
from hangwatch.config import Config
from hangwatch.export import Exporters
from tests.export import incidents
from tests.export.receiver import Receiver, values


def sent(tmp_path, **settings):
    incident = incidents.lock_incident()
    with Receiver() as receiver:
        exporters = Exporters(Config.make({}, spool=tmp_path, otlp=receiver.url, **settings))
        exporters.offer(incident)
        exporters.recovered(dataclasses.replace(incident, closed_at=incidents.TAKEN_AT + 7))
        assert exporters.close(20), exporters.counts()
        return receiver


def event_name(record):
    """Where the protocol or the SDK at hand has no such field yet, the attribute."""
    return getattr(record, "event_name", "") or values(record.attributes)["event.name"]


def test_log_records_carry_the_event_and_the_spans_ids(tmp_path):
    receiver = sent(tmp_path)
    stall, ended = receiver.logs()
    assert (event_name(stall), event_name(ended)) == ("hangwatch.stall", "hangwatch.stall.ended")
    assert (stall.severity_number, ended.severity_number) == (17, 9)
    by_name = {span.name: span for span in receiver.spans()}
    for record, span in ((stall, by_name["request stall holder-stuck"]), (ended, by_name["stall ended"])):
        assert (record.trace_id, record.span_id) == (span.trace_id, span.span_id)
        assert record.time_unix_nano == span.end_time_unix_nano
    assert stall.body.string_value.startswith("GET /orders waits for orders.LOCK")
    assert "- the lock is held by Task-2" in stall.body.string_value
    attributes = values(stall.attributes)
    assert attributes[names.CAUSE] == "holder-stuck"
    assert attributes["code.line.number"] == 41
    resource = values(receiver._of("/v1/logs")[0].resource_logs[0].resource.attributes)
    assert resource["service.name"] == "shop"


@pytest.mark.parametrize(("events", "span_events", "log_records"), [("span", 3, 0), ("logs", 0, 2), ("both", 3, 2)])
def test_the_choice_between_span_events_and_log_records(tmp_path, events, span_events, log_records):
    receiver = sent(tmp_path, events=events)
    assert sum(len(span.events) for span in receiver.spans()) == span_events
    assert len(receiver.logs()) == log_records
    assert len(receiver.spans()) == 6, "spans are sent whatever the choice"


def test_a_receiver_without_logs_stops_the_logs_only(tmp_path):
    with Receiver(answers={"/v1/logs": [404]}) as receiver:
        exporters = Exporters(Config.make({}, spool=tmp_path, otlp=receiver.url))
        exporters.offer(incidents.lock_incident())
        receiver.wait(lambda r: r.spans() and "/v1/logs" in r.tries)
        exporters.offer(incidents.loop_incident())
        receiver.wait(lambda r: len(r._of("/v1/traces")) == 2)
        assert exporters.close(20), exporters.counts()
        counts = exporters.counts()
        assert (counts["traces_sent"], counts["logs_sent"], counts["logs_refused"]) == (2, 0, 2)


def test_a_signal_switched_off_by_the_standard_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
    receiver = sent(tmp_path)
    assert receiver.spans() and "/v1/logs" not in receiver.tries


def test_a_signals_own_address_is_used_as_it_is(tmp_path, monkeypatch):
    with Receiver() as logs, Receiver() as traces:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": traces.url, "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"{logs.url}/v1/logs"}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        exporters = Exporters(Config.make(environ, spool=tmp_path))
        exporters.offer(incidents.lock_incident())
        assert exporters.close(20), exporters.counts()
        assert traces.spans() and not traces.logs()
        assert logs.logs() and not logs.spans()
