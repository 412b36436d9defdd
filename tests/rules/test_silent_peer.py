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
