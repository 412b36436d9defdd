"""Incidents through the real SDK and real HTTP into a real receiver; each rule for spans that back-ends show well is a test."""

from __future__ import annotations

import dataclasses
from importlib.metadata import version

import pytest

from hangwatch import names
from hangwatch.config import Config
from hangwatch.export import Exporters
from tests.export import incidents
from tests.export.incidents import AT_NS, HOLDER_TRACE, TRACE, S, wall
from tests.export.receiver import Receiver, values

SDK = tuple(int(part) for part in version("opentelemetry-sdk").split(".")[:2])
ALL = [
    incidents.lock_incident(),
    incidents.lock_incident("20260101T000000-unsampled", sampled=False),
    incidents.lock_incident("20260101T000000-many", extra_victims=60),
    incidents.loop_incident(),
    incidents.loop_incident("20260101T000001-crowd", n_victims=400),
    incidents.untraced_incident(),
    incidents.known_bug_incident(),
]


def sent(tmp_path, incident, **settings):
    """The spans and log records that arrive for one incident and its end."""
    with Receiver() as receiver:
        exporters = Exporters(Config.make({}, spool=tmp_path, otlp=receiver.url, **settings))
        exporters.offer(incident)
        exporters.recovered(dataclasses.replace(incident, closed_at=incidents.TAKEN_AT + 7))
        assert exporters.close(20), exporters.counts()
        return receiver


@pytest.fixture(scope="module", params=ALL, ids=lambda incident: incident.id.partition("-")[2])
def told(request, tmp_path_factory):
    return request.param, sent(tmp_path_factory.mktemp("spool"), request.param)


def one(receiver, start):
    found = [span for span in receiver.spans() if span.name.startswith(start)]
    assert len(found) == 1, [span.name for span in receiver.spans()]
    return found[0]


def links(span):
    return {(link.trace_id.hex(), link.span_id.hex()): values(link.attributes)[names.LINK] for link in span.links}


# Rules that hold for whatever is told.


def test_no_value_is_cut_by_a_back_end(told):
    for record in [*told[1].spans(), *told[1].logs()]:
        for name, value in values(record.attributes).items():
            assert len(str(value).encode()) <= 2000, name
    for span in told[1].spans():
        for event in span.events:
            assert all(len(str(v).encode()) <= 2000 for v in values(event.attributes).values())


def test_numbers_are_integers(told):
    for span in told[1].spans():
        for item in span.attributes:
            assert item.value.WhichOneof("value") in ("string_value", "int_value", "bool_value"), item
            if item.key.endswith(("_ms", ".line.number", ".pid", ".count", ".victims", ".native_id")):
                assert item.value.WhichOneof("value") == "int_value", item


def test_times_are_explicit_children_inside_parents_and_siblings_apart(told):
    spans = told[1].spans()
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans), "a span id was sent twice"
    siblings = {}
    for span in spans:
        assert span.end_time_unix_nano - span.start_time_unix_nano >= 1000
        assert span.end_time_unix_nano <= wall(AT_NS) + 8 * S
        parent = by_id.get(span.parent_span_id)
        if parent is not None:
            assert parent.trace_id == span.trace_id
            assert parent.start_time_unix_nano <= span.start_time_unix_nano
            assert span.end_time_unix_nano <= parent.end_time_unix_nano
            siblings.setdefault(span.parent_span_id, []).append((span.start_time_unix_nano, span.end_time_unix_nano))
    for times in siblings.values():
        for (_, end), (start, _) in zip(sorted(times), sorted(times)[1:], strict=False):
            assert end <= start


def test_names_have_no_ids_paths_or_numbers(told):
    for span in told[1].spans():
        assert not any(character.isdigit() for character in span.name), span.name
        assert "/" not in span.name
        assert len(span.name) <= 60


def test_the_verdict_comes_first(told):
    incident, receiver = told
    stall = receiver.spans()[0]
    keys = list(values(stall.attributes))
    assert keys[0] == names.VERDICT == sorted(keys)[0]
    assert values(stall.attributes)[names.VERDICT] == incident.findings[0].title


def test_status_says_what_kind_of_stall(told):
    incident, receiver = told
    stall = receiver.spans()[0]
    assert stall.status.code == 2
    assert 0 < len(stall.status.message) <= 200
    assert values(stall.attributes)["error.type"] == incident.stall.kind == values(stall.attributes)[names.STALL_KIND]


def test_events_are_few_and_inside_their_span(told):
    for span in told[1].spans():
        assert len(span.events) <= 3
        for event in span.events:
            assert span.start_time_unix_nano <= event.time_unix_nano <= span.end_time_unix_nano


def test_links_are_bounded_and_lead_to_what_was_sent_or_to_the_request(told):
    incident, receiver = told
    ids = {(span.trace_id.hex(), span.span_id.hex()) for span in receiver.spans()}
    ids |= {(request.trace_id, request.span_id) for request in incident.snapshot.requests}
    for span in receiver.spans():
        assert len(span.links) <= 24
        assert set(links(span)) <= ids


def test_semantic_conventions_of_today(told):
    gone = {"code.function", "code.namespace", "code.filepath", "code.lineno", "http.method", "http.url", "net.peer.ip"}
    for span in told[1].spans():
        attributes = values(span.attributes)
        assert not gone & set(attributes)
        assert all(
            key.startswith(("asyncio.", "hangwatch.", "code.", "http.", "url.", "client.", "error.", "thread.")) for key in attributes
        )
    scope = told[1]._of("/v1/traces")[0].resource_spans[0].scope_spans[0]
    assert scope.scope.name == "hangwatch"
    if SDK >= (1, 30):  # earlier encoders leave the scope's schema out
        assert scope.schema_url == names.SCHEMA_URL


# The shapes.


def test_the_stall_is_in_the_requests_own_trace(tmp_path):
    receiver = sent(tmp_path, incidents.lock_incident())
    stall = one(receiver, "request stall")
    assert stall.name == "request stall holder-stuck"
    assert (stall.trace_id.hex(), stall.parent_span_id.hex()) == (TRACE, f"{1:016x}")
    assert (stall.start_time_unix_nano, stall.end_time_unix_nano) == (wall(AT_NS - 30 * S), wall(AT_NS))
    attributes = values(stall.attributes)
    assert attributes["code.function.name"] == "charge"
    assert attributes["code.file.path"] == "/app/orders.py"
    assert attributes["code.line.number"] == 41
    assert (attributes["http.request.method"], attributes["url.path"], attributes["client.address"]) == ("GET", "/orders", "10.1.0.1")
    assert (attributes[names.STALL_AGE_MS], attributes[names.STALL_LIMIT_MS]) == (30_000, 10_000)
    assert attributes["code.stacktrace"].startswith("orders (/app/orders.py:12)"), "innermost first"
    resource = receiver.resources()[0]
    assert (resource["service.name"], resource["host.name"], resource["process.pid"]) == ("shop", "web-1", 4242)


def test_children_are_what_it_waited_on_in_order(tmp_path):
    receiver = sent(tmp_path, incidents.lock_incident())
    stall, before = one(receiver, "request stall"), one(receiver, "before the wait")
    lock, peer = one(receiver, "waits for lock"), one(receiver, "waits for peer")
    assert before.parent_span_id == lock.parent_span_id == stall.span_id
    assert before.end_time_unix_nano == lock.start_time_unix_nano == wall(AT_NS - 21 * S)
    assert peer.parent_span_id == lock.span_id
    assert values(lock.attributes)[names.WAIT_FOR] == "orders.LOCK"
    assert values(lock.attributes)[names.WAIT_HOLDER] == values(peer.attributes)[names.WAITER] == "Task-2"
    assert values(lock.attributes)[names.WAIT_AGE_MS] == 21_000


def test_the_holders_request_is_linked_both_ways(tmp_path):
    receiver = sent(tmp_path, incidents.lock_incident())
    stall, holder = one(receiver, "request stall"), one(receiver, "holds lock")
    assert holder.trace_id.hex() == HOLDER_TRACE
    assert holder.parent_span_id.hex() == f"{2:016x}"
    assert holder.start_time_unix_nano == wall(AT_NS - 40 * S)
    assert links(stall)[(HOLDER_TRACE, holder.span_id.hex())] == "held_by"
    assert links(holder) == {(TRACE, stall.span_id.hex()): "blocks"}


def test_victims_of_a_shared_root_are_linked_and_bounded(tmp_path):
    receiver = sent(tmp_path, incidents.lock_incident(extra_victims=60))
    stall = one(receiver, "request stall")
    victims = [span for span in receiver.spans() if span.name == "waiting behind lock"]
    assert len(victims) == 20
    attributes = values(stall.attributes)
    assert (attributes[names.VICTIMS], attributes[names.VICTIMS_NOT_LINKED]) == (60, 40)
    for victim in victims:
        assert links(victim) == {(TRACE, stall.span_id.hex()): "blocked_by"}
        assert links(stall)[(victim.trace_id.hex(), victim.span_id.hex())] == "blocks"
        assert values(victim.attributes)[names.VERDICT]


def test_a_blocked_loop_is_told_in_the_culprits_trace(tmp_path):
    receiver = sent(tmp_path, incidents.loop_incident())
    stall = one(receiver, "event loop stall")
    assert stall.name == "event loop stall price"
    assert (stall.trace_id.hex(), stall.parent_span_id.hex()) == (f"{1:032x}", f"{1:016x}")
    assert (stall.start_time_unix_nano, stall.end_time_unix_nano) == (wall(AT_NS - 4 * S), wall(AT_NS))
    victims = [span for span in receiver.spans() if span.name == "waiting for event loop"]
    assert {span.trace_id.hex() for span in victims} == {f"{n:032x}" for n in (2, 3, 4)}
    assert {span.start_time_unix_nano for span in victims} == {wall(AT_NS - 4 * S)}
    assert values(stall.attributes)["thread.name"] == "MainThread"


def test_an_untraced_request_gets_a_trace_of_its_own(tmp_path):
    receiver = sent(tmp_path, incidents.untraced_incident())
    stall, ended = one(receiver, "request stall"), one(receiver, "stall ended")
    assert not stall.parent_span_id
    assert not stall.links
    assert stall.trace_id == ended.trace_id
    assert stall.trace_id.strip(b"\0")


def test_an_unsampled_request_is_linked_not_joined(tmp_path):
    receiver = sent(tmp_path, incidents.lock_incident(sampled=False))
    stall = one(receiver, "request stall")
    assert stall.trace_id.hex() != TRACE
    assert not stall.parent_span_id
    assert links(stall)[(TRACE, f"{1:016x}")] == "request"


def test_the_end_is_told_beside_the_stall(tmp_path):
    receiver = sent(tmp_path, incidents.lock_incident())
    stall, ended = one(receiver, "request stall"), one(receiver, "stall ended")
    assert ended.parent_span_id == stall.parent_span_id
    assert (ended.start_time_unix_nano, ended.end_time_unix_nano) == (stall.end_time_unix_nano, wall(AT_NS + 7 * S))
    assert links(ended) == {(TRACE, stall.span_id.hex()): "stall"}
    assert values(ended.attributes)[names.ENDED_BY] == "recovered"
    assert values(ended.attributes)[names.TOTAL_MS] == 37_000


def test_a_cycle_ends_where_it_began(tmp_path):
    receiver = sent(tmp_path, incidents.known_bug_incident())
    assert [span.name for span in receiver.spans() if span.name.startswith("waits for")] == ["waits for lock", "waits for peer"]
    assert values(one(receiver, "waits for peer").attributes)[names.WAIT_CYCLE] is True
    attributes = values(one(receiver, "request stall").attributes)
    assert attributes[names.SIGNATURE] == "uvicorn-748"
    assert attributes["code.stacktrace"].startswith("Very.Long.Name.function_199 ("), "the innermost frames survive the cut"


def test_an_incident_offered_again_is_told_once(tmp_path):
    with Receiver() as receiver:
        exporters = Exporters(Config.make({}, spool=tmp_path, otlp=receiver.url))
        for count in (1, 2, 3):
            exporters.offer(dataclasses.replace(incidents.lock_incident(), count=count))
        assert exporters.close(20), exporters.counts()
        one(receiver, "request stall")


def test_an_own_provider_is_not_silenced_by_the_applications_sampler(tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    assert one(sent(tmp_path, incidents.lock_incident()), "request stall")


def test_the_standard_switch_off_is_honoured(tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not sent(tmp_path, incidents.lock_incident()).tries


def test_nothing_is_done_without_an_address(tmp_path):
    exporters = Exporters(Config.make({}, spool=tmp_path))
    exporters.offer(incidents.lock_incident())
    assert exporters.close() and not list(tmp_path.iterdir())
