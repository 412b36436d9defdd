from hangwatch.records import FOREVER
from hangwatch.rules import never_set
from tests.cases import NOW, S, Scene


def waiting(kind="event", frames=("app.py:wait_settled:46", "asyncio/locks.py:wait"), **fields):
    scene = Scene()
    request = {name: fields.pop(name) for name in ("deadline_ns", "state_of_task") if name in fields}
    primitive = scene.primitive(kind, f"asyncio {kind}", **fields)
    scene.request("GET", "/settled", list(frames), primitive, **request)
    return scene


def test_unreachable_is_proof():
    (finding,) = never_set.check(waiting(state={"set": False, "unreachable": True}, setters=()).case())
    assert finding.confidence == "proved"


def test_that_no_live_task_refers_to_it_is_a_suspicion():
    (finding,) = never_set.check(waiting(state={"set": False}, setters=()).case())
    assert finding.confidence == "suspected"
    assert finding.culprit[0].function == "wait_settled"


def test_the_job_is_done_and_its_result_went_nowhere():
    scene = waiting(
        "job",
        ["app.py:inspect:21", "asyncio/threads.py:to_thread"],
        ready=True,
        state={"file": "/srv/shop/app.py", "function": "header_of", "line": 15},
    )
    (finding,) = never_set.check(scene.case())
    assert finding.confidence == "likely"
    assert [frame.function for frame in finding.culprit[:2]] == ["header_of", "inspect"]


def test_where_a_stop_iteration_gets_out(tmp_path):
    file = tmp_path / "rooms.py"
    file.write_text(
        "def smallest(rooms):\n    return next(r for r in rooms if r)\n\ndef find(n):\n    a = next(iter(n), None)\n    return smallest(n)\n"
    )
    scene = waiting("job", ["app.py:inspect:21"], ready=True, state={"file": str(file), "function": "find", "line": 4, "job_done": True})
    (finding,) = never_set.check(scene.case())
    assert [(frame.function, frame.line) for frame in finding.culprit[:2]] == [("smallest", 2), ("find", 4)]


def test_the_pool_has_no_threads_here():
    (finding,) = never_set.check(waiting("job", state={"queued": True, "dead_threads": 2}, ready=False).case())
    assert finding.confidence == "likely"


def test_an_item_was_never_reported_done():
    (finding,) = never_set.check(waiting("queue-join", state={"size": 0, "unfinished": 1}, ready=False).case())
    assert any("1 of its items" in line for line in finding.because)


def test_twin_under_its_own_limit():
    assert list(never_set.check(waiting(setters=(), deadline_ns=NOW + S).case())) == []


def test_twin_may_last_for_ever():
    assert list(never_set.check(waiting("queue-get", setters=(), patience_ns=FOREVER).case())) == []


def test_twin_a_long_poll_is_no_more_than_suspected():
    findings = list(never_set.check(waiting("queue-get", state={"size": 0}, setters=()).case()))
    assert {finding.confidence for finding in findings} <= {"suspected"}


def test_twin_the_thread_still_works():
    scene = waiting("job")
    job = next(iter(scene.primitives))
    scene.change(job, holders=(scene.thread("worker", ["app.py:work"]),))
    assert list(never_set.check(scene.case())) == []
