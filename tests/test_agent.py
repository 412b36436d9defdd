"""The agent goes in and out of a process, follows forks, and leaves nothing behind. Each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.services import ROOT


def program(tmp_path: Path, code: str, *, status: int = 0, **environ: str) -> str:
    """What it prints; it must end by itself."""
    head = "import asyncio, os, sys, threading, time\nimport hangwatch\nfrom hangwatch import agent\n"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HANGWATCH_SPOOL": str(tmp_path / "spool"), **environ}
    done = subprocess.run(
        # From 3.12 on Python warns of every fork beside a thread; the agent's threads are made for it.
        [sys.executable, "-W", "error::ResourceWarning", "-W", "ignore::DeprecationWarning", "-c", head + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=40,
        env=env,
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def test_no_thread_before_a_loop_runs_and_none_after_uninstall(tmp_path):
    said = program(
        tmp_path,
        """
        def ours():
            return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("hangwatch"))
        hangwatch.install()
        assert "asyncio" in sys.modules
        print(ours())
        asyncio.run(asyncio.sleep(0.5))
        print(ours()[-2:])
        hangwatch.uninstall()
        print(ours(), agent.current())
        print(list(sys.meta_path) == [finder for finder in sys.meta_path if "hangwatch" not in type(finder).__module__])
        """,
    )
    assert said.splitlines() == ["[]", "['hangwatch-reporter', 'hangwatch-watchdog']", "[] None", "True"]


def test_the_second_install(tmp_path):
    said = program(
        tmp_path,
        """
        hangwatch.install(stall_after=5)
        first = agent.current()
        hangwatch.install(stall_after=5)
        assert agent.current() is first
        try:
            hangwatch.install(stall_after=6)
        except Exception as error:
            print(type(error).__name__, error, "|", error.help_text)
        try:
            hangwatch.install(stal_after=6)
        except Exception as error:
            print(type(error).__name__, error)
        """,
    )
    assert said.splitlines()[0].startswith("ConfigError hangwatch is installed already, with other settings | ")
    assert said.splitlines()[1] == "ConfigError unknown setting stal_after"


def test_install_inside_a_running_loop_and_from_another_thread(tmp_path):
    said = program(
        tmp_path,
        """
        async def main():
            hangwatch.install(loop_after=0.3)
            marks = list(agent.current().ledger.loops.values())
            print([mark.ident == threading.get_ident() and mark.loop is asyncio.get_running_loop() for mark in marks])
        asyncio.run(main())
        hangwatch.uninstall()

        async def outside():
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, hangwatch.install)
            print([mark.ident == threading.get_ident() and mark.loop is loop for mark in agent.current().ledger.loops.values()])
        asyncio.run(outside())
        """,
    )
    assert said.splitlines() == ["[True]", "[True]"]


def test_a_forked_child_ends_and_starts_afresh(tmp_path):
    said = program(
        tmp_path,
        """
        hangwatch.install(loop_after=0.3)

        async def main():
            await asyncio.sleep(0.6)
            pid = os.fork()
            if pid == 0:
                child = agent.current()
                state = (child.watchdog, child.reporter, child.timer, len(child.ledger.loops))
                os.write(1, f"child {state}\\n".encode())
                os._exit(0)
            os.waitpid(pid, 0)
            await asyncio.sleep(0.3)
            print("parent", agent.current().watchdog._thread.is_alive(), agent.current().timer.error)

        asyncio.run(main())
        pid = os.fork()
        if pid == 0:
            async def child():
                await asyncio.sleep(0.6)
                print("watched", agent.current().watchdog._thread.is_alive(), flush=True)
            asyncio.run(child())
            sys.exit(3)
        print("status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """,
    )
    assert said.splitlines() == ["child (None, None, None, 0)", "parent True None", "watched True", "status 3"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_end(tmp_path, method):
    (tmp_path / "work.py").write_text("import asyncio\n\n\ndef work():\n    asyncio.run(asyncio.sleep(0.1))\n")
    said = program(
        tmp_path,
        f"""
        sys.path.insert(0, {str(tmp_path)!r})
        import multiprocessing, work
        hangwatch.install()
        async def main():
            await asyncio.sleep(0.3)
            child = multiprocessing.get_context({method!r}).Process(target=work.work)
            child.start()
            await asyncio.get_running_loop().run_in_executor(None, child.join, 20)
            print(child.exitcode)
        asyncio.run(main())
        """,
    )
    assert said.splitlines()[-1] == "0"


def test_several_loops_in_several_threads(tmp_path):
    said = program(
        tmp_path,
        """
        hangwatch.install(loop_after=0.3, pyspy=False)
        def blocks():
            async def block():
                await asyncio.sleep(0.5)
                time.sleep(1.2)
            asyncio.run(block())
        thread = threading.Thread(target=blocks)
        async def main():
            thread.start()
            await asyncio.sleep(2.5)
            print(len(agent.current().ledger.loops))
        asyncio.run(main())
        hangwatch.uninstall()
        from hangwatch.store import Store
        for incident in Store(os.environ["HANGWATCH_SPOOL"]).list():
            loop = next(loop for loop in incident.snapshot.loops if loop.id == incident.stall.subject_id)
            print(incident.stall.kind, loop.thread_id == f"thread:{thread.native_id}", incident.closed_at is not None)
        """,
    )
    assert said.splitlines() == ["1", "loop True True"]


def test_a_spool_that_cannot_be_written_is_one_warning_and_the_service_runs(tmp_path):
    blocked = tmp_path / "a file"
    blocked.write_text("")
    said = program(
        tmp_path,
        """
        hangwatch.install(loop_after=0.2, pyspy=False)
        async def main():
            await asyncio.sleep(0.8)
            time.sleep(0.7)
            await asyncio.sleep(0.7)
            print("dropped", agent.current().ledger.dropped.get("spool"))
        asyncio.run(main())
        """,
        HANGWATCH_SPOOL=str(blocked / "spool"),
    )
    warnings = [line for line in said.splitlines() if line.startswith("hangwatch:")]
    assert len(warnings) == 1
    assert "nothing can be kept in" in warnings[0]
    assert "dropped 1" in said


def test_switched_off_by_the_environment(tmp_path):
    assert program(tmp_path, "hangwatch.install(); print(agent.current())", HANGWATCH_DISABLED="1") == "None\n"


def test_the_timer_of_the_application_stays_its_own(tmp_path):
    said = program(
        tmp_path,
        """
        import faulthandler
        original = faulthandler.dump_traceback_later
        hangwatch.install()
        async def main():
            await asyncio.sleep(0.4)
            faulthandler.dump_traceback_later(1.0, exit=True)
            await asyncio.sleep(3)
        asyncio.run(main())
        """,
        status=1,
    )
    assert "Timeout (0:00:01)!" in said


def test_snapshot_with_and_without_the_agent(tmp_path):
    said = program(
        tmp_path,
        """
        async def parked():
            await asyncio.Event().wait()
        async def main():
            task = asyncio.ensure_future(parked())
            for _ in range(2):
                await asyncio.sleep(0.3)
                found = hangwatch.snapshot()
                (wait,) = [wait for wait in found.waits if wait.task_id == f"task:{id(task):x}"]
                print(wait.op, wait.since_ns is not None)
                hangwatch.install()
                task.cancel()
                task = asyncio.ensure_future(parked())
        asyncio.run(main())
        """,
    )
    assert said.splitlines() == ["wait False", "wait True"]


def test_a_clean_end_leaves_no_folder_of_the_worker(tmp_path):
    program(tmp_path, "hangwatch.install(); asyncio.run(asyncio.sleep(1)); print(os.listdir(os.environ['HANGWATCH_SPOOL'] + '/workers'))")
    assert list((tmp_path / "spool" / "workers").iterdir()) == []
