"""What blocked threads look like: locks, conditions, queues, joins, futures, sockets, children, imports; and who holds what."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import multiprocessing
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hangwatch.reading.live import LiveReader
from hangwatch.records import FOREVER, Snapshot
from hangwatch.snapshot import take
from tests.parked import awaited, held, look_at, task, thread


@contextlib.contextmanager
def running(*works: Any, let_go: Any = lambda: None) -> Iterator[Snapshot]:
    """A snapshot while each of ``works`` is blocked in a daemon thread named after it."""
    threads = [threading.Thread(target=work, name=work.__name__, daemon=True) for work in works]
    for each in threads:
        each.start()
        time.sleep(0.05)
    time.sleep(0.1)
    try:
        yield take(LiveReader())
    finally:
        let_go()
        for each in threads:
            each.join(10)


@pytest.mark.parametrize("make", [threading.Lock, threading.RLock], ids=["Lock", "RLock"])
def test_lock_names_its_holder(make):
    lock, release = make(), threading.Event()

    def holds():
        with lock:
            release.wait(10)

    def waits():
        with lock:
            pass

    with running(holds, waits, let_go=release.set) as snapshot:
        seen = awaited(snapshot, thread(snapshot, "waits"))
        assert (seen.kind, seen.ready, seen.holders) == ("thread-lock", False, (thread(snapshot, "holds").id,))
        assert held(snapshot, thread(snapshot, "holds")) == ["thread-lock"]
        wait = next(wait for wait in snapshot.waits if wait.primitive_id == seen.id)
        assert (wait.op, wait.frame.function.rpartition(".")[2]) == ("acquire", "waits")


def test_rlock_taken_by_hand_names_its_owner_all_the_same():
    lock, release = threading.RLock(), threading.Event()

    def holds():
        lock.acquire()
        release.wait(10)
        lock.release()

    def waits():
        lock.acquire(timeout=10)

    with running(holds, waits, let_go=release.set) as snapshot:
        assert awaited(snapshot, thread(snapshot, "waits")).holders == (thread(snapshot, "holds").id,)


def test_lock_of_threads_held_by_a_parked_task():
    lock = threading.Lock()

    async def holds():
        with lock:
            await asyncio.sleep(60)

    waiter = threading.Thread(target=lock.acquire, kwargs={"timeout": 10}, name="not seen", daemon=True)

    def waits():
        with lock:
            pass

    blocked = threading.Thread(target=waits, name="waits", daemon=True)

    def at(reader):
        blocked.start()
        time.sleep(0.1)
        return take(reader)

    snapshot = look_at(lambda: {"holds": holds()}, at)
    blocked.join(10)
    assert awaited(snapshot, thread(snapshot, "waits")).holders == (task(snapshot, "holds").id,)
    assert not waiter.is_alive()


def test_condition_event_semaphore_barrier():
    condition, event, semaphore, barrier = threading.Condition(), threading.Event(), threading.BoundedSemaphore(1), threading.Barrier(2)
    semaphore.acquire()

    def waits_condition():
        with condition:
            condition.wait(10)

    def waits_event():
        event.wait(10)

    def waits_semaphore():
        semaphore.acquire(timeout=10)

    def waits_barrier():
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(10)

    def let_go():
        with condition:
            condition.notify_all()
        event.set()
        semaphore.release()
        barrier.abort()

    with running(waits_condition, waits_event, waits_semaphore, waits_barrier, let_go=let_go) as snapshot:
        kinds = {
            name: awaited(snapshot, thread(snapshot, name))
            for name in ("waits_condition", "waits_event", "waits_semaphore", "waits_barrier")
        }
        assert [seen.kind for seen in kinds.values()] == ["condition", "thread-event", "semaphore", "barrier"]
        assert kinds["waits_event"].ready is False
        assert (kinds["waits_semaphore"].capacity, kinds["waits_semaphore"].in_use, kinds["waits_semaphore"].ready) == (1, 1, False)
        assert thread(snapshot, "waits_condition").holds == (), "a condition lets its lock go while it waits"


def test_queues():
    empty, full, unfinished, simple = queue.Queue(), queue.Queue(1), queue.Queue(), queue.SimpleQueue()
    full.put(1)
    unfinished.put(1)

    def gets():
        empty.get()

    def puts():
        full.put(2)

    def joins():
        unfinished.join()

    def gets_simple():
        simple.get()

    def let_go():
        empty.put(1)
        full.get()
        unfinished.task_done()
        simple.put(1)

    with running(gets, puts, joins, gets_simple, let_go=let_go) as snapshot:
        seen = {name: awaited(snapshot, thread(snapshot, name)) for name in ("gets", "puts", "joins", "gets_simple")}
        assert {each.kind for each in seen.values()} == {"thread-queue"}
        assert [seen[name].ready for name in seen] == [False] * 4
        assert (seen["puts"].capacity, seen["puts"].in_use) == (1, 1)
        assert [thread(snapshot, name).holds for name in seen] == [()] * 4, "a queue lets its mutex go while it waits"


def test_join_names_the_thread():
    release = threading.Event()

    def works():
        release.wait(10)

    target = threading.Thread(target=works, name="target")
    target.start()

    def joins():
        target.join(10)

    with running(joins, let_go=release.set) as snapshot:
        seen = awaited(snapshot, thread(snapshot, "joins"))
        assert (seen.kind, seen.holders, seen.ready) == ("thread", (thread(snapshot, "target").id,), False)
    target.join()


def test_result_of_a_pool_names_the_thread_that_computes_it():
    release = threading.Event()
    pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="pool")
    job = pool.submit(release.wait, 10)

    def waits():
        job.result(10)

    with running(waits, let_go=release.set) as snapshot:
        assert awaited(snapshot, thread(snapshot, "waits")).holders == (thread(snapshot, "pool_0").id,)
        assert thread(snapshot, "waits").holds == ()
    pool.shutdown()


def test_a_pools_idle_thread_is_idle_and_may_stay_so():
    pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="resting")
    pool.submit(int).result()
    with running() as snapshot:
        resting = thread(snapshot, "resting_0")
        assert resting.idle is True and awaited(snapshot, resting).patience_ns == FOREVER
    pool.shutdown()


def test_a_thread_that_waits_for_a_coroutine_names_its_task():
    async def never():
        await asyncio.sleep(60)

    async def main():
        loop = asyncio.get_running_loop()

        def asks():
            with contextlib.suppress(concurrent.futures.CancelledError):
                asyncio.run_coroutine_threadsafe(never(), loop).result(20)

        asking = threading.Thread(target=asks, name="asks")
        asking.start()
        await asyncio.sleep(0.2)
        snapshot = await loop.run_in_executor(None, lambda: take(LiveReader([loop])))
        for each in asyncio.all_tasks() - {asyncio.current_task()}:
            each.cancel()
        await loop.run_in_executor(None, asking.join)
        return snapshot

    snapshot = asyncio.run(main())
    seen = awaited(snapshot, thread(snapshot, "asks"))
    assert seen.kind == "job"
    child = next(task for task in snapshot.tasks if task.id == seen.holders[0])
    assert child.frames[0].function.endswith("never")


def test_a_loop_that_waits_for_its_own_coroutine_waits_for_itself():
    async def later():
        return 1

    async def main():
        with contextlib.suppress(concurrent.futures.TimeoutError):
            asyncio.run_coroutine_threadsafe(later(), asyncio.get_running_loop()).result(0.6)

    found = []
    looker = threading.Timer(0.2, lambda: found.append(take(LiveReader())))
    looker.start()
    asyncio.run(main())
    looker.join()
    loop_thread = next(thread for thread in found[0].threads if thread.is_loop and thread.waits_on)
    assert awaited(found[0], loop_thread).holders == (loop_thread.id,)


def test_socket_reads_name_the_peer():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        direct, through_file = socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port))
        accepted = [server.accept()[0] for _ in range(2)]

        def receives():
            direct.recv(1)

        def reads_line():
            through_file.makefile("rb").readline()

        def let_go():
            for each in accepted:
                each.close()

        with running(receives, reads_line, let_go=let_go) as snapshot:
            for name in ("receives", "reads_line"):
                seen = awaited(snapshot, thread(snapshot, name))
                assert (seen.kind, seen.state["address"]) == ("peer", f"127.0.0.1:{port}")
            syscall = thread(snapshot, "receives").syscall
            assert syscall is None or syscall == f"recvfrom tcp 127.0.0.1:{port}"
        direct.close()
        through_file.close()


def test_child_process():
    child = subprocess.Popen(["sleep", "30"])

    def waits():
        child.wait(20)

    with running(waits, let_go=child.kill) as snapshot:
        seen = awaited(snapshot, thread(snapshot, "waits"))
        assert (seen.kind, seen.state["pid"]) == ("process", child.pid)


def test_pipe_and_queue_between_processes():
    here, there = multiprocessing.Pipe()
    between = multiprocessing.get_context("spawn").Queue()

    def receives():
        here.recv()

    def gets():
        between.get()

    def let_go():
        there.send(1)
        between.put(1)

    with running(receives, gets, let_go=let_go) as snapshot:
        assert awaited(snapshot, thread(snapshot, "receives")).kind == "pipe"
        assert awaited(snapshot, thread(snapshot, "gets")).kind == "pipe"
    between.close()
    between.join_thread()


def test_sleep_is_a_timer():
    def sleeps():
        time.sleep(0.5)

    with running(sleeps) as snapshot:
        assert awaited(snapshot, thread(snapshot, "sleeps")).kind == "timer"


def test_import_lock_names_the_importing_thread(tmp_path, monkeypatch):
    (tmp_path / "slow_to_import.py").write_text("import gate\ngate.release.wait(10)\n")
    (tmp_path / "gate.py").write_text("import threading\nrelease = threading.Event()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import gate  # made above

    def imports():
        import slow_to_import  # noqa: F401

    def imports_too():
        import slow_to_import  # noqa: F401

    with running(imports, imports_too, let_go=gate.release.set) as snapshot:
        seen = awaited(snapshot, thread(snapshot, "imports_too"))
        assert (seen.kind, seen.state["module"], seen.ready) == ("import-lock", "slow_to_import", False)
        assert seen.holders == (thread(snapshot, "imports").id,)
    for name in ("gate", "slow_to_import"):
        sys.modules.pop(name, None)
