"""uvloop: its loop, transports and handles are Cython objects that tell little; its tasks are asyncio's own."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from hangwatch.reading.live import LiveReader
from hangwatch.snapshot import take
from tests.parked import awaited, held, look_at, task, waits_of

uvloop = pytest.importorskip("uvloop")


def look(make, at=take, settle_s=0.1):
    return look_at(make, at, settle_s, new_loop=uvloop.new_event_loop)


def test_tasks_chains_and_holders():
    lock = asyncio.Lock()

    async def holds():
        async with lock:
            await asyncio.sleep(60)

    async def waits():
        async with lock:
            pass

    seen = look(lambda: {"holds": holds(), "waits": waits()})
    assert waits_of(seen, "waits").holders == (task(seen, "holds").id,)
    assert held(seen, task(seen, "holds")) == ["lock"]
    assert waits_of(seen, "holds").kind == "timer"
    assert [loop.kind for loop in seen.loops if loop.id == task(seen, "waits").loop_id] == ["uvloop"]


def test_jobs_name_their_thread():
    release = threading.Event()

    def at(reader):
        try:
            return take(reader)
        finally:
            release.set()

    seen = look(lambda: {"works": asyncio.to_thread(release.wait, 20)}, at)
    runner = next(thread for thread in seen.threads if thread.serves == task(seen, "works").id)
    assert waits_of(seen, "works").holders == (runner.id,) and awaited(seen, runner).kind == "thread-event"


def test_streams_are_peers():
    with socket.create_server(("127.0.0.1", 0)) as server:

        async def reads():
            reader, writer = await asyncio.open_connection("127.0.0.1", server.getsockname()[1])
            try:
                await reader.read(1)
            finally:
                writer.close()

        assert waits_of(look(lambda: {"reads": reads()}), "reads").kind == "peer"


def test_the_thread_of_a_loop_that_does_not_tell():
    """run_until_complete is C: only who remembers the loop knows its thread."""

    async def waits():
        await asyncio.Event().wait()

    seen = look(
        lambda: {"waits": waits()},
        lambda reader: take(LiveReader(reader._known, loop_threads={id(reader._known[0]): threading.main_thread().ident})),
    )
    loop = next(loop for loop in seen.loops if loop.id == task(seen, "waits").loop_id)
    main = next(thread for thread in seen.threads if thread.name == "MainThread")
    assert loop.thread_id == main.id and main.is_loop
    assert loop.asleep in (True, None)
    assert main.syscall is None or loop.asleep is True


@pytest.mark.skipif(not hasattr(asyncio, "Runner"), reason="asyncio.Runner is new in 3.11")
def test_a_runner_shows_its_loop():
    found = []

    async def main():
        looking = threading.Thread(target=lambda: found.extend(LiveReader().loops()))
        looking.start()
        while looking.is_alive():
            await asyncio.sleep(0.01)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    assert [view.kind for view in found if view.thread_ident == threading.main_thread().ident] == ["uvloop"]
