from hangwatch.records import Evidence
from hangwatch.rules import task_lost
from tests.cases import Scene


def waiting(setters=()):
    scene = Scene()
    event = scene.primitive("event", "asyncio.Event", state={"set": False}, ready=False, setters=setters)
    scene.request("GET", "/settled", ["app.py:wait_settled:46", "asyncio/locks.py:wait"], event)
    return scene


def test_the_ring_saw_it_go():
    scene = waiting()
    scene.act("lost", "task:dead", place="app.py:create:32")
    (finding,) = task_lost.check(scene.case())
    assert finding.confidence == "likely"
    assert [frame.function for frame in finding.culprit[:2]] == ["create", "wait_settled"]


def test_the_log_says_so():
    evidence = Evidence("log", text="Task was destroyed but it is pending!\ntask: <Task pending name='settle-1'>")
    (finding,) = task_lost.check(waiting().case(evidence=(evidence,)))
    assert any("log" in line for line in finding.because)


def test_twin_somebody_can_set_it():
    scene = waiting(setters=("task:9",))
    scene.act("lost", "task:dead")
    assert list(task_lost.check(scene.case())) == []


def test_twin_no_task_was_lost():
    assert list(task_lost.check(waiting().case())) == []
