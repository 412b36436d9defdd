"""asgiref's sandwiches on real loops and threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from hangwatch.graph import WaitGraph
from tests.integrations.stage import loop_running, when

sync = pytest.importorskip("asgiref.sync")


def test_sync_to_async_waits_for_the_thread_that_runs_it():
    release = threading.Event()

    def works():
        release.wait()

    async def main():
        await sync.sync_to_async(works)()

    with loop_running(main):
        seen = when(lambda now: now.of("works") and (found := now.awaited_by("main")) and found.holders)
        job = seen.awaited_by("main")
        assert (job.kind, job.library, job.holders) == ("job", "asgiref", (seen.of("works").id,))
        assert (job.state["function"], job.state["file"]) == ("works", __file__)
        release.set()


def test_thread_in_async_to_sync_waits_for_its_task():
    async def view():
        await asyncio.Event().wait()

    def middleware():
        sync.async_to_sync(view)()

    async def main():
        async with sync.ThreadSensitiveContext():
            await sync.sync_to_async(middleware)()

    with loop_running(main):
        seen = when(lambda now: now.of("view") and now.of("middleware") and (found := now.awaited_by("middleware")) and found.holders)
        assert seen.awaited_by("middleware").holders == (seen.of("view").id,)
        graph = WaitGraph(seen.taken)
        assert graph.final(seen.task("main").id)[-1] == seen.of("view").waits_on


def test_call_queued_for_the_thread_that_waits_for_it():
    """A call submitted to a thread's own executor by hand waits for that thread."""
    entered, release = threading.Event(), threading.Event()

    def slow():
        entered.set()
        release.wait()

    async def view():
        await asyncio.gather(sync.sync_to_async(slow)(), queued())

    async def queued():
        await sync.sync_to_async(print)()

    def middleware():
        sync.async_to_sync(view)()

    async def main():
        async with sync.ThreadSensitiveContext():
            await sync.sync_to_async(middleware)()

    with loop_running(main):
        seen = when(lambda now: entered.is_set() and now.of("queued") and (found := now.awaited_by("queued")) and found.holders)
        assert seen.awaited_by("queued").state["queued"] is True
        assert seen.awaited_by("queued").holders == (seen.of("slow").id,)
        release.set()
