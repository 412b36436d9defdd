"""Requests of servers without hooks. Time is an argument; the end of it is a real aiohttp service."""

from __future__ import annotations

import sys

import pytest

from hangwatch.config import Config
from hangwatch.ledger import Ledger
from hangwatch.records import Request
from hangwatch.sweep import Sweep
from tests.services import running

S = 1_000_000_000


def request(name: str, route: str = "/", task: str | None = "task:1", phase: str = "app", since_ns: int | None = None) -> Request:
    return Request(f"request:{name}", None, task, "GET", route, since_ns, phase)


@pytest.fixture
def sweep():
    return Sweep(Config.make({}, stall_after=10, routes="/events=none,/long=60"), Ledger())


def judged(sweep: Sweep, at_s: float, *requests: Request) -> list[str]:
    return [follow.subject_id for follow in sweep.judge(int(at_s * S), requests)]


def test_a_request_is_told_once_when_it_was_seen_for_as_long_as_its_limit(sweep):
    seen = request("1"), request("2", "/events"), request("3", "/long"), request("4", phase="background")
    assert judged(sweep, 100, *seen) == []
    assert judged(sweep, 109, *seen) == []
    assert judged(sweep, 110, *seen) == ["request:1"]
    assert judged(sweep, 159, *seen) == []
    assert judged(sweep, 160, *seen) == ["request:3"]


def test_it_ends_when_it_is_seen_no_more(sweep):
    sweep.judge(0, [request("1")])
    (follow,) = sweep.judge(10 * S, [request("1")])
    assert (follow.subject.since_ns, follow.subject.limit_ns) == (0, 10 * S)
    sweep.judge(12 * S, [])
    assert follow.ended_ns == 12 * S


def test_the_same_address_in_another_task_is_another_request(sweep):
    sweep.judge(0, [request("1", task="task:1")])
    assert judged(sweep, 10, request("1", task="task:2")) == []


def test_what_the_server_itself_knows_of_the_begin_counts(sweep):
    assert judged(sweep, 100, request("1", since_ns=85 * S)) == ["request:1"]


def test_a_service_by_aiohttp(tmp_path):
    pytest.importorskip("aiohttp")
    (tmp_path / "served.py").write_text(
        "import asyncio, sys\n"
        "from aiohttp import web\n"
        "never = asyncio.Event()\n"
        "async def park(request):\n    await never.wait()\n    return web.Response(text='ok')\n"
        "async def release(request):\n    never.set()\n    return web.Response(text='ok')\n"
        "app = web.Application()\n"
        "app.add_routes([web.get('/park', park), web.get('/release', release)])\n"
        "web.run_app(app, host='127.0.0.1', port=int(sys.argv[1]), print=None)\n"
    )
    with running(tmp_path, lambda port: [sys.executable, "served.py", str(port)]) as service:
        parked = service.open("/park")
        (incident,) = service.until(lambda found: len(found) == 1)
        assert incident["stall"]["kind"] == "request"
        assert "/park" in [one["route"] for one in incident["snapshot"]["requests"]]
        assert service.get("/release") == "ok"
        (over,) = service.until(lambda found: found[0]["closed_at"] is not None)
        assert over["id"] == incident["id"]
        parked.close()
