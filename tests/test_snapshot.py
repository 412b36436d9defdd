"""A snapshot as a whole: what it holds together, what it leaves out, and that it never fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
import time

from hangwatch import integrations, snapshot
from hangwatch.graph import WaitGraph
from hangwatch.integrations import threads
from hangwatch.integrations.base import Sighting, Spot
from hangwatch.reading.live import LiveReader
from hangwatch.reading.live_objects import LiveObject
from hangwatch.records import SCHEMA, Act, Connection, Request, Snapshot, from_json, to_json
from hangwatch.snapshot import take
from tests.parked import awaited, in_thread, look_at, task, thread, waits_of


def test_it_says_who_looked_when_and_at_what():
    before = time.time()
    seen = look_at(lambda: {"waits": asyncio.Event().wait()})
    assert (seen.schema, seen.pid, seen.source) == (SCHEMA, os.getpid(), "agent")
    assert before <= seen.taken_at <= time.time() and seen.took_ms > 0
    assert seen.versions["python"] and seen.gaps == ()
    loop = next(loop for loop in seen.loops if loop.id == task(seen, "waits").loop_id)
    main = next(thread for thread in seen.threads if thread.id == loop.thread_id)
    assert loop.asleep is True and main.is_loop and main.idle and main.waits_on is None
    assert [task.state for task in seen.tasks if task.name == "waits"] == ["parked"]


def test_it_survives_json():
    seen = look_at(lambda: {"waits": asyncio.Event().wait(), "sleeps": asyncio.sleep(60)})
    assert from_json(Snapshot, json.loads(json.dumps(to_json(seen)))) == seen


def test_ids_are_unique_and_everything_named_exists():
    lock = asyncio.Lock()

    async def holds():
        async with lock:
            await asyncio.gather(asyncio.sleep(60), asyncio.Event().wait())

    seen = look_at(lambda: {"holds": holds(), "waits": lock.acquire()})
    ids = [record.id for kind in (seen.loops, seen.tasks, seen.threads, seen.primitives) for record in kind]
    assert len(ids) == len(set(ids))
    for wait in seen.waits:
        assert wait.primitive_id in ids and wait.task_id in ids
    for waiter in (*seen.tasks, *seen.threads):
        assert waiter.waits_on is None or waiter.waits_on in ids
        assert all(hold.primitive_id in ids for hold in waiter.holds)


def test_a_deadlock_over_locks_of_tasks_and_threads_is_a_cycle_of_the_graph():
    """task -> job -> thread -> thread lock -> task."""
    lock = threading.Lock()

    async def crosses():
        with lock:
            await asyncio.to_thread(needs)

    def needs():
        lock.acquire(timeout=2)

    seen = look_at(lambda: {"crosses": crosses()}, settle_s=0.2)
    cycle = WaitGraph(seen).cycles()[0]
    assert task(seen, "crosses").id in cycle and any(part.startswith("thread-lock:") for part in cycle)


def test_a_wake_up_from_another_thread_that_did_not_wake_the_loop_shows():
    """The waiter is done and its callback queued, the loop sleeps on: the mark of a set() from a foreign thread."""

    async def main():
        event, seen = asyncio.Event(), []

        async def waits():
            await event.wait()

        def sets_and_looks():
            while not event._waiters:
                time.sleep(0.005)
            time.sleep(0.1)  # the loop falls asleep
            event.set()
            seen.append(take(LiveReader()))

        hung = asyncio.create_task(waits(), name="waits")
        thread = threading.Thread(target=sets_and_looks)
        thread.start()
        await asyncio.sleep(3)
        thread.join()
        return seen[0], hung

    seen, _ = asyncio.run(main())
    loop = next(loop for loop in seen.loops if loop.id == task(seen, "waits").loop_id)
    assert task(seen, "waits").state == "ready"
    assert loop.asleep is True and loop.ready > 0
    event = waits_of(seen, "waits")
    assert event.ready is True


def test_a_loop_that_woke_while_it_was_looked_at_is_not_said_to_sleep():
    """A turn that begins between the look at the loop and the look at its tasks, and is held up in its middle: nothing is wrong with that."""
    event, turning = asyncio.Event(), threading.Event()

    def turn():
        event.set()
        turning.set()
        time.sleep(0.5)

    class Reader(LiveReader):
        def tasks(self):
            asyncio_loop.call_soon_threadsafe(turn)
            assert turning.wait(5)
            return super().tasks()

    async def main():
        hung = asyncio.create_task(event.wait(), name="waits")
        seen = await in_thread(lambda: take(Reader([asyncio_loop])))
        return seen, await hung

    asyncio_loop = asyncio.new_event_loop()
    seen, _ = asyncio_loop.run_until_complete(asyncio.wait_for(main(), 30))
    asyncio_loop.close()
    assert task(seen, "waits").state == "ready"
    assert not next(loop for loop in seen.loops if loop.id == task(seen, "waits").loop_id).asleep


def test_nobody_waits_for_his_own_rlock(monkeypatch):
    """A thread that takes and gives it all the time: its stack is of one moment, the call it is in of another."""
    lock, done = threading.RLock(), threading.Event()

    def works():
        with lock:
            done.wait(20)

    for name in ("mine", "another's"):
        threading.Thread(target=works if name == "mine" else lambda: done.wait(20), name=name, daemon=True).start()
    monkeypatch.setattr(snapshot.recognise, "wait_of", lambda *_: snapshot.recognise.NOTHING)
    monkeypatch.setattr(threads, "called", lambda frame, desk: Sighting(threads.lock_primitive(LiveObject(lock), desk), "acquire"))
    seen = look_at(lambda: {"waits": asyncio.Event().wait()})
    done.set()
    assert thread(seen, "mine").waits_on is None
    assert thread(seen, "another's").waits_on == awaited(seen, thread(seen, "another's")).id


def test_who_could_set_an_event_is_named():
    class Job:
        def __init__(self):
            self.done = asyncio.Event()

    def make():
        job, direct, timed, forgotten = Job(), asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def waits(event):
            await event.wait()

        async def works(on):
            await asyncio.sleep(60)
            on.done.set()

        async def knows():
            await asyncio.sleep(60)
            direct.set()

        asyncio.get_running_loop().call_later(60, timed.set)
        return {
            "attribute": waits(job.done),
            "works": works(job),
            "direct": waits(direct),
            "knows": knows(),
            "timed": waits(timed),
            "forgotten": waits(forgotten),
        }

    seen = look_at(make)
    assert waits_of(seen, "attribute").setters == (task(seen, "works").id,)
    assert waits_of(seen, "direct").setters == (task(seen, "knows").id,)
    assert waits_of(seen, "timed").setters == (task(seen, "timed").loop_id,)
    assert waits_of(seen, "forgotten").setters == ()


def test_what_is_waited_on_has_the_name_that_the_application_gives_it():
    class Ledger:
        def __init__(self):
            self.lock = asyncio.Lock()

        async def book(self):
            async with self.lock:
                await asyncio.sleep(60)

    class Desk:
        def __init__(self):
            self.ledger = Ledger()
            self.done = asyncio.Event()

    def make():
        desk = Desk()

        async def closes():
            done = desk.done
            await done.wait()

        return {"books": desk.ledger.book(), "waits": desk.ledger.book(), "closes": closes()}

    seen = look_at(make)
    assert waits_of(seen, "waits").label == "asyncio.Lock Ledger.lock"
    assert waits_of(seen, "closes").label == "asyncio.Event done"


SHARED = threading.Lock()


def test_a_global_has_its_name_too():
    def waits():
        with SHARED:
            pass

    blocked = threading.Thread(target=waits, name="waits", daemon=True)
    with SHARED:
        blocked.start()
        time.sleep(0.1)
        seen = take(LiveReader())
    blocked.join()
    assert awaited(seen, thread(seen, "waits")).label == "threading.Lock SHARED"


def test_children_work_for_their_parents_request(monkeypatch):
    """A stand-in for a server's integration: one spot that names a request by a local."""

    async def serve(number):
        await asyncio.gather(asyncio.sleep(60), deeper())

    async def deeper():
        await asyncio.create_task(asyncio.sleep(60))

    def tell(look):
        number = look.frame.local("number").value()
        return Request(f"request:{number}", None, look.waiter_id, "GET", "/", look.desk.now_ns, "app")

    spot = Spot("test_snapshot.py", "serve", tell)
    monkeypatch.setitem(integrations.REQUESTS, ("test_snapshot.py", "serve"), [spot])
    seen = look_at(lambda: {"served": serve(5), "other": asyncio.sleep(60)})
    assert [request.task_id for request in seen.requests] == [task(seen, "served").id]
    assert [task.request_id for task in seen.tasks].count("request:5") == 4
    assert task(seen, "other").request_id is None


def test_what_the_ledger_knows_is_completed_by_what_frames_show(monkeypatch):
    async def answer(number):
        await asyncio.sleep(60)

    def tell(look):
        return Request("request:a", None, look.waiter_id, "GET", "/from/frame", None, "app")

    monkeypatch.setitem(integrations.REQUESTS, ("test_snapshot.py", "answer"), [Spot("test_snapshot.py", "answer", tell)])
    known = Request("request:a", "connection:b", None, "POST", "", 12, "body", trace_id="t")
    queued = Request("request:queued", "connection:b", None, "GET", "/next", 13, "queued")
    connection = Connection("connection:b", "http", client="10.0.0.1:1")

    def at(reader):
        return take(reader, requests=(known, queued, connection), dropped={"acts": 3}, history=(Act(1, "set", "event:1", None, None),))

    seen = look_at(lambda: {"answers": answer(1)}, at)
    merged = next(request for request in seen.requests if request.id == "request:a")
    assert (merged.since_ns, merged.route, merged.task_id, merged.trace_id) == (12, "/from/frame", task(seen, "answers").id, "t")
    assert next(request for request in seen.requests if request.id == "request:queued").task_id is None
    assert seen.connections == (connection,)
    assert seen.dropped["acts"] == 3 and len(seen.history) == 1


def test_tasks_that_matter_most_are_read_first():
    def at(reader):
        wanted = next(f"task:{view.id:x}" for view in reader.tasks() if view.name == "last")
        return wanted, take(reader, first=[wanted])

    names = {f"task {number}": asyncio.sleep(60) for number in range(20)}
    wanted, seen = look_at(lambda: {**names, "last": asyncio.sleep(60)}, at)
    assert seen.tasks[0].id == wanted


def test_more_tasks_than_the_limit_are_counted(monkeypatch):
    monkeypatch.setattr(snapshot, "TASK_LIMIT", 5)
    names = {f"task {number}": asyncio.sleep(60) for number in range(9)}
    count, seen = look_at(lambda: names, lambda reader: (len(list(reader.tasks())), take(reader)))
    assert len(seen.tasks) == 5 and seen.dropped["tasks"] == count - 5 >= 5


def test_a_recogniser_that_fails_is_a_gap(monkeypatch):
    def fails(look):
        raise LookupError("upstream moved")

    monkeypatch.setitem(integrations.WAITS, ("locks.py", "wait"), [Spot("asyncio/locks.py", "wait", fails)])
    from hangwatch.integrations import recognise

    monkeypatch.setattr(recognise, "_places", {})
    seen = look_at(lambda: {"waits": asyncio.Event().wait()})
    assert waits_of(seen, "waits").kind == "future"
    assert any("wait of asyncio/locks.py" in gap and "upstream moved" in gap for gap in seen.gaps)


def test_a_reader_that_fails_everywhere_still_gives_a_snapshot():
    class Broken(LiveReader):
        def loops(self):
            raise OSError("loops")

        def tasks(self):
            raise OSError("tasks")

        def threads(self):
            raise OSError("threads")

        def versions(self):
            raise OSError("versions")

    seen = take(Broken())
    assert (seen.tasks, seen.threads, seen.loops, seen.versions) == ((), (), (), {})
    assert any("tasks" in gap for gap in seen.gaps)


def test_a_task_that_cannot_be_read_does_not_take_the_others_with_it(monkeypatch):
    from hangwatch.reading.live import LiveTask

    whole = LiveTask.frames

    def frames(self):
        if self.name == "broken":
            raise ValueError("torn")
        return whole(self)

    monkeypatch.setattr(LiveTask, "frames", frames)
    seen = look_at(lambda: {"broken": asyncio.sleep(60), "whole": asyncio.sleep(60)})
    assert "whole" in {task.name for task in seen.tasks} and "broken" not in {task.name for task in seen.tasks}
    assert any("torn" in gap for gap in seen.gaps)


def test_the_loop_runs_while_a_snapshot_is_taken():
    async def main():
        tasks = [asyncio.create_task(asyncio.sleep(60)) for _ in range(2000)]
        await asyncio.sleep(0.05)
        turns = 0
        looking = asyncio.ensure_future(asyncio.to_thread(take, LiveReader(slice_ns=1_000_000)))
        while not looking.done():
            turns += 1
            await asyncio.sleep(0)
        for each in tasks:
            each.cancel()
        return turns, await looking

    turns, seen = asyncio.run(main())
    assert len(seen.tasks) >= 2000 and turns > 20


def test_taking_one_leaves_nothing_behind():
    """Neither views nor frames outlive the snapshot: the next collection finds none of them."""
    import gc

    from hangwatch.reading.live_frames import LiveFrame

    look_at(lambda: {f"task {number}": asyncio.sleep(60) for number in range(10)}, lambda reader: [take(reader) for _ in range(3)])
    left = [found for found in gc.get_objects() if type(found) is LiveFrame]
    assert left == []


def test_two_loops_in_two_threads():
    release = threading.Event()

    async def in_other():
        await asyncio.get_running_loop().run_in_executor(None, release.wait, 20)

    other = asyncio.new_event_loop()
    runs = threading.Thread(target=lambda: other.run_until_complete(in_other()), name="other loop")
    runs.start()
    try:
        seen = look_at(lambda: {"here": asyncio.sleep(60)}, settle_s=0.1)
        loops = {loop.thread_id: loop.id for loop in seen.loops}
        assert loops[thread(seen, "other loop").id] == f"loop:{id(other):x}"
        job = next(task for task in seen.tasks if task.loop_id == f"loop:{id(other):x}")
        assert awaited(seen, job).kind == "job"
    finally:
        release.set()
        runs.join()
        other.run_until_complete(other.shutdown_default_executor())
        other.close()


def test_calling_the_module_is_the_public_snapshot():
    assert callable(snapshot) and snapshot.take is take


def test_a_program_that_waits_on_the_network_and_is_cancelled():
    """``cancelling`` and a peer, in one program that swallows its cancellation."""

    async def swallows(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await reader.read(1)
                    return
        finally:
            writer.close()

    async def main():
        with socket.create_server(("127.0.0.1", 0)) as server:
            hung = asyncio.create_task(swallows(server.getsockname()[1]), name="swallows")
            await asyncio.sleep(0.1)
            hung.cancel()
            await asyncio.sleep(0.05)
            seen = await in_thread(lambda: take(LiveReader()))
            server.accept()[0].close()
            await hung
            return seen

    seen = asyncio.run(main())
    assert waits_of(seen, "swallows").kind == "peer"
    assert task(seen, "swallows").cancelling == (1 if hasattr(asyncio.Task, "cancelling") else 0)


def test_snapshots_all_the_time_disturb_nobody():
    """A busy service that checks its own results, looked at without a pause for a second and a half."""
    wrong, taken = [], []

    @contextlib.asynccontextmanager
    async def guarded(lock):
        async with lock:
            yield

    async def counts(upto):
        for number in range(upto):
            await asyncio.sleep(0)
            yield number

    def squares(seed):
        with threading.Lock():
            return [number * seed for number in range(100)]

    async def works(seed, lock, queue, stop):
        while not stop.is_set():
            async with guarded(lock):
                total = sum([number async for number in counts(5)])
            await queue.put(seed)
            passed = await queue.get()
            in_thread_, _ = await asyncio.gather(asyncio.to_thread(squares, seed), asyncio.sleep(0))
            if (total, type(passed), in_thread_) != (10, int, squares(seed)):
                wrong.append((total, passed, in_thread_))

    async def main():
        stop, queue = threading.Event(), asyncio.Queue()
        locks = [asyncio.Lock() for _ in range(3)]
        tasks = [asyncio.create_task(works(seed, locks[seed % 3], queue, stop)) for seed in range(20)]
        loop = asyncio.get_running_loop()

        def looks():
            while not stop.is_set():
                taken.append(take(LiveReader([loop])).gaps)

        looker = threading.Thread(target=looks)
        looker.start()
        await asyncio.sleep(1.5)
        stop.set()
        await asyncio.gather(*tasks)
        looker.join()

    asyncio.run(main())
    assert wrong == [] and len(taken) > 3 and set(taken) == {()}
