"""Targets that end, fork and stall in between; strangers' bytes on the terminal; two watchers; a watcher that is killed."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hangwatch.kernel.bpf import BpfError, syscall
from tests.kernel.bpf import needs_bpf
from tests.processes import until
from tests.watcher.watched import ROOT, Client, uvicorn, waits_for, watching

pytest.importorskip("uvicorn")
pytestmark = [pytest.mark.needs_ptrace, pytest.mark.slow]

PROG_GET_NEXT_ID, MAP_GET_NEXT_ID = 11, 12


@contextlib.contextmanager
def command(spool, *arguments):
    """``hangwatch watch`` as a process."""
    line = [sys.executable, "-m", "hangwatch", "watch", "--spool", str(spool), "--loop-after", "0.3", "--stall-after", "1", *arguments]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    watcher = subprocess.Popen(line, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    timer = threading.Timer(90, watcher.kill)
    timer.start()
    try:
        yield watcher
    finally:
        timer.cancel()
        watcher.kill()
        watcher.communicate()


def in_kernel(which):
    """Ids of all programs or maps there are, out of the kernel itself."""
    found, last = set(), 0
    while True:
        try:
            _, block = syscall.bpf(which, struct.pack("<III", last, 0, 0), "next id")
        except BpfError as error:
            assert error.errno == errno.ENOENT, error
            return found
        (last,) = struct.unpack_from("<I", block, 4)
        found.add(last)


def held_by(pid, what):
    """Ids of the programs (``prog_id``) or maps (``map_id``) that a process holds."""
    found = set()
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            found |= {int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(what + ":")}
    return found


@needs_bpf
def test_kill_9_of_the_command_leaves_nothing_in_the_kernel(tmp_path):
    with uvicorn() as service, command(tmp_path, str(service.pid), "--full", "--heads") as watcher:
        until(lambda: len(held_by(watcher.pid, "prog_id")) >= 3 and len(held_by(watcher.pid, "map_id")) >= 10)
        programs, maps = held_by(watcher.pid, "prog_id"), held_by(watcher.pid, "map_id")
        assert programs <= in_kernel(PROG_GET_NEXT_ID) and maps <= in_kernel(MAP_GET_NEXT_ID)
        watcher.send_signal(signal.SIGKILL)
        watcher.wait()
        # The kernel frees them when it gets to it.
        until(lambda: not programs & in_kernel(PROG_GET_NEXT_ID) and not maps & in_kernel(MAP_GET_NEXT_ID))


@needs_bpf
def test_two_watchers_tell_the_same(tmp_path):
    with uvicorn() as service, watching(tmp_path / "a", service.pid) as first, watching(tmp_path / "b", service.pid, full=True) as second:
        asked = Client(service.port).ask("/sleeps")
        one, other = (waits_for(told, lambda i: i.stall.kind == "loop") for told in (first, second))
        assert one.findings[0].cause == other.findings[0].cause == "blocked-loop-io"
        assert abs(one.stall.since_ns - other.stall.since_ns) < 5_000_000
        asked.answer()
        asked.close()


@needs_bpf
def test_a_target_that_forks_is_one_worker_still(tmp_path):
    with uvicorn() as service, watching(tmp_path, service.pid, full=True, heads=True) as told:
        for _ in range(3):
            Client(service.port).ask("/forks").answer()
        assert set(told.watcher.roster.workers) == {service.pid}
        assert [i.stall.kind for i in told if i.stall.kind != "loop"] == [] and told.watcher.dropped.keys() <= {
            "looked into, nothing wrong"
        }


@needs_bpf
def test_a_target_that_is_killed_while_it_hangs(tmp_path):
    with uvicorn() as service, watching(tmp_path, service.pid, full=True) as told:
        for path in ("/parks", "/sleeps"):
            Client(service.port).ask(path)
        time.sleep(0.35)  # about when it is looked into
        service.kill()
        service.wait()
        until(lambda: not told.watcher.roster.workers)
        # What was told was told; nothing that went wrong on the way is an error of ours.
        assert not [what for what in told.watcher.dropped if "Error" in what], told.watcher.dropped


@needs_bpf
def test_strangers_bytes_are_shown_and_not_obeyed(tmp_path):
    with uvicorn() as service, command(tmp_path, str(service.pid), "--full", "--heads") as watcher:
        until(lambda: held_by(watcher.pid, "prog_id"))
        time.sleep(1.0)
        asked = Client(service.port).ask("/%1b%5b2Jparks")
        line = watcher.stdout.readline()
        assert b"\x1b" not in line and b"\\x1b[2Jparks" in line
        asked.close()
