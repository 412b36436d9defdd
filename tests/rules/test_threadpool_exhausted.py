from hangwatch.rules import threadpool_exhausted
from tests.cases import NOW, Scene


def clogged():
    scene = Scene()
    queue = scene.primitive("thread-queue", "queue.Queue")
    queued = scene.primitive("job", "a job queued in asyncio", state={"queued": True}, capacity=2, in_use=2)
    threads = []
    for number in range(2):
        job = scene.primitive("job")
        task = scene.request("GET", "/events", ["app.py:next_event:19", "asyncio/threads.py:to_thread"], job)
        threads.append(scene.thread(f"asyncio_{number}", ["concurrent/futures/thread.py:_worker", "queue.py:get"], queue, serves=task))
        scene.change(job, holders=(threads[-1],))
    scene.change(queued, holders=tuple(threads))
    stuck = scene.request("GET", "/stock", ["app.py:stock:29", "httpx/_client.py:get", "asyncio/base_events.py:getaddrinfo"], queued)
    return scene, stuck, threads


def test_who_has_the_threads_is_named():
    scene, stuck, _ = clogged()
    (finding,) = threadpool_exhausted.check(scene.case(stuck))
    assert finding.confidence == "likely"
    assert "GET /stock waits for a thread: all 2" in finding.title
    assert {"next_event", "stock"} <= {frame.function for frame in finding.culprit}


def test_twin_the_threads_get_on():
    scene, stuck, threads = clogged()
    before = scene.snapshot(at_ns=NOW - 1)
    scene.change(threads[0], frames=())
    assert [f.confidence for f in threadpool_exhausted.check(scene.case(stuck, earlier=before))] == ["suspected"]


def test_twin_one_thread_is_free():
    scene, stuck, _ = clogged()
    queued = next(p for p in scene.primitives.values() if p.state.get("queued"))
    scene.change(queued.id, in_use=1)
    assert list(threadpool_exhausted.check(scene.case(stuck))) == []
