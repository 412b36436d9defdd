import dataclasses

from hangwatch.graph import WaitGraph
from hangwatch.records import Hold
from tests.cases import LOOP, LOOP_THREAD, Scene


def graph(scene):
    return WaitGraph(scene.snapshot())


def test_two_locks_in_opposite_order_are_a_cycle():
    scene = Scene()
    alice, bob = scene.lock("alice"), scene.lock("bob")
    first = scene.task("first", waits_on=bob, holds=[alice])
    second = scene.task("second", waits_on=alice, holds=[bob])
    behind = scene.task("behind", waits_on=alice)
    found = graph(scene)
    assert [set(cycle) for cycle in found.cycles()] == [{first, bob, second, alice}]
    assert found.deadlocked() == {first, second, behind}
    assert found.knots() == [frozenset({first, second})]
    assert found.frees(bob) == 3


def test_who_has_the_lock_that_it_waits_for_waits_for_itself():
    scene = Scene()
    lock = scene.lock()
    waiter = scene.task(waits_on=lock, holds=[lock])
    assert graph(scene).holders(lock) == (waiter,)
    assert graph(scene).cycles() == [(waiter, lock)]


def test_a_pool_that_somebody_can_still_give_back_to_is_no_deadlock():
    scene = Scene()
    pool = scene.primitive("pool", capacity=2, in_use=2)
    scene.task(waits_on=pool, holds=[pool])
    scene.task(frames=["app.py:works"], state="running", holds=[pool])
    assert graph(scene).deadlocked() == frozenset()


def test_a_pool_held_by_those_who_wait_for_more_of_it():
    scene = Scene()
    pool = scene.primitive("pool", capacity=2, in_use=2)
    members = {scene.task(waits_on=pool, holds=[pool]) for _ in range(2)}
    assert graph(scene).knots() == [frozenset(members)]
    assert graph(scene).fully_known(pool)


def test_a_gather_is_stuck_when_one_child_is():
    scene = Scene()
    lock = scene.lock()
    gather = scene.primitive("gather")
    parent = scene.task("parent", waits_on=gather, holds=[lock])
    stuck = scene.task("stuck", waits_on=lock)
    free = scene.task("free", state="running")
    scene.change(gather, holders=(stuck, free))
    assert graph(scene).deadlocked() == {parent, stuck}


def test_a_blocked_loop_is_waited_for_by_its_tasks():
    scene = Scene()
    lock = scene.primitive("thread-lock")
    job = scene.primitive("job")
    task = scene.task("on the loop", state="ready")
    thread = scene.thread("worker", ["app.py:work"], waits_on=job, holds=[lock])
    scene.change(job, holders=(task,))
    scene.loop_thread(["app.py:read"], waits_on=lock)
    (cycle,) = graph(scene).cycles()
    assert set(cycle) == {LOOP_THREAD, lock, thread, job, task, LOOP}


def test_a_job_that_nobody_runs_is_for_the_loop_that_is_blocked():
    scene = Scene()
    lock, job = scene.primitive("thread-lock"), scene.primitive("job", state={"state": "PENDING"})
    thread = scene.thread("worker", ["app.py:work"], waits_on=job, holds=[lock])
    scene.loop_thread(["app.py:read"], waits_on=lock)
    (cycle,) = graph(scene).cycles()
    assert set(cycle) == {LOOP_THREAD, lock, thread, job}
    assert not graph(scene).fully_known(job)


def test_a_loop_that_sleeps_in_its_selector_blocks_nobody():
    scene = Scene()
    task = scene.task("on the loop")
    scene.change(LOOP_THREAD, waits_on=scene.primitive("other"))
    assert graph(scene).waits_of(task) == ()


def test_a_lock_taken_by_hand_is_held_by_its_last_taker_of_record():
    scene = Scene()
    lock = scene.lock()
    taker = scene.task("taker")
    scene.act("acquire", lock, taker)
    scene.task(waits_on=lock)
    assert graph(scene).live_holders(lock) == (taker,)
    scene.act("release", lock, taker, at_ns=scene.history[0].at_ns + 1)
    assert graph(scene).live_holders(lock) == ()


def test_a_taker_that_is_gone_leaves_only_its_loops_thread_in_the_ring():
    scene = Scene()
    lock = scene.lock()
    scene.act("acquire", lock, None, LOOP_THREAD)
    scene.task(waits_on=lock)
    assert graph(scene).live_holders(lock) == ()


def test_final_ends_at_what_everybody_waits_for():
    scene = Scene()
    peer, lock = scene.primitive("peer", "auth:443"), scene.lock()
    holder = scene.task("holder", waits_on=peer, holds=[lock])
    waiter = scene.task("waiter", waits_on=lock)
    assert graph(scene).final(waiter) == (waiter, lock, holder, peer)
    assert graph(scene).behind(peer) == {holder, waiter}
    assert graph(scene).ahead(waiter) == {waiter, lock, holder, peer}


def test_final_ends_where_a_circle_would_close():
    scene = Scene()
    a, b = scene.lock("a"), scene.lock("b")
    first = scene.task(waits_on=b, holds=[a])
    second = scene.task(waits_on=a, holds=[b])
    assert graph(scene).final(first) == (first, b, second, a)


def test_a_request_stands_for_its_task():
    scene = Scene()
    lock = scene.lock()
    task = scene.request("GET", "/a", ["app.py:a"], waits_on=lock)
    request = next(iter(scene.requests))
    found = graph(scene)
    assert found.node(request) == task
    assert found.waits_of(request) == (lock,)
    child = scene.task("child", parent_id=task)
    thread = scene.thread("worker", ["app.py:w"], serves=child)
    assert graph(scene).request_of(thread).route == "/a"


def test_five_thousand_waiters_of_one_lock_whose_holder_waits_for_the_last():
    scene = Scene()
    lock, other = scene.lock(), scene.lock()
    for _ in range(5000):
        scene.task(waits_on=lock)
    holder = scene.task(waits_on=other, holds=[lock])
    last = scene.task(waits_on=lock, holds=[other])
    found = graph(scene)
    assert found.knots() == [frozenset({holder, last})]
    assert len(found.deadlocked()) == 5002
    assert Hold(lock) in found.tasks[holder].holds


def test_a_job_that_one_of_two_blocked_loops_must_begin_is_held_by_both():
    scene = Scene()
    unbegun = scene.primitive("job", "a coroutine given to a loop", state={"state": "PENDING"}, ready=False)
    other = scene.thread("device-loop", ["app.py:on_device:20", "threading.py:wait"], unbegun)
    running = scene.task("on_device", ["app.py:on_device:20"], state="running")
    promised = scene.primitive("job", "a coroutine given to a loop", state={"state": "PENDING"}, ready=False, holders=(running,))
    mine = scene.loop_thread(["asyncio/base_events.py:_run_once", "app.py:send:25", "threading.py:wait"], promised)
    snapshot = scene.snapshot()
    loops = (*snapshot.loops, dataclasses.replace(snapshot.loops[0], id="loop:b0", thread_id=other, asleep=False))
    tasks = tuple(dataclasses.replace(task, loop_id="loop:b0") if task.id == running else task for task in snapshot.tasks)
    found = WaitGraph(dataclasses.replace(snapshot, loops=loops, tasks=tasks))
    assert set(found.holders(unbegun)) == {mine, other}
    assert {mine, other, running} <= found.deadlocked()
    assert not found.fully_known(unbegun)
