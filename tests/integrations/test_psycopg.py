"""A real PostgreSQL: queries that wait, pools that are empty."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from tests.integrations.stage import loop_running, parked
from tests.processes import until

psycopg = pytest.importorskip("psycopg")
pool_module = pytest.importorskip("psycopg_pool")


def program(name: str) -> str | None:
    found = shutil.which(name) or next((str(p) for p in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None)
    return found and os.path.realpath(found)


@pytest.fixture(scope="module")
def address():
    """A PostgreSQL of its own, in a folder of its own, as a user that is not root."""
    initdb, postgres = program("initdb"), program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("PostgreSQL is not installed")
    user = {"user": pwd.getpwnam("nobody").pw_uid} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "LC_ALL": "C", "HOME": str(folder)}
    made = subprocess.run(
        [initdb, "-D", f"{folder}/data", "-U", "test", "-A", "trust"], capture_output=True, env=environment, cwd=folder, **user
    )
    assert made.returncode == 0, made.stderr.decode()
    command = [postgres, "-D", f"{folder}/data", "-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, cwd=folder, **user)
    where = f"host=127.0.0.1 port={port} user=test dbname=postgres"
    try:
        until(lambda: answers(where))
        yield where
    finally:
        child.send_signal(signal.SIGINT)  # a fast shutdown: does not wait for clients
        child.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def answers(where: str) -> bool:
    try:
        psycopg.connect(where).close()
    except psycopg.OperationalError:
        return False
    return True


def test_query_waits_for_postgresql(address):
    async def asks():
        async with await psycopg.AsyncConnection.connect(address) as connection:
            await connection.execute("select pg_sleep(60)")

    with loop_running(asks):
        peer = parked("asks", "peer").awaited_by("asks")
        assert (peer.library, peer.label) == ("psycopg", "PostgreSQL")


def test_pool_of_one(address):
    async def main():
        async with pool_module.AsyncConnectionPool(address, min_size=1, max_size=1, open=False) as pool:
            await asyncio.gather(has(pool), wants(pool))

    async def has(pool):
        async with pool.connection():
            await asyncio.Event().wait()

    async def wants(pool):
        await asyncio.sleep(0.3)
        async with pool.connection(timeout=300):
            pass

    with loop_running(main):
        seen = parked("wants", "pool")
        pool = seen.awaited_by("wants")
        assert (pool.capacity, pool.in_use, pool.ready) == (1, 1, False)
        assert pool.holders == (seen.of("has").id,)


def test_pool_for_threads(address):
    release = threading.Event()

    def has(pool):
        with pool.connection() as connection:
            release.wait()
            connection.rollback()

    def wants_thread(pool):
        with pool.connection(timeout=60):
            pass

    with pool_module.ConnectionPool(address, min_size=1, max_size=1) as pool:
        threads = [threading.Thread(target=has, args=(pool,), daemon=True)]
        threads[0].start()
        parked("has", "thread-event")
        threads.append(threading.Thread(target=wants_thread, args=(pool,), daemon=True))
        threads[1].start()
        seen = parked("wants_thread", "pool")
        assert seen.awaited_by("wants_thread").holders == (seen.of("has").id,)
        release.set()
        for thread in threads:
            thread.join(10)
