"""A group without CPU is not called hung; of several loops in one process the blocked one is named."""

from __future__ import annotations

import secrets
import sys
import threading

import pytest

from tests.kernel.bpf import needs_bpf
from tests.processes import running
from tests.watcher.contained import group, mounts
from tests.watcher.watched import Client, kernel_facts, uvicorn, waits_for, watching

pytest.importorskip("uvicorn")
pytestmark = [pytest.mark.needs_ptrace, pytest.mark.slow]

TWO_LOOPS = """
import asyncio, sys, threading, time

async def fine():
    while True:
        await asyncio.sleep(0.05)

async def blocks():
    await asyncio.sleep(0.2)
    print(threading.get_native_id(), flush=True)
    sys.stdin.readline()
    for _ in range(200):
        await asyncio.sleep(0.01)
    time.sleep(30)

for work in (fine, blocks, fine):
    threading.Thread(target=lambda work=work: asyncio.run(work())).start()
"""


@needs_bpf
def test_of_several_loops_the_blocked_one_is_named(tmp_path):
    with running([sys.executable, "-c", TWO_LOOPS]) as child:
        blocked = int(child.stdout.readline())
        with watching(tmp_path, child.pid) as told:
            child.stdin.write(b"\n")
            child.stdin.flush()
            incident = waits_for(told, lambda i: i.stall.kind == "loop" and i.findings[0].cause == "blocked-loop-io")
            assert kernel_facts(incident).data["threads"][0]["tid"] == blocked
            (loop,) = [loop for loop in incident.snapshot.loops if loop.id == incident.stall.subject_id]
            assert loop.thread_id == f"thread:{blocked}" and len(incident.snapshot.loops) == 3
            assert "blocks" in {frame.function for frame in incident.findings[0].culprit}


def throttle(folder, version):
    """A twentieth of a CPU. Skips where the controller is not to be had."""
    name, text = ("cpu.max", "5000 100000") if version == 2 else ("cpu.cfs_quota_us", "5000")
    if not (folder / name).exists():
        pytest.skip(f"no CPU controller in control groups of version {version} here")
    (folder / name).write_text(text)


@needs_bpf
@pytest.mark.parametrize("version", [1, 2])
def test_a_group_that_is_held_back_is_starved_and_not_blocked(tmp_path, version):
    if version not in mounts():
        pytest.skip(f"no control groups of version {version} here")
    with group(version, f"hangwatch-{secrets.token_hex(4)}") as folder, uvicorn() as service:
        (folder / "cgroup.procs").write_text(str(service.pid))
        with watching(tmp_path, service.pid) as told:
            throttle(folder, version)
            asked = Client(service.port).ask("/computes")
            incident = waits_for(told, lambda i: i.stall.kind == "loop")
            assert incident.findings[0].cause == "cpu-starved", [(f.cause, f.because) for f in incident.findings]
            data = kernel_facts(incident).data
            assert data["verdict"] == "starved" and data["threads"][0]["delay_ms"] > data["threads"][0]["cpu_ms"]
            asked.close()
        service.kill()
        service.wait()


@needs_bpf
def test_a_block_that_is_over_when_the_look_comes_is_not_blamed_on_who_waits_by_then(tmp_path, monkeypatch):
    """A machine too busy to look in time, made by waiting: the kernel's facts remain, an upload that trickles is no cause."""
    from hangwatch.watcher import capture

    look, late = capture.two_looks, threading.Event()

    def too_late(*arguments, **options):
        late.wait(20)
        return look(*arguments, **options)

    monkeypatch.setattr(capture, "two_looks", too_late)
    with uvicorn() as service, watching(tmp_path, service.pid) as told:
        upload = Client(service.port).ask("/uploads", "POST", ["Content-Length: 1000"])
        asked = Client(service.port).ask("/sleeps")
        asked.answer()
        late.set()
        incident = waits_for(told, lambda i: i.stall.kind == "loop")
        assert incident.findings[0].cause == "blocked-loop-io", [finding.title for finding in incident.findings]
        assert any("It was over" in gap for gap in incident.snapshot.gaps) and incident.snapshot.requests == ()
        asked.close()
        upload.close()
