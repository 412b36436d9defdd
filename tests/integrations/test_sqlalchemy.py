"""Real SQLAlchemy pools over SQLite: what is out, with whom, and who waits."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from tests.integrations.stage import loop_running, parked

sqlalchemy = pytest.importorskip("sqlalchemy")
from sqlalchemy import create_engine, text  # noqa: E402
from sqlalchemy.orm import Session  # noqa: E402
from sqlalchemy.pool import QueuePool  # noqa: E402


@pytest.fixture
def engine(tmp_path):
    return create_engine(
        f"sqlite:///{tmp_path}/x.db",
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        pool_timeout=30,
        connect_args={"check_same_thread": False},
    )


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


def test_thread_waits_for_the_pool_and_a_thread_has_it(engine):
    release = threading.Event()

    def has():
        session = Session(engine)
        session.execute(text("select 1"))
        release.wait()
        session.close()

    def wants():
        with engine.connect():
            pass

    threads = [in_thread(has)]
    parked("has", "thread-event")
    threads.append(in_thread(wants))
    seen = parked("wants", "pool")
    pool = seen.awaited_by("wants")
    assert (pool.capacity, pool.in_use, pool.ready) == (1, 1, False)
    assert pool.holders == (seen.of("has").id,)
    assert pool.state["out with the living"] == 1
    assert seen.wait("wants").deadline_ns > seen.taken.at_ns
    release.set()
    for thread in threads:
        thread.join(10)


def test_connection_that_nobody_has(engine):
    kept = {}

    def leak():
        kept["connection"] = engine.connect()

    in_thread(leak).join()
    wanting = in_thread(wants_leaked, engine)
    pool = parked("wants_leaked", "pool").awaited_by("wants_leaked")
    assert (pool.in_use, pool.holders, pool.state["out with the living"]) == (1, (), 0)
    kept.pop("connection").close()
    wanting.join(10)


def wants_leaked(engine):
    with engine.connect():
        pass


def test_session_of_a_generator_in_an_exit_stack(engine):
    """As FastAPI keeps the sessions of ``yield`` dependencies."""

    @contextlib.contextmanager
    def dependency():
        session = Session(engine)
        try:
            session.execute(text("select 1"))
            yield session
        finally:
            session.close()

    async def request():
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(dependency())
            await asyncio.Event().wait()

    with loop_running(request):
        parked("request", "event")
        wanting = in_thread(wants_leaked, engine)
        seen = parked("wants_leaked", "pool")
        assert seen.awaited_by("wants_leaked").holders == (seen.of("request").id,)
    wanting.join(10)


def test_asyncio_pool(tmp_path):
    pytest.importorskip("aiosqlite")
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
    from sqlalchemy.pool import AsyncAdaptedQueuePool

    async def main():
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/y.db", poolclass=AsyncAdaptedQueuePool, pool_size=1, max_overflow=0)
        await asyncio.gather(has(engine), wants(engine))

    async def has(engine):
        async with AsyncSession(engine) as session:
            await session.execute(text("select 1"))
            await asyncio.Event().wait()

    async def wants(engine):
        await asyncio.sleep(0.3)
        async with AsyncSession(engine) as session:
            await session.execute(text("select 1"))

    with loop_running(main):
        seen = parked("wants", "pool")
        pool = seen.awaited_by("wants")
        assert (pool.capacity, pool.in_use, pool.ready) == (1, 1, False)
        assert pool.holders == (seen.of("has").id,)
