import dataclasses

from hangwatch.rules import foreign_thread
from tests.cases import Scene


def sleeping(ready=1):
    scene = Scene()
    queue, reply = scene.primitive("queue-get", ready=True), scene.primitive("job")
    served = scene.task("serve", ["app.py:_serve:30", "asyncio/queues.py:get"], queue, state="ready")
    scene.request("GET", "/thumbnail", ["app.py:thumbnail:48"], reply)
    thread = scene.thread("web", ["app.py:web"])
    scene.act("put", queue, None, thread, "app.py:submit:36")
    scene.loop = dataclasses.replace(scene.loop, asleep=True, ready=ready)
    return scene, served


def test_its_wakeup_is_queued_and_the_loop_sleeps():
    scene, served = sleeping()
    (finding,) = foreign_thread.check(scene.case())
    assert finding.confidence == "proved"
    assert [frame.function for frame in finding.culprit[:2]] == ["submit", "thumbnail"]
    assert served in finding.subjects


def test_one_look_of_two_is_no_proof():
    scene, _ = sleeping()
    awake = scene.snapshot(loops=(dataclasses.replace(scene.loop, asleep=False),))
    (finding,) = foreign_thread.check(scene.case(earlier=awake))
    assert finding.confidence == "suspected"


def test_twin_the_loop_turns():
    scene, _ = sleeping()
    scene.loop = dataclasses.replace(scene.loop, asleep=False)
    assert list(foreign_thread.check(scene.case())) == []


def test_twin_nothing_is_queued():
    scene, served = sleeping(ready=0)
    scene.change(served, state="parked")
    scene.change(scene.tasks[served].waits_on, ready=False)
    assert list(foreign_thread.check(scene.case())) == []
