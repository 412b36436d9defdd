"""anyio's waits on real tasks and threads: what is held by whom, who waits, what is handed to which thread."""

from __future__ import annotations

import asyncio
import threading

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from hangwatch.graph import WaitGraph
from hangwatch.records import FOREVER
from tests.integrations.stage import loop_running, parked, when


async def forever():
    await asyncio.Event().wait()


def test_lock_names_its_owner():
    async def main():
        lock = anyio.Lock()

        async def owner():
            async with lock:
                await forever()

        async def wants_lock():
            async with lock:
                pass

        async with anyio.create_task_group() as group:
            group.start_soon(owner)
            group.start_soon(wants_lock)

    with loop_running(main):
        seen = parked("wants_lock", "lock")
        lock = seen.awaited_by("wants_lock")
        assert lock.holders == (seen.of("owner").id,)
        assert (lock.ready, lock.state["locked"]) == (False, True)
        main_id = seen.task("main").id
        assert {seen.of("owner").parent_id, seen.of("wants_lock").parent_id} == {main_id}
        group = seen.awaited_by("main")
        assert group.kind == "group"
        assert set(group.holders) == {seen.of("owner").id, seen.of("wants_lock").id}


def test_lock_without_owner_is_ready():
    """Released in the one moment in which its only waiter was cancelled but still queued (anyio 1145)."""
    outcome = []

    async def main():
        lock = anyio.Lock()
        await lock.acquire()
        waiter = asyncio.ensure_future(lock.acquire())
        await asyncio.sleep(0.01)
        waiter.cancel()
        lock.release()
        outcome.append(lock.statistics().tasks_waiting)
        await wants_lock(lock)
        await forever()

    async def wants_lock(lock):
        async with lock:
            pass

    with loop_running(main):
        seen = when(lambda now: now.awaited_by("main"))
        found = seen.awaited_by("main")
        if found.kind != "lock":
            pytest.skip("this anyio passes the lock on")
        assert found.ready is True
        assert found.holders == ()


def test_condition_lets_its_lock_go():
    async def main():
        condition = anyio.Condition()

        async def waits():
            async with condition:
                await condition.wait()

        async with anyio.create_task_group() as group:
            group.start_soon(waits)

    with loop_running(main):
        seen = parked("waits", "condition")
        assert not seen.of("waits").holds


def test_semaphore_counts():
    async def main():
        semaphore = anyio.Semaphore(1, max_value=1)

        async def has():
            async with semaphore:
                await forever()

        async def wants():
            await anyio.sleep(0.05)
            async with semaphore:
                pass

        async with anyio.create_task_group() as group:
            group.start_soon(has)
            group.start_soon(wants)

    with loop_running(main):
        seen = parked("wants", "semaphore")
        found = seen.awaited_by("wants")
        assert (found.ready, found.capacity, found.in_use, found.holders) == (False, 1, 1, (seen.of("has").id,))


def test_limiter_is_held_by_the_threads_that_its_borrowers_wait_for():
    release = threading.Event()

    def work():
        release.wait()

    async def main():
        limiter = anyio.CapacityLimiter(2)
        async with anyio.create_task_group() as group:
            for number in range(2):
                group.start_soon(borrow, limiter, name=f"borrower {number}")
            await anyio.sleep(0.1)
            group.start_soon(third, limiter)
            await forever()  # worker threads end with the task that began the loop

    async def borrow(limiter):
        await anyio.to_thread.run_sync(work, limiter=limiter)

    async def third(limiter):
        await anyio.to_thread.run_sync(work, limiter=limiter)

    with loop_running(main):
        seen = parked("third", "limiter")
        limiter = seen.awaited_by("third")
        assert (limiter.capacity, limiter.in_use, limiter.ready) == (2, 2, False)
        workers = {t.id for t in seen.taken.threads if any(f.function.split(".")[-1] == "work" for f in t.frames)}
        assert len(workers) == 2
        assert set(limiter.holders) == workers
        job = seen.primitives[seen.task("borrower 0").waits_on]
        assert (job.kind, job.state["function"], job.ready) == ("job", "work", False)
        assert job.state["file"] == __file__
        assert set(job.holders) < workers
        (thread,) = (t for t in seen.taken.threads if t.id == job.holders[0])
        assert thread.serves == seen.task("borrower 0").id
        release.set()
        idle = when(lambda now: [p for p in now.primitives.values() if p.label == "work for an anyio worker thread"])
        assert all(p.patience_ns == FOREVER for p in idle.primitives.values() if p.label == "work for an anyio worker thread")


def test_token_taken_while_waiting_for_the_own_loop_is_a_deadlock():
    async def main():
        limiter = anyio.CapacityLimiter(1)
        await anyio.to_thread.run_sync(outer, limiter, limiter=limiter)

    def outer(limiter):
        anyio.from_thread.run(inner, limiter)

    async def inner(limiter):
        await anyio.to_thread.run_sync(print, limiter=limiter)

    with loop_running(main):
        seen = parked("inner", "limiter")
        graph = WaitGraph(seen.taken)
        assert {seen.of("inner").id, seen.of("outer").id} <= graph.deadlocked()


def test_thread_that_waits_for_the_loop():
    held = threading.Event()

    async def main():
        await anyio.to_thread.run_sync(calls)

    def calls():
        anyio.from_thread.run_sync(held.wait)

    with loop_running(main):
        seen = parked("calls", "loop")
        loop = seen.awaited_by("calls")
        assert loop.holders == tuple(t.id for t in seen.taken.threads if t.name == "stage-loop")
        held.set()


def test_memory_stream_both_ends():
    async def main():
        send, receive = anyio.create_memory_object_stream(1)
        idle_send, idle_receive = anyio.create_memory_object_stream(1)

        async def puts():
            while True:
                await send.send("more")

        async def gets():
            await idle_receive.receive()

        async with anyio.create_task_group() as group:
            group.start_soon(puts)
            group.start_soon(gets)
        return receive, idle_send

    with loop_running(main):
        seen = parked("puts", "queue-put")
        assert (seen.awaited_by("puts").ready, seen.awaited_by("puts").state["size"]) == (False, 1)
        got = seen.awaited_by("gets")
        assert (got.kind, got.ready, got.state["open senders"]) == ("queue-get", False, 1)


def test_deadline_of_a_cancel_scope():
    async def main():
        with anyio.move_on_after(1000):
            await forever()

    with loop_running(main):
        seen = parked("forever", "event")
        assert 900e9 < seen.wait("forever").deadline_ns - seen.taken.at_ns < 1001e9


def test_socket_stream_waits_for_its_peer():
    async def main():
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)

        async def reads():
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.receive()

        async with anyio.create_task_group() as group:
            group.start_soon(reads)
            await listener.serve(serves)

    async def serves(stream):
        await forever()

    with loop_running(main):
        seen = parked("reads", "peer")
        peer = seen.awaited_by("reads")
        assert peer.state["address"].startswith("127.0.0.1:")
        assert peer.ready is False
        accepting = [p for p in seen.primitives.values() if p.label == "a new connection"]
        assert accepting
        assert all(p.patience_ns == FOREVER for p in accepting)


def test_result_that_was_never_handed_over(capfd):
    """The thread is back in its queue and the future is pending: a job whose result went nowhere (anyio 475)."""

    async def main():
        loop = asyncio.get_running_loop()
        ready = threading.Event()

        def work():
            loop.call_soon_threadsafe(drop_next_report)
            ready.wait(0.2)

        def drop_next_report():
            from anyio._backends._asyncio import WorkerThread

            for thread in threading.enumerate():
                if isinstance(thread, WorkerThread):
                    thread._report_result = lambda *args: None

        await anyio.to_thread.run_sync(work)

    with loop_running(main):
        seen = when(lambda now: (found := now.awaited_by("main")) and found.kind == "job" and found.state.get("job_done"))
        job = seen.awaited_by("main")
        assert job.holders == ()
        assert job.state["function"] == "work"
