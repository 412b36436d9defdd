"""Metrics off a real ledger: the numbers, the text Prometheus scrapes, the endpoint while a loop is blocked, and OTLP."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest

from hangwatch import names
from hangwatch.config import Config
from hangwatch.export import Exporters, exposition
from hangwatch.export.board import MAX_ROUTES, OTHER_ROUTE, Board
from hangwatch.export.endpoint import Endpoint
from hangwatch.export.families import Exemplar, Family, Point
from hangwatch.ledger import Follow, Ledger
from hangwatch.records import Primitive
from tests.export import incidents
from tests.export.receiver import Receiver, values
from tests.processes import until

S = 1_000_000_000


class Cycle:
    """What the ledger holds for a request: an object with a scope, as uvicorn's."""

    def __init__(self, path):
        self.scope = {"type": "http", "path": path}


@pytest.fixture
def ledger():
    return Ledger()


def board_of(ledger, silences=dict, **settings):
    return Board(Config.make({}, **settings), ledger, silences)


def numbers(board, name, now_ns=None):
    family = next(f for f in board.families(now_ns) if f.name == name)
    return {tuple(value for _, value in point.labels): point.value for point in family.points}


def spread(board, name):
    family = next(f for f in board.families() if f.name == name)
    return {tuple(value for _, value in d.labels): (sum(d.counts), d.total, d) for d in family.distributions}


def test_requests_by_route_and_the_oldest(ledger):
    subjects = [Cycle("/orders/17"), Cycle("/orders/18"), Cycle("/reports/yearly"), Cycle("/events")]
    for n, subject in enumerate(subjects):
        ledger.begun[subject] = n * S
    late, endless = Cycle("/orders/19"), Cycle("/events")
    ledger.followed[late] = Follow(late, "request:1", 2 * S, 10 * S)
    ledger.followed[endless] = Follow(endless, "request:2", -900 * S, None)
    board = board_of(ledger, routes="/reports/*=60,/events=none")
    assert numbers(board, names.METRIC_REQUESTS_IN_FLIGHT, 20 * S) == {("/orders/{id}",): 3, ("/reports/*",): 1, ("/events",): 2}
    assert numbers(board, names.METRIC_REQUESTS_STALLED, 20 * S) == {("/orders/{id}",): 1, ("/events",): 0}
    assert numbers(board, names.METRIC_REQUESTS_STALLED, 11 * S)[("/orders/{id}",)] == 0, "its limit is not yet over"
    assert numbers(board, names.METRIC_REQUEST_OLDEST, 20 * S) == {(): 20}


def test_routes_are_bounded(ledger):
    for n in range(MAX_ROUTES + 30):
        ledger.begun[Cycle(f"/page-{'x' * (n % 7)}-{n}")] = 0
    found = numbers(board_of(ledger), names.METRIC_REQUESTS_IN_FLIGHT)
    assert len(found) == MAX_ROUTES + 1
    assert found[(OTHER_ROUTE,)] == 30


def test_lag_is_what_each_beat_found(ledger):
    silence = {}
    board = board_of(ledger, lambda: silence)
    loop = asyncio.new_event_loop()
    mark = ledger.loop_started(loop)
    for n, lag_s in enumerate([0.0, 0.02, 3.0]):
        silence[mark.id] = int(lag_s * S)
        board.tick((n + 1) * S, 1.0)
    count, total, state = spread(board, names.METRIC_LOOP_LAG)[("0",)]
    assert (count, round(total, 3)) == (3, 3.02)
    assert state.counts[state.bounds.index(5.0)] == 1
    assert numbers(board, names.METRIC_LOOP_SILENCE) == {("0",): 3.0}
    loop.close()


def test_utilization_is_the_loop_threads_cpu_time(ledger):
    go, spent, stop = threading.Event(), threading.Event(), threading.Event()

    def spin():
        ledger.loop_started(loop)
        go.wait()
        while time.thread_time() < 0.3:
            pass
        spent.set()
        stop.wait()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=spin)
    thread.start()
    try:
        until(lambda: ledger.loops)
        board = board_of(ledger)
        board.tick(100 * S, 0.1)
        go.set()
        spent.wait()
        board.tick(101 * S, 0.1)
        assert 0.25 < numbers(board, names.METRIC_LOOP_UTILIZATION)[("0",)] < 0.4
    finally:
        go.set()
        stop.set()
        thread.join()
        loop.close()


def test_waits_for_the_gil_and_collections(ledger):
    board = board_of(ledger)
    board.tick(1 * S, 0.1)
    board.tick(int(3.1 * S), 0.1)
    assert round(spread(board, names.METRIC_GIL_WAIT)[()][1], 3) == 2.0
    ledger.pauses.append((2 * S, S // 4))
    board.tick(int(3.2 * S), 0.1)
    board.tick(int(3.3 * S), 0.1)
    assert numbers(board, names.METRIC_GC_PAUSE) == {(): 0.25}, "each collection is counted once"


def test_incidents_parked_tasks_pools_and_their_end(ledger):
    board = board_of(ledger)
    incident = incidents.lock_incident(extra_victims=4)
    pool = Primitive("pool:1", "pool", "db", "asyncpg", capacity=10, in_use=10)
    incident = dataclasses.replace(incident, snapshot=dataclasses.replace(incident.snapshot, primitives=(pool,)))
    board.opened(incident, Exemplar(30.0, 1, incidents.TRACE, "a" * 16))
    assert numbers(board, names.METRIC_INCIDENTS) == {("holder-stuck",): 1}
    assert numbers(board, names.METRIC_INCIDENTS_OPEN) == {("holder-stuck",): 1}
    assert numbers(board, names.METRIC_PARKED) == {("holder-stuck",): 5}
    assert numbers(board, names.METRIC_POOL_IN_USE) == numbers(board, names.METRIC_POOL_CAPACITY) == {("db",): 10}
    board.closed(dataclasses.replace(incident, closed_at=incident.opened_at + 42))
    assert numbers(board, names.METRIC_INCIDENTS) == {("holder-stuck",): 1}
    assert not numbers(board, names.METRIC_INCIDENTS_OPEN) and not numbers(board, names.METRIC_PARKED)
    count, total, state = spread(board, names.METRIC_STALL_DURATION)[("holder-stuck",)]
    assert (count, total) == (1, 42)
    assert [e.trace_id for e in state.exemplars if e] == [incidents.TRACE]


def test_drops_are_told(ledger):
    ledger.drop("requests")
    ledger.drop("requests")
    board = Board(Config.make({}), ledger, export_counts=lambda: {"traces_sent": 3, "logs_refused": 1, "traces_waiting": 9})
    assert numbers(board, names.METRIC_DROPPED) == {("logs_refused",): 1, ("requests",): 2}
    assert numbers(board, names.METRIC_EXPORTED) == {("traces_sent",): 3}


FAMILIES = [
    Family("hangwatch.x", "counter", "{thing}", 'a "b"\nc', (Point((("http.route", 'q"\\\n'),), 2, Exemplar(1.5, 2 * S, "ab", "cd")),)),
    Family("hangwatch.empty", "gauge", "1", "nothing"),
]


def test_the_text_format():
    assert exposition.render(FAMILIES, openmetrics=False) == (
        '# HELP hangwatch_x_total a "b"\\nc\n# TYPE hangwatch_x_total counter\nhangwatch_x_total{http_route="q\\"\\\\\\n"} 2.0\n'
    )
    assert exposition.render(FAMILIES, openmetrics=True) == (
        '# HELP hangwatch_x a "b"\\nc\n# TYPE hangwatch_x counter\n'
        'hangwatch_x_total{http_route="q\\"\\\\\\n"} 2.0 # {trace_id="ab",span_id="cd"} 1.5 2.000\n# EOF\n'
    )


def fetch(port, accept="", path="/metrics"):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.headers["content-type"], answer.read().decode()


def test_the_endpoint_answers_while_the_loop_is_blocked(ledger):
    endpoint = Endpoint("127.0.0.1", 0, board_of(ledger, lambda: {m.id: 7 * S for m in ledger.loops.values()}).families)
    endpoint.start()
    scraped = []

    async def block():
        ledger.loop_started(asyncio.get_running_loop())
        thread = threading.Thread(target=lambda: scraped.append(fetch(endpoint.port, "application/openmetrics-text")))
        thread.start()
        thread.join()  # the loop's thread stands here until the scrape is through

    try:
        asyncio.run(block())
        kind, text = scraped[0]
        assert kind.startswith("application/openmetrics-text")
        assert 'hangwatch_loop_silence_seconds{hangwatch_loop="0"} 7.0' in text
        assert text.endswith("# EOF\n")
        assert fetch(endpoint.port)[0].startswith("text/plain; version=0.0.4")
        with pytest.raises(urllib.error.HTTPError):
            fetch(endpoint.port, path="/admin")
    finally:
        endpoint.stop()


def test_workers_take_the_next_port_and_give_it_back(ledger):
    board = board_of(ledger)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        first = probe.getsockname()[1]
    endpoints = [Endpoint("127.0.0.1", first, board.families) for _ in range(3)]
    try:
        for endpoint in endpoints:
            endpoint.start()
        ports = [endpoint.port for endpoint in endpoints]
        assert ports[0] == first and len(set(ports)) == 3
        endpoints[0].stop()
        endpoints[0].start()
        assert endpoints[0].port == first
    finally:
        for endpoint in endpoints:
            endpoint.stop()


def test_otlp_metrics_arrive_with_exemplars(tmp_path, ledger):
    ledger.begun[Cycle("/orders")] = time.monotonic_ns()
    with Receiver() as receiver:
        config = Config.make({}, spool=tmp_path, otlp=receiver.url, metrics_otlp=True, service="shop")
        board = Board(config, ledger)
        exporters = Exporters(config, board=board)
        exporters.resume()
        incident = incidents.lock_incident()
        exporters.offer(incident)
        exporters.recovered(dataclasses.replace(incident, closed_at=incident.opened_at + 42))
        assert exporters.close(20), exporters.counts()
    metrics = {metric.name: metric for metric in receiver.metrics()}
    assert metrics[names.METRIC_INCIDENTS].sum.is_monotonic
    assert metrics[names.METRIC_INCIDENTS].sum.data_points[0].as_double == 1
    (point,) = metrics[names.METRIC_STALL_DURATION].histogram.data_points
    assert (point.count, point.sum, values(point.attributes)) == (1, 42, {names.CAUSE: "holder-stuck"})
    assert not point.HasField("min")
    (flying,) = metrics[names.METRIC_REQUESTS_IN_FLIGHT].gauge.data_points
    assert values(flying.attributes) == {"http.route": "/orders"}
    if point.exemplars:  # data points carry exemplars since SDK 1.28
        assert point.exemplars[0].trace_id.hex() == incidents.TRACE
    resource = values(receiver._of("/v1/metrics")[0].resource_metrics[0].resource.attributes)
    assert (resource["service.name"], resource["host.name"]) == ("shop", socket.gethostname())


def test_incidents_are_counted_without_a_receiver(tmp_path, ledger):
    board = board_of(ledger)
    exporters = Exporters(Config.make({}, spool=tmp_path), board=board)
    exporters.offer(incidents.lock_incident())
    exporters.offer(incidents.lock_incident())
    assert numbers(board, names.METRIC_INCIDENTS) == {("holder-stuck",): 1}
    assert exporters._thread is None and not list(tmp_path.iterdir())
