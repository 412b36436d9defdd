from hangwatch.rules import lock_leaked
from tests.cases import Scene


def leaked():
    scene = Scene()
    lock = scene.lock("asyncio.Lock")
    for _ in range(3):
        scene.request("POST", "/reserve", ["app.py:reserve:16", "asyncio/locks.py:acquire"], lock)
    return scene, lock


def test_taken_by_one_that_ended():
    scene, lock = leaked()
    scene.act("acquire", lock, "task:dead", place="app.py:reserve:16")
    (finding,) = lock_leaked.check(scene.case())
    assert finding.confidence == "likely"
    assert finding.culprit[0].function == "reserve"
    assert "3 requests" in finding.title
    assert any("task:dead" in line for line in finding.because)


def test_twin_its_holder_lives():
    scene, lock = leaked()
    scene.task("holder", ["app.py:work"], holds=[lock])
    assert list(lock_leaked.check(scene.case())) == []


def test_twin_its_holder_took_it_by_hand_and_lives():
    scene, lock = leaked()
    scene.act("acquire", lock, scene.task("holder", ["app.py:work"]))
    assert list(lock_leaked.check(scene.case())) == []


def test_twin_the_wait_has_a_limit_that_has_not_passed():
    scene = Scene()
    scene.request("POST", "/reserve", ["app.py:reserve"], scene.lock(), deadline_ns=2**60)
    assert list(lock_leaked.check(scene.case())) == []


def test_a_permit_is_lost():
    scene = Scene()
    permits = scene.primitive("semaphore", capacity=2, in_use=2, ready=False)
    scene.task("alive", ["app.py:work"], scene.primitive("peer"), [permits])
    scene.request("GET", "/a", ["app.py:a"], permits)
    (finding,) = lock_leaked.check(scene.case())
    assert any("1 of 2 permits" in line for line in finding.because)
