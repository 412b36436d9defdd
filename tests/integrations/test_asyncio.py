"""What asyncio's own primitives look like when real tasks are parked on them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hangwatch.integrations import asyncio as recognised
from hangwatch.integrations import asyncio_hooks, threads
from hangwatch.reading.live import LiveReader
from hangwatch.records import FOREVER
from hangwatch.snapshot import take
from tests.parked import awaited, held, in_thread, look_at, task, waits_of

since_311 = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio has it since 3.11")


# Locks and events


def test_event():
    async def waits():
        await asyncio.Event().wait()

    seen = waits_of(look_at(lambda: {"waits": waits()}), "waits")
    assert (seen.kind, seen.label, seen.ready, seen.state["set"], seen.state["waiting"]) == ("event", "asyncio.Event", False, False, 1)


def test_lock_names_its_holder_and_its_waiters():
    lock = asyncio.Lock()

    async def holds():
        async with lock:
            await asyncio.sleep(60)

    async def waits():
        async with lock:
            pass

    snapshot = look_at(lambda: {"holds": holds(), "one": waits(), "two": waits()})
    seen = waits_of(snapshot, "one")
    assert (seen.kind, seen.ready, seen.state["locked"]) == ("lock", False, True)
    assert seen.holders == (task(snapshot, "holds").id,)
    assert set(seen.waiters) == {task(snapshot, "one").id, task(snapshot, "two").id}
    assert held(snapshot, task(snapshot, "holds")) == ["lock"]
    assert held(snapshot, task(snapshot, "one")) == []
    hold = task(snapshot, "holds").holds[0]
    assert hold.frame.function.endswith("holds") and hold.frame.file == __file__


def test_lock_taken_by_hand_and_forgotten_has_no_holder():
    lock = asyncio.Lock()

    async def forgets():
        await lock.acquire()

    seen = waits_of(look_at(lambda: {"forgets": forgets(), "waits": lock.acquire()}), "waits")
    assert (seen.kind, seen.holders, seen.state["locked"]) == ("lock", (), True)


def test_lock_that_is_free_while_somebody_waits_is_ready():
    async def broken():
        lock = asyncio.Lock()
        await lock.acquire()
        asyncio.get_running_loop().call_later(0.01, setattr, lock, "_locked", False)
        await lock.acquire()

    assert waits_of(look_at(lambda: {"broken": broken()}), "broken").ready is True


def test_semaphore_counts_and_names_its_holders():
    semaphore = asyncio.BoundedSemaphore(2)

    async def holds():
        async with semaphore:
            await asyncio.sleep(60)

    async def waits():
        async with semaphore:
            pass

    snapshot = look_at(lambda: {"first": holds(), "second": holds(), "third": waits()})
    seen = waits_of(snapshot, "third")
    assert (seen.kind, seen.ready, seen.capacity, seen.in_use) == ("semaphore", False, 2, 2)
    assert set(seen.holders) == {task(snapshot, "first").id, task(snapshot, "second").id}


def test_condition_lets_its_lock_go_while_it_waits():
    def make():
        condition = asyncio.Condition()

        async def waits():
            async with condition:
                await condition.wait()

        async def waits_for():
            async with condition:
                await condition.wait_for(lambda: False)

        async def works():
            async with condition:
                await asyncio.sleep(60)

        return {"waits": waits(), "waits_for": waits_for(), "works": works()}

    snapshot = look_at(make)
    seen = waits_of(snapshot, "waits")
    assert (seen.kind, len(seen.waiters)) == ("condition", 2)
    assert waits_of(snapshot, "waits_for").id == seen.id
    assert held(snapshot, task(snapshot, "waits")) == []
    assert held(snapshot, task(snapshot, "works")) == ["lock"]


def test_condition_notified_but_behind_its_lock_waits_for_the_lock():
    def make():
        condition = asyncio.Condition()

        async def waits():
            async with condition:
                await condition.wait()

        async def notifies():
            async with condition:
                condition.notify_all()
                await asyncio.sleep(60)

        return {"waits": waits(), "notifies": notifies()}

    snapshot = look_at(make)
    seen = waits_of(snapshot, "waits")
    assert (seen.kind, seen.holders) == ("lock", (task(snapshot, "notifies").id,))


@since_311
def test_barrier():
    async def waits():
        await barrier.wait()

    def make():
        nonlocal barrier
        barrier = asyncio.Barrier(3)
        return {"one": waits(), "two": waits()}

    barrier = None
    seen = waits_of(look_at(make), "one")
    assert (seen.kind, seen.state["parties"], seen.state["arrived"]) == ("barrier", 3, 2)


# Queues


def test_queue_get_of_nobody_in_particular_may_last():
    snapshot = look_at(lambda: {"gets": asyncio.Queue().get(), "last": asyncio.LifoQueue().get(), "least": asyncio.PriorityQueue().get()})
    for name in ("gets", "last", "least"):
        seen = waits_of(snapshot, name)
        assert (seen.kind, seen.ready, seen.state["size"], seen.patience_ns) == ("queue-get", False, 0, FOREVER)


def test_queue_put_and_join():
    def make():
        full, unfinished = asyncio.Queue(1), asyncio.Queue()
        full.put_nowait(1)
        unfinished.put_nowait(1)
        unfinished.get_nowait()
        return {"puts": full.put(2), "joins": unfinished.join()}

    snapshot = look_at(make)
    put, join = waits_of(snapshot, "puts"), waits_of(snapshot, "joins")
    assert (put.kind, put.ready, put.capacity, put.in_use) == ("queue-put", False, 1, 1)
    assert (join.kind, join.ready, join.state["unfinished"]) == ("queue-join", False, 1)


# Tasks and futures


def test_bare_future_and_another_task():
    async def bare():
        await asyncio.get_running_loop().create_future()

    async def awaits_task():
        await asyncio.ensure_future(bare())

    snapshot = look_at(lambda: {"bare": bare(), "awaits_task": awaits_task()})
    assert (waits_of(snapshot, "bare").kind, waits_of(snapshot, "bare").ready) == ("future", False)
    seen = waits_of(snapshot, "awaits_task")
    assert seen.kind == "task" and len(seen.holders) == 1
    assert seen.id not in {task.id for task in snapshot.tasks}
    child = next(task for task in snapshot.tasks if task.id == seen.holders[0])
    assert child.parent_id == task(snapshot, "awaits_task").id


def test_gather_waits_for_each_of_its_children():
    async def gathers():
        await asyncio.gather(asyncio.sleep(60), asyncio.sleep(0), asyncio.Event().wait())

    seen = waits_of(look_at(lambda: {"gathers": gathers()}), "gathers")
    assert (seen.kind, seen.state["of"], seen.state["pending"], len(seen.holders)) == ("gather", 3, 2, 2)


def test_shield_shows_the_task_behind_it():
    async def shields():
        await asyncio.shield(asyncio.get_running_loop().create_task(asyncio.sleep(60), name="inner"))

    snapshot = look_at(lambda: {"shields": shields()})
    assert waits_of(snapshot, "shields").holders == (task(snapshot, "inner").id,)


@pytest.mark.parametrize("mode, kind", [(asyncio.ALL_COMPLETED, "gather"), (asyncio.FIRST_COMPLETED, "task")])
def test_wait(mode, kind):
    async def waits():
        children = [asyncio.ensure_future(asyncio.sleep(60)) for _ in range(2)]
        try:
            await asyncio.wait(children, return_when=mode, timeout=50)
        finally:
            for child in children:
                child.cancel()

    snapshot = look_at(lambda: {"waits": waits()})
    seen = waits_of(snapshot, "waits")
    assert (seen.kind, len(seen.holders), seen.ready) == (kind, 2, False)
    assert 45e9 < seen.patience_ns <= 50e9


def test_as_completed():
    async def waits():
        for each in asyncio.as_completed([asyncio.sleep(60), asyncio.sleep(61)]):
            await each

    snapshot = look_at(lambda: {"waits": waits()})
    assert len(waits_of(snapshot, "waits").holders) == 2


@since_311
def test_task_group():
    async def groups():
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(60))
            group.create_task(asyncio.sleep(0))

    seen = waits_of(look_at(lambda: {"groups": groups()}), "groups")
    assert (seen.kind, len(seen.holders), seen.ready) == ("group", 1, False)


# Time


def test_sleep_is_healthy_until_its_time():
    snapshot = look_at(lambda: {"sleeps": asyncio.sleep(60)})
    seen = waits_of(snapshot, "sleeps")
    assert seen.kind == "timer" and 55e9 < seen.patience_ns <= 60e9
    wait = next(wait for wait in snapshot.waits if wait.primitive_id == seen.id)
    assert wait.deadline_ns == pytest.approx(snapshot.at_ns + seen.patience_ns, abs=1e6)


def test_wait_for_puts_its_deadline_on_what_is_awaited():
    """Whether it awaits in place (3.12+) or in a task of its own (before)."""

    async def application():
        await asyncio.Event().wait()

    async def waits():
        await asyncio.wait_for(application(), 60)

    snapshot = look_at(lambda: {"waits": waits()})
    wait = next(wait for wait in snapshot.waits if wait.task_id == task(snapshot, "waits").id)
    assert 55e9 < wait.deadline_ns - snapshot.at_ns <= 60e9
    inner = next(wait for wait in snapshot.waits if wait.primitive_id.startswith("event:"))
    assert inner.deadline_ns == pytest.approx(wait.deadline_ns, abs=1e6)


@since_311
def test_timeout_block_is_a_deadline_and_not_a_hold():
    async def waits():
        async with asyncio.timeout(60):
            await asyncio.Event().wait()

    snapshot = look_at(lambda: {"waits": waits()})
    assert 55e9 < waits_of(snapshot, "waits").patience_ns <= 60e9
    assert task(snapshot, "waits").holds == ()


# Streams, sockets, processes, servers


@contextlib.contextmanager
def silent_server():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_stream_read_names_the_peer():
    with silent_server() as port:

        async def reads():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await reader.readline()
            finally:
                writer.close()

        snapshot = look_at(lambda: {"reads": reads()}, settle_s=0.2)
        seen = waits_of(snapshot, "reads")
        assert (seen.kind, seen.state["address"], seen.state["accepted"]) == ("peer", f"127.0.0.1:{port}", False)
        assert next(wait.op for wait in snapshot.waits if wait.primitive_id == seen.id) == "readline"


def test_drain_to_a_client_that_does_not_read():
    async def serves(reader, writer):
        writer.write(b"x" * 50_000_000)
        await writer.drain()

    async def starts():
        server = await asyncio.start_server(serves, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        try:
            await asyncio.sleep(60)
        finally:
            client.close()
            server.close()

    snapshot = look_at(lambda: {"starts": starts()}, settle_s=0.3)
    seen = next(primitive for primitive in snapshot.primitives if primitive.kind == "client")
    assert seen.state["unsent"] > 1_000_000 and str(seen.state["address"]).startswith("127.0.0.1:")


def test_socket_calls_of_the_loop():
    with silent_server() as port:
        ours = socket.create_connection(("127.0.0.1", port))
        ours.setblocking(False)
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)

        async def receives():
            await asyncio.get_running_loop().sock_recv(ours, 10)

        async def accepts():
            await asyncio.get_running_loop().sock_accept(listening)

        snapshot = look_at(lambda: {"receives": receives(), "accepts": accepts()})
        assert waits_of(snapshot, "receives").state["address"] == f"127.0.0.1:{port}"
        assert waits_of(snapshot, "accepts").patience_ns == FOREVER
        ours.close()
        listening.close()


def test_subprocess_wait_and_communicate():
    async def waits():
        process = await asyncio.create_subprocess_exec("sleep", "60")
        try:
            await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def communicates():
        process = await asyncio.create_subprocess_exec("sleep", "60", stdout=asyncio.subprocess.PIPE)
        try:
            await process.communicate()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    snapshot = look_at(lambda: {"waits": waits(), "communicates": communicates()}, settle_s=0.4)
    for name in ("waits", "communicates"):
        seen = waits_of(snapshot, name)
        assert seen.kind == "process" and seen.state["returncode"] is None
        assert isinstance(seen.state["pid"], int)


def test_server_that_waits_for_its_connections():
    async def serves(reader, writer):
        await reader.read()

    async def closes():
        server = await asyncio.start_server(serves, "127.0.0.1", 0)
        client = socket.create_connection(server.sockets[0].getsockname())
        await asyncio.sleep(0.1)
        server.close()
        try:
            await server.wait_closed()
            await asyncio.sleep(60)
        finally:
            client.close()

    seen = waits_of(look_at(lambda: {"closes": closes()}, settle_s=0.4), "closes")
    if sys.version_info >= (3, 12):
        assert (seen.kind, seen.state["connections"], seen.ready) == ("server-close", 1, False)


def test_serving_for_ever_may_last():
    async def serves():
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        async with server:
            await server.serve_forever()

    assert waits_of(look_at(lambda: {"serves": serves()}), "serves").patience_ns == FOREVER


# Jobs in threads


def test_job_names_the_thread_that_runs_it():
    release = threading.Event()

    async def works():
        await asyncio.to_thread(release.wait, 20)

    def at(reader):
        try:
            return take(reader)
        finally:
            release.set()

    snapshot = look_at(lambda: {"works": works()}, at)
    seen = waits_of(snapshot, "works")
    runner = next(thread for thread in snapshot.threads if thread.serves == task(snapshot, "works").id)
    assert (seen.kind, seen.holders, seen.ready) == ("job", (runner.id,), False)
    assert awaited(snapshot, runner).kind == "thread-event"


def test_job_queued_behind_others_names_the_pool():
    release = threading.Event()
    pool = ThreadPoolExecutor(1, thread_name_prefix="small")

    async def works():
        await asyncio.get_running_loop().run_in_executor(pool, release.wait, 20)

    def at(reader):
        try:
            return take(reader)
        finally:
            release.set()

    snapshot = look_at(lambda: {"first": works(), "second": works()}, at)
    pool.shutdown()
    seen = waits_of(snapshot, "second")
    assert seen.state["queued"] is True and seen.state["queue"] == 1 and seen.label == "a job queued in small"
    assert (seen.capacity, seen.in_use) == (1, 1)
    assert seen.holders == waits_of(snapshot, "first").holders


def test_job_whose_result_never_crossed_over_is_ready():
    """The concurrent future is done, the asyncio one still pending: what to_thread does with a StopIteration up to 3.12."""

    async def works():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)

        def stops():
            raise StopIteration

        await loop.run_in_executor(None, stops)
        await asyncio.sleep(60)

    async def quiet():
        with contextlib.suppress(RuntimeError):
            await works()
        await asyncio.sleep(60)

    seen = waits_of(look_at(lambda: {"works": quiet()}, settle_s=0.2), "works")
    if sys.version_info < (3, 12, 2):
        assert (seen.kind, seen.ready, seen.state["state"], seen.state["asyncio future"]) == ("job", True, "FINISHED", "PENDING")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_pool_whose_threads_stayed_in_the_parent():
    """After a fork the pool believes in its idle threads, so that no new one is started for the job."""
    pool = ThreadPoolExecutor(1)
    pool.submit(int).result()
    time.sleep(0.05)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:

            async def works():
                await asyncio.get_running_loop().run_in_executor(pool, int)

            async def main():
                hung = asyncio.create_task(works(), name="works")
                await asyncio.sleep(0.1)
                snapshot = await in_thread(lambda: take(LiveReader()))
                seen = waits_of(snapshot, "works")
                os.write(write, f"{seen.state.get('dead_threads')} {seen.holders}".encode())
                hung.cancel()

            asyncio.run(main())
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    try:
        assert os.read(read, 1000).decode() == "1 ()"
    finally:
        os.close(read)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pool.shutdown()


def test_name_lookup_is_a_job(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: release.wait(20) and [])

    async def looks_up():
        await asyncio.get_running_loop().getaddrinfo("example.org", 80)

    def at(reader):
        try:
            return take(reader)
        finally:
            release.set()

    snapshot = look_at(lambda: {"looks_up": looks_up()}, at)
    seen = waits_of(snapshot, "looks_up")
    assert seen.kind == "job" and len(seen.holders) == 1
    assert next(wait.op for wait in snapshot.waits if wait.primitive_id == seen.id) == "getaddrinfo"


# Our own wrapper, and what upstream must keep


def test_the_begin_of_a_wait_is_read_from_our_wrapper(monkeypatch):
    monkeypatch.setattr(asyncio.Event, "wait", asyncio_hooks._timed_wait(asyncio.Event.wait))
    before = time.monotonic_ns()

    async def waits():
        await asyncio.Event().wait()

    snapshot = look_at(lambda: {"waits": waits()})
    wait = next(wait for wait in snapshot.waits if wait.primitive_id.startswith("event:"))
    assert before < wait.since_ns < snapshot.at_ns
    assert [frame.function.rpartition(".")[2] for frame in task(snapshot, "waits").frames] == ["waits", "wait"]
    assert not any("hangwatch" in frame.file.rpartition("/tests/")[0] for frame in task(snapshot, "waits").frames if "hooks" in frame.file)


TARGETS = [spot for module in (recognised, threads) for spot in module.WAITS if spot.target]


@pytest.mark.parametrize("spot", TARGETS, ids=lambda spot: spot.target)
def test_recognised_functions_exist_upstream(spot):
    if spot.since and sys.version_info < tuple(map(int, spot.since.split("."))):
        pytest.skip(f"upstream has it since {spot.since}")
    module, _, name = spot.target.partition(":")
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    code = found.__code__
    assert code.co_filename.endswith(spot.file) or "<frozen" in code.co_filename
    assert code.co_name == spot.function


@pytest.mark.parametrize("name", sorted({**recognised.HOLDS, **recognised.DEADLINES, **threads.HOLDS}))
def test_held_types_exist_upstream(name):
    if name.startswith(("_thread.", "async_timeout.")) or (name == "asyncio.timeouts.Timeout" and sys.version_info < (3, 11)):
        pytest.skip("not to be imported by that name")
    module, _, kind = name.rpartition(".")
    found = getattr(importlib.import_module(module), kind)
    assert found.__module__ == module and found.__qualname__ == kind
