from hangwatch.rules import lost_wakeup
from tests.cases import NOW, Scene


def free_lock(**fields):
    scene = Scene()
    lock = scene.lock("renderer", state={"locked": False, "waiting": 2}, ready=True, library="anyio")
    scene.request("POST", "/publish", ["app.py:publish:40", "anyio/_backends/_asyncio.py:Lock.acquire"], lock, **fields)
    return scene, lock


def test_free_in_two_looks_and_still_parked():
    scene, _ = free_lock()
    (finding,) = lost_wakeup.check(scene.case())
    assert finding.confidence == "proved"
    assert [frame.function for frame in finding.culprit] == ["publish", "Lock.acquire"]


def test_free_in_one_look_is_on_its_way():
    scene, lock = free_lock()
    now = scene.primitives[lock]
    scene.change(lock, ready=False)
    before = scene.snapshot(at_ns=NOW - 1)
    scene.primitives[lock] = now
    (finding,) = lost_wakeup.check(scene.case(earlier=before))
    assert finding.confidence == "suspected"


def test_twin_the_wakeup_is_queued():
    scene, _ = free_lock(state="ready")
    assert list(lost_wakeup.check(scene.case())) == []


def test_twin_the_loop_is_blocked():
    scene, _ = free_lock()
    scene.loop_thread(["app.py:busy"], waits_on=scene.primitive("timer", "time.sleep"))
    assert list(lost_wakeup.check(scene.case())) == []


def test_twin_taken():
    scene, lock = free_lock()
    scene.change(lock, ready=False)
    assert list(lost_wakeup.check(scene.case())) == []
