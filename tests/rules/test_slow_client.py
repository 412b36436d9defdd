from hangwatch.records import Connection
from hangwatch.rules import slow_client
from tests.cases import Scene


def export(kind="client", **fields):
    scene = Scene()
    pool = scene.primitive("pool", "asyncpg pool", capacity=1, in_use=1)
    client = scene.primitive(kind, "10.0.0.9:5000", **fields)
    scene.connections["connection:c"] = Connection("connection:c", "http/1.1", "10.0.0.9:5000", write_paused=True, unsent_bytes=65536)
    frames = [
        "app.py:csv_rows:22",
        "starlette/responses.py:stream",
        "uvicorn/protocols/http/flow_control.py:FlowControl.drain",
        "asyncio/locks.py:wait",
    ]
    scene.request("GET", "/export", frames, client, [(pool, "app.py:csv_rows:22")], connection_id="connection:c", phase="responding")
    scene.request("GET", "/latest", ["app.py:latest:33"], pool)
    return scene


def test_what_it_keeps_meanwhile_is_named():
    (finding,) = slow_client.check(export().case())
    assert finding.confidence == "likely"
    assert "1 more wait for what it keeps" in finding.title
    assert [frame.function for frame in finding.culprit[:2]] == ["csv_rows", "FlowControl.drain"]
    assert finding.frees == 2


def test_twin_the_client_reads_slowly():
    scene = export()
    before = scene.snapshot()
    scene.change("connection:c", unsent_bytes=1000)
    (finding,) = slow_client.check(scene.case(earlier=before))
    assert finding.confidence == "suspected"


def test_the_body_does_not_come():
    (finding,) = slow_client.check(export("body").case())
    assert "request body" in finding.title
    assert "100 Continue" in finding.advice


def test_twin_the_body_has_come():
    assert list(slow_client.check(export("body", ready=True).case())) == []
