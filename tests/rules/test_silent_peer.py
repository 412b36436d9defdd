from hangwatch.records import FOREVER
from hangwatch.rules import silent_peer
from tests.cases import NOW, S, Scene


def asking(deadline_ns=None, **fields):
    scene = Scene()
    peer, lock = scene.primitive("peer", "10.0.0.7:443", **fields), scene.lock("token lock")
    frames = ["app.py:get:26", "app.py:refresh:32", "httpcore/_async/http11.py:receive", "asyncio/streams.py:read"]
    scene.request("GET", "/a", frames, peer, [lock], deadline_ns=deadline_ns)
    scene.request("GET", "/b", ["app.py:get:26"], lock)
    return scene


def test_the_peer_is_named_with_those_behind():
    (finding,) = silent_peer.check(asking().case())
    assert finding.confidence == "likely"
    assert "10.0.0.7:443" in finding.title and "1 more" in finding.title
    assert finding.culprit[0].function == "refresh"
    assert finding.frees == 2


def test_twin_under_a_limit():
    assert list(silent_peer.check(asking(deadline_ns=NOW + S).case())) == []


def test_twin_may_idle():
    assert list(silent_peer.check(asking(patience_ns=FOREVER).case())) == []


def test_twin_an_idle_client():
    assert list(silent_peer.check(asking(state={"accepted": True}).case())) == []


def test_twin_bytes_come():
    scene = asking()
    before = scene.snapshot()
    task = next(task for task in scene.tasks.values() if task.holds)
    scene.change(task.id, frames=task.frames[:2])
    assert list(silent_peer.check(scene.case(earlier=before))) == []


def test_twin_a_request_within_its_limit():
    scene = asking()
    for request in list(scene.requests):
        scene.change(request, since_ns=NOW - S)
    case = scene.case(scene.task("other", ["app.py:other"]), kind="task")
    assert list(silent_peer.check(case)) == []


def test_twin_a_background_task_that_nobody_waits_for_may_be_idle():
    scene = Scene()
    consumer = scene.task("consumer", ["app.py:consume:8", "asyncio/streams.py:read"], scene.primitive("peer", "10.0.0.7:4222"))
    (finding,) = silent_peer.check(scene.case(consumer, kind="task"))
    assert finding.confidence == "suspected"


def retrying(attempts):
    scene = Scene()
    state = {"attempts": attempts, "function": "load", "file": "/srv/shop/app.py", "line": 14}
    timer = scene.primitive("timer", "the next attempt of load()", state=state)
    scene.request(
        "GET", "/profiles/{user}", ["app.py:profile:22", "tenacity/asyncio/__init__.py:__call__", "asyncio/tasks.py:sleep"], timer
    )
    return list(silent_peer.check(scene.case()))


def test_what_fails_again_and_again_is_told_with_its_attempts():
    (finding,) = retrying(17)
    assert finding.title == "GET /profiles/{user} sleeps until the next attempt of load(): 17 have failed"
    assert [frame.function for frame in finding.culprit[:2]] == ["load", "profile"]


def test_twin_the_first_attempts_are_what_retries_are_for():
    assert retrying(2) == []
