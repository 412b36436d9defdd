"""What was told too early is told again: a route may have a longer limit than the others."""

from __future__ import annotations

import dataclasses
import time

import pytest

from hangwatch.config import Config
from hangwatch.watcher import Choice, Watcher
from hangwatch.watcher.connections import ConnectionWatch
from hangwatch.watcher.loops import LoopWatch
from hangwatch.watcher.states import PENDING, ConnectionStall, key_of
from tests.watcher.watched import STALL_AFTER_S, Client, uvicorn, waits_for, watching

pytest.importorskip("uvicorn")
S = 1_000_000_000


@pytest.mark.needs_ptrace
@pytest.mark.slow
def test_a_route_of_a_longer_limit_is_told_when_that_has_passed(tmp_path):
    with uvicorn() as service, watching(tmp_path, service.pid, routes={"/asks": 3.0, "/rests": None}) as told:
        clients = [Client(service.port).ask(path) for path in ("/asks", "/rests", "/parks")]
        slow = waits_for(told, lambda i: any(r.route == "/asks" and r.id == i.stall.subject_id for r in i.snapshot.requests))
        assert slow.snapshot.at_ns - slow.stall.since_ns >= 3 * S and slow.stall.limit_ns == 3 * S
        first = told[0]
        assert [r.route for r in first.snapshot.requests if r.id == first.stall.subject_id] == ["/parks"]
        assert first.snapshot.at_ns - first.stall.since_ns < 3 * S
        assert not any(r.route == "/rests" and r.id == i.stall.subject_id for i in told for r in i.snapshot.requests)
        for client in clients:
            client.close()


def stall(fd=5, received=100):
    return ConnectionStall(7, fd, PENDING, 0, 0, "here", "there", received, 0)


def test_each_time_after_twice_the_pause():
    now = [100 * S]
    watch = ConnectionWatch(10 * S, clock=lambda: now[0])
    told = []
    for _ in range(400):
        for found in watch._fresh([stall()]):
            told.append(now[0] // S - 100)
            watch.put_off([found])
        now[0] += S
    assert told == [0, 10, 30, 70, 150, 310]


def test_the_next_connection_has_the_descriptor_and_is_another(tmp_path):
    """Between two scans one ended and the next one hangs: what was told of the first is over."""
    watcher = Watcher(Config.make({}, spool=tmp_path), Choice(), told=lambda incident: None)
    watcher.loops = LoopWatch(S, None)
    watcher.connections = ConnectionWatch(10 * S)
    first, later = stall(), dataclasses.replace(stall(), peer="another")
    watcher.connections.trouble = {key_of(first)}
    assert not watcher._is_over([first])
    watcher.connections.trouble = {key_of(later)}
    assert watcher._is_over([first]) and not watcher._is_over([later])


def test_what_was_told_for_good_is_not_told_again():
    now = [100 * S]
    watch = ConnectionWatch(10 * S, clock=lambda: now[0])
    assert watch._fresh([stall(), stall(6)]) == [stall(), stall(6)]
    watch.put_off([stall(6)])
    now[0] += 11 * S
    assert watch._fresh([stall(), stall(6)]) == [stall(6)]
    now[0] += 1000 * S
    assert watch._fresh([stall(), stall(6)]) == []
    assert watch._fresh([stall(received=200)]) == [stall(received=200)], "another request on that connection"


@pytest.mark.needs_ptrace
@pytest.mark.slow
def test_a_message_on_a_websocket_asks_for_no_answer(tmp_path):
    """The sockets alone do not tell a websocket from a request; the process does."""
    with uvicorn() as service, watching(tmp_path, service.pid) as told:
        talking = Client(service.port).websocket()
        time.sleep(0.2)  # by the socket's clock it has to come after the handshake's answer
        talking.say()
        stuck = Client(service.port).ask("/parks")
        waits_for(told, lambda i: any(r.route == "/parks" and r.id == i.stall.subject_id for r in i.snapshot.requests))
        # Past the second look at what was put off.
        time.sleep(4 * STALL_AFTER_S)
        subjects = {i.stall.subject_id for i in told}
        assert not any(r.method == "WEBSOCKET" and r.id in subjects for i in told for r in i.snapshot.requests)
        for client in (talking, stuck):
            client.close()
