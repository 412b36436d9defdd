from hangwatch.rules import pool_exhausted
from tests.cases import Scene


def pool(in_use=2, **fields):
    scene = Scene()
    primitive = scene.primitive("pool", "redis pool", capacity=2, in_use=in_use, ready=False, **fields)
    for _ in range(3):
        scene.request(
            "GET",
            "/a",
            ["app.py:a:9", "redis/asyncio/connection.py:BlockingConnectionPool.get_connection", "asyncio/locks.py:wait_for"],
            primitive,
        )
    return scene, primitive


def test_a_leak_is_told_by_what_nobody_alive_holds():
    scene, _ = pool()
    (finding,) = pool_exhausted.check(scene.case())
    assert finding.confidence == "likely"
    assert "2 of 2" in finding.title
    assert {frame.function for frame in finding.culprit} == {"a", "BlockingConnectionPool.get_connection"}
    assert finding.frees == 3


def test_held_by_those_who_are_stuck():
    scene, primitive = pool()
    for _ in range(2):
        scene.request("GET", "/slow", ["app.py:slow:3"], scene.primitive("client"), [primitive])
    (finding,) = pool_exhausted.check(scene.case())
    assert "all of it is out with 2 requests (GET /slow first)" in finding.title
    assert finding.confidence == "likely"


def test_twin_holders_that_work():
    scene, primitive = pool()
    for _ in range(2):
        scene.task("busy", ["app.py:busy"], state="running", holds=[primitive])
    assert [f.confidence for f in pool_exhausted.check(scene.case())] == ["suspected"]


def test_twin_there_is_room():
    scene, primitive = pool()
    scene.change(primitive, ready=True, in_use=1)
    assert list(pool_exhausted.check(scene.case())) == []


def test_what_a_running_task_has_is_not_seen_and_so_no_leak_for_sure():
    scene, _ = pool()
    for _ in range(2):
        scene.task("exports", ["starlette/responses.py:stream_response"], state="running")
    (finding,) = pool_exhausted.check(scene.case())
    assert finding.confidence == "suspected"
