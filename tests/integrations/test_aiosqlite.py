"""A real aiosqlite connection and its thread."""

from __future__ import annotations

import threading

import pytest

from hangwatch.records import FOREVER
from tests.integrations.stage import loop_running, when

aiosqlite = pytest.importorskip("aiosqlite")


def test_query_is_run_by_the_connections_thread():
    release = threading.Event()

    def slow():
        release.wait()
        return 1

    async def main():
        async with aiosqlite.connect(":memory:") as connection:
            await connection.create_function("slow", 0, slow)
            await queries(connection)
            await idles()

    async def queries(connection):
        await connection.execute("select slow()")

    async def idles():
        import asyncio

        await asyncio.Event().wait()

    with loop_running(main):
        seen = when(lambda now: now.of("slow") and (found := now.awaited_by("queries")) and found.holders)
        job = seen.awaited_by("queries")
        assert (job.kind, job.holders) == ("job", (seen.of("slow").id,))
        assert seen.of("slow").serves == seen.of("queries").id
        release.set()
        idle = when(lambda now: [p for p in now.primitives.values() if p.library == "aiosqlite"] and now.of("idles"))
        assert {p.patience_ns for p in idle.primitives.values() if p.library == "aiosqlite" and p.kind == "thread-queue"} == {FOREVER}
