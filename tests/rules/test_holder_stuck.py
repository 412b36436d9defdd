from hangwatch.rules import holder_stuck
from tests.cases import Scene


def chained(end="peer", **fields):
    scene = Scene()
    lock, peer = scene.lock("token lock"), scene.primitive(end, "10.0.0.7:443", **fields)
    scene.request(
        "GET", "/a", ["app.py:get:26", "app.py:refresh:32", "httpcore/_async/connection.py:handle"], peer, [(lock, "app.py:get:26")]
    )
    for _ in range(2):
        scene.request("GET", "/b", ["app.py:get:26"], lock)
    return scene


def test_it_names_the_end_of_the_chain():
    (finding,) = holder_stuck.check(chained().case())
    assert finding.confidence == "likely"
    assert "the peer 10.0.0.7:443" in finding.title or "10.0.0.7:443" in finding.title
    assert finding.culprit[0].function == "refresh"
    assert finding.frees == 2


def test_twin_the_holder_sleeps_for_a_while():
    (finding,) = holder_stuck.check(chained("timer", patience_ns=2**60).case())
    assert finding.confidence == "suspected"


def test_twin_the_holder_moves_on():
    scene = chained()
    before = scene.snapshot()
    holder = next(task for task in scene.tasks.values() if task.holds)
    scene.change(holder.id, frames=holder.frames[:1])
    (finding,) = holder_stuck.check(scene.case(earlier=before))
    assert finding.confidence == "suspected"


def test_twin_a_stream_whose_child_waits_for_events():
    scene = Scene()
    group = scene.primitive("group")
    child = scene.task("child", ["app.py:subscribe:19"], scene.primitive("queue-get"))
    scene.change(group, holders=(child,))
    scene.request("GET", "/events", ["app.py:events"], group, phase="responding")
    assert [finding.confidence for finding in holder_stuck.check(scene.case())] == ["suspected"]


def test_a_thread_that_waits_for_a_child_process():
    scene = Scene()
    job, pipe = scene.primitive("job"), scene.primitive("pipe", "a pipe to another process")
    scene.change(job, holders=(scene.thread("worker", ["app.py:render_in_child:50"], pipe),))
    scene.request("GET", "/invoice", ["app.py:invoice:60", "asyncio/threads.py:to_thread"], job)
    (finding,) = holder_stuck.check(scene.case())
    assert finding.confidence == "likely"
    assert finding.culprit[0].function == "render_in_child"


def test_a_child_that_never_ends_is_to_be_cancelled():
    scene = Scene()
    child = scene.task("heartbeat", ["app.py:heartbeat:15", "asyncio/tasks.py:sleep"], scene.primitive("timer", "asyncio.sleep"))
    group = scene.primitive("group", "asyncio.TaskGroup", holders=(child,))
    scene.request("POST", "/jobs", ["app.py:run_job:24", "asyncio/taskgroups.py:__aexit__"], group)
    (finding,) = holder_stuck.check(scene.case())
    assert finding.confidence == "suspected"
    assert "task 'heartbeat'" in finding.advice and "cancel it" in finding.advice
