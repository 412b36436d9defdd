"""The programs in a real kernel, watching real event loops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hangwatch.kernel import bpfchecks, collect, kallsyms, rows
from hangwatch.kernel.bpf import BpfError
from hangwatch.kernel.collectors import CannotCollect, ConnTime, LoopTime, Settings, find
from hangwatch.watcher.sampling import in_epoll
from tests.kernel.bpf import needs_bpf, why_not
from tests.processes import running, until

LIMIT_NS = 200_000_000
ROOT = Path(__file__).resolve().parents[2]

# A loop in this very process' child: does what its standard input says.
LOOP = """
import asyncio, sys, threading, time, os, selectors
policy = sys.argv[1]
now = []
def read():
    for line in sys.stdin:
        loop, lines = now
        loop.call_soon_threadsafe(lines.put_nowait, line.strip())
async def serve():
    lines = asyncio.Queue()
    now[:] = asyncio.get_running_loop(), lines
    print(threading.get_native_id(), flush=True)
    while True:
        word = await lines.get()
        if word == "sleep": time.sleep(0.6)
        if word == "compute":
            end = time.monotonic() + 0.6
            while time.monotonic() < end: pass
        if word == "lock":
            lock = threading.Lock(); lock.acquire(); lock.acquire(timeout=0.6)
        if word == "other epoll":
            with selectors.EpollSelector() as other: other.select(0.6)
        if word == "turn": await asyncio.sleep(0)
        print(word, flush=True)
        if word == "again": return
def run():
    if policy == "uvloop":
        import uvloop
        uvloop.run(serve())
    else:
        asyncio.run(serve())
threading.Thread(target=read, daemon=True).start()
run()
run()
"""


@contextlib.contextmanager
def loop(policy="asyncio"):
    with running([sys.executable, "-c", LOOP, policy], text=True) as child:
        child.tid = int(child.stdout.readline())
        child.say = lambda word: (child.stdin.write(word + "\n"), child.stdin.flush())
        child.done = lambda word: child.stdout.readline().strip() == word
        yield child


@contextlib.contextmanager
def looptime(*pids, **settings):
    collector = LoopTime(LIMIT_NS, **settings)
    try:
        for pid in pids:
            collector.watch(pid)
        yield collector
    finally:
        collector.close()


def has_uvloop():
    return subprocess.run([sys.executable, "-c", "import uvloop"], capture_output=True).returncode == 0


POLICIES = ["asyncio", pytest.param("uvloop", marks=pytest.mark.skipif(not has_uvloop(), reason="no uvloop here"))]


def row_of(collector, tid):
    return next((row for row in collector.rows() if row.tid == tid), None)


def warm(collector, child):
    """A loop is known once it has slept in its epoll."""
    child.say("turn")
    assert child.done("turn")
    return until(lambda: (row := row_of(collector, child.tid)) and row.idle_since and row)


@needs_bpf
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("word, call", [("sleep", "clock_nanosleep"), ("lock", "futex"), ("other epoll", "epoll_wait")])
def test_a_sleep_elsewhere_is_seen_while_it_lasts_and_told_when_it_ends(policy, word, call):
    with loop(policy) as child, looptime(child.pid) as collector:
        warm(collector, child)
        child.say(word)
        row = until(lambda: (row := row_of(collector, child.tid)) and row.busy_since and row.now and row)
        assert row.now.name == call and row.pid == child.pid
        assert child.done(word)
        (ended,) = until(collector.ended)
        assert ended.row.longest.name == call and ended.row.longest.ns > LIMIT_NS
        assert ended.at_ns - ended.row.busy_since > 550_000_000
        assert ended.cpu_ns < ended.at_ns - ended.row.busy_since
        assert until(lambda: not row_of(collector, child.tid).busy_since)


# In a container that knows itself only: its own ids, of processes that the kernel knows by others.
CONTAINED = """
from tests.kernel.test_collectors import *
with loop() as child, looptime(child.pid) as collector:
    conntime = ConnTime(LIMIT_NS)
    warm(collector, child)
    child.say("sleep")
    row = until(lambda: (row := row_of(collector, child.tid)) and row.busy_since and row.now and row)
    marks = [made.maps["wanted"].get(slot.to_bytes(4, "little")) for made in (collector, conntime) for slot in (0, 65535)]
    conntime.close()
    print(json.dumps([os.getpid(), child.pid, row.pid, row.tid, row.now.name, marks == [b"\\1"] * 4]))
"""


@needs_bpf
def test_in_a_pid_namespace_ids_are_its_own():
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this process may not make namespaces")
    done = subprocess.run([*command, sys.executable, "-c", CONTAINED], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    own, child, pid, tid, call, all_are_asked = json.loads(done.stdout.splitlines()[-1])
    assert own == 1 and child == pid == tid and pid < 100
    assert (call, all_are_asked) == ("clock_nanosleep", True)


@needs_bpf
@pytest.mark.parametrize("policy", POLICIES)
def test_computing_is_told_from_sleeping(policy):
    with loop(policy) as child, looptime(child.pid) as collector:
        warm(collector, child)
        child.say("compute")
        assert child.done("compute")
        (ended,) = until(collector.ended)
        assert ended.row.slept_ns < LIMIT_NS
        # On a busy machine it waits for its CPU as well; both together are nearly all of it.
        assert ended.cpu_ns + ended.delay_ns > 400_000_000


@needs_bpf
def test_a_loop_that_goes_round_without_sleeping_is_seen_to_pass_by():
    program = "import asyncio\nasync def f():\n    print(flush=True)\n    while True: await asyncio.sleep(0)\nasyncio.run(f())"
    with running([sys.executable, "-c", program]) as child, looptime(child.pid) as collector:
        child.stdout.readline()
        collector.knows(child.pid, 0, 1)
        fd = next(int(p.name) for p in Path(f"/proc/{child.pid}/fd").iterdir() if os.readlink(p) == "anon_inode:[eventpoll]")
        collector.knows(child.pid, fd, 1)
        row = until(lambda: row_of(collector, child.pid))
        # Busy since it was first seen, or since it was held off its CPU within its epoll, as happens on a busy machine.
        assert row.busy_since and not row.polled_at
        collector.look_closer(True)
        assert collector.closer
        first = until(lambda: row_of(collector, child.pid).polled_at)
        assert until(lambda: row_of(collector, child.pid).polled_at > first)
        collector.look_closer(False)
        assert not collector.closer


@needs_bpf
def test_a_thread_that_was_in_its_epoll_before_is_known():
    with loop() as child:
        until(lambda: in_epoll(child.pid, child.tid) is not None)
        fd = next(int(p.name) for p in Path(f"/proc/{child.pid}/fd").iterdir() if os.readlink(p) == "anon_inode:[eventpoll]")
        with looptime(child.pid) as collector:
            seen_at = time.monotonic_ns()
            collector.knows(child.tid, fd, seen_at)
            child.say("sleep")
            row = until(lambda: (row := row_of(collector, child.tid)) and row.now and row)
            # It never went to its epoll under our eyes, and is seen to sleep elsewhere.
            assert (row.epoll_fd, row.busy_since, row.now.name) == (fd, seen_at, "clock_nanosleep")


@needs_bpf
def test_a_second_loop_of_one_thread_is_learnt_anew():
    with loop() as child, looptime(child.pid) as collector:
        first = warm(collector, child)
        held = os.open("/dev/null", os.O_RDONLY)
        child.say("again")
        assert child.done("again") and int(child.stdout.readline()) == child.tid
        os.close(held)
        collector.forget(child.tid)
        child.say("turn")
        assert child.done("turn")
        row = until(lambda: (row := row_of(collector, child.tid)) and row.idle_since and row)
        assert row.idle_since > first.idle_since


@needs_bpf
def test_nothing_is_seen_of_who_is_not_watched_any_more():
    with loop() as watched, loop() as other, looptime(watched.pid) as collector:
        warm(collector, watched)
        other.say("turn")
        assert other.done("turn")
        assert {row.pid for row in collector.rows()} == {watched.pid}
        collector.unwatch(watched.pid)
        watched.say("sleep")
        assert watched.done("sleep")
        assert collector.ended() == []


@needs_bpf
def test_a_thread_that_ended_is_forgotten():
    with loop() as child, looptime(child.pid) as collector:
        warm(collector, child)
        child.kill()
        # Not reaped yet: its ids are still known to the kernel while it switches for the last time.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert until(lambda: row_of(collector, child.tid) is None)


@needs_bpf
def test_a_full_ring_is_counted():
    with loop() as child:
        collector = LoopTime(0)
        try:
            collector.watch(child.pid)
            # Every turn is told, nobody reads: 128 kB are full after some hundred.
            until(lambda: [child.say("turn") and child.done("turn") for _ in range(200)] and collector.lost())
            told = collector.ended()
            assert len(told) > 100
        finally:
            collector.close()


@needs_bpf
def test_two_at_once_see_the_same():
    with loop() as child, looptime(child.pid) as one, looptime(child.pid) as other:
        warm(one, child)
        warm(other, child)
        child.say("sleep")
        assert child.done("sleep")
        (first,), (second,) = until(one.ended), until(other.ended)
        assert abs(first.row.busy_since - second.row.busy_since) < 50_000_000


def programs():
    """Ids of all loaded programs of ours, by name, out of the kernel."""
    found = subprocess.run(["bpftool", "-j", "prog", "list"], capture_output=True, text=True)
    return {entry["id"] for entry in json.loads(found.stdout) if entry.get("name") in ("loop_switch", "loop_exit")}


@needs_bpf
@pytest.mark.skipif(not Path("/usr/sbin/bpftool").exists(), reason="no bpftool to count with")
def test_kill_9_leaves_nothing_loaded():
    before = programs()
    program = "from hangwatch.kernel.collectors import LoopTime; import sys; c = LoopTime(1); print(flush=True); sys.stdin.read()"
    with running([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}) as child:
        child.stdout.readline()
        assert len(programs() - before) == 2
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert until(lambda: not programs() - before)


@needs_bpf
def test_a_program_the_verifier_refuses_says_why():
    with looptime() as collector:
        program = collector.collector.source.programs["loop_exit"]
        broken = {"bad": type(program)("bad", program.section, bytes.fromhex("b7010000") + bytes(4), ())}
        source = collector.collector.source
        collector.collector.source = type(source)(source.name, source.license, source.maps, broken, source.btf)
        with pytest.raises(BpfError, match="PROG_LOAD bad") as caught:
            collector.collector.attach("bad")
        assert caught.value.log


def test_a_collector_that_is_not_installed_is_named():
    with pytest.raises(CannotCollect, match=r"nothing\.bpf\.o"):
        find("nothing")


def test_settings_are_laid_out_as_the_header_says():
    packed = rows.CONFIG.unpack(Settings(5, None, 77, True, True, (1, 2)).packed())
    assert packed[:5] == (5, 1, 2, 7, os.getpid()) and packed[9] == 77


@needs_bpf
def test_names_of_kernel_functions():
    lines = (line.split() for line in Path("/proc/kallsyms").read_text().splitlines())
    name, address = next((columns[2], int(columns[0], 16)) for columns in lines if columns[1:] == ["T", "vprintk"])
    if not address:
        pytest.skip("kernel addresses are hidden here")
    assert kallsyms.names((address + 1, address)) == (name, name)
    assert kallsyms.names(()) == ()


# Connections


@contextlib.contextmanager
def server():
    """An asyncio server in this process, on a thread of its own: answers lines that end in "?", keeps silent otherwise."""

    async def answer(reader, writer):
        while line := await reader.readline():
            if line.endswith(b"?\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.close()

    ready = threading.Event()
    running_loop = asyncio.new_event_loop()

    def serve():
        asyncio.set_event_loop(running_loop)
        running_loop.server = running_loop.run_until_complete(asyncio.start_server(answer, "127.0.0.1", 0))
        ready.set()
        running_loop.run_forever()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    ready.wait()
    yield running_loop.server.sockets[0].getsockname()[1]
    running_loop.call_soon_threadsafe(running_loop.stop)
    thread.join()


@pytest.fixture
def conntime():
    collector = ConnTime(0, copy_heads=True)
    collector.watch(os.getpid())
    collector.attach()
    yield collector
    collector.close()


def connections(collector):
    """By role and the flag WAITS, of what has moved."""
    time.sleep(0.01)
    return list(collector.overdue(time.monotonic_ns(), 0))


@needs_bpf
def test_a_question_waits_until_its_answer(conntime):
    with server() as port, socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"who are you\n")
        row = until(lambda: next((r for r in connections(conntime) if r.role == rows.SERVER and r.waits), None))
        assert (row.received, row.sent, row.exchanges, row.request_bytes) == (12, 0, 1, 12)
        assert conntime.heads(row).request.startswith(b"who are you\n")
        client.sendall(b"who?\n")
        assert client.recv(100).endswith(b"ok")
        row = until(lambda: next((r for r in connections(conntime) if r.fd == row.fd and not r.waits), None))
        assert row.sent == row.answer_bytes == 40
        assert conntime.heads(row).answer.startswith(b"HTTP/1.1 200 OK") and conntime.heads(row).tail.endswith(b"ok")
        told = until(conntime.answered)
        assert any(r.fd == row.fd and r.role == rows.SERVER for _, r in told)
        client.close()
        # The server closes its end too, and the row goes with it.
        until(lambda: not any(r.fd == row.fd and r.role == rows.SERVER for r in connections(conntime)))


@needs_bpf
def test_a_peer_that_was_written_to_and_is_silent(conntime):
    with server() as port, socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"no question\n")
        row = until(lambda: next((r for r in connections(conntime) if r.role == rows.CLIENT and r.waits), None))
        assert row.fd == client.fileno() and row.sent == 12
        client.sendall(b"now?\n")
        client.recv(100)
        assert until(lambda: not any(r.fd == client.fileno() and r.waits for r in connections(conntime)))


@needs_bpf
@pytest.mark.parametrize("how", ["send", "writev", "sendmsg"])
def test_what_does_not_fit_is_unsent_whatever_call_sends_it(conntime, how):
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        client = stack.enter_context(socket.create_connection(listener.getsockname()))
        end = stack.enter_context(listener.accept()[0])
        end.setblocking(False)
        piece = bytes(1 << 19)
        send = {
            "send": lambda: end.send(piece + piece),
            "writev": lambda: os.writev(end.fileno(), [piece, piece]),
            "sendmsg": lambda: end.sendmsg([piece, piece]),
        }[how]
        with contextlib.suppress(BlockingIOError):
            while send() == 1 << 20:
                pass
        row = next(r for r in connections(conntime) if r.fd == end.fileno())
        assert row.unsent_since
        end.setblocking(True)
        reader = threading.Thread(target=lambda: list(iter(lambda: client.recv(1 << 20), b"")), daemon=True)
        reader.start()
        end.sendall(b"the end")
        assert until(lambda: not next(r for r in connections(conntime) if r.fd == end.fileno()).unsent_since)
        end.shutdown(socket.SHUT_WR)
        reader.join(10)


@contextlib.contextmanager
def accepted():
    """Both ends of one connection: the client's, the server's."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        client = stack.enter_context(socket.create_connection(listener.getsockname()))
        yield client, stack.enter_context(listener.accept()[0])


def heads_of(collector, end):
    return collector.heads(next(r for r in connections(collector) if r.fd == end.fileno()))


@needs_bpf
def test_bytes_that_end_where_memory_ends_are_copied_and_nothing_behind_them(conntime):
    page = mmap.PAGESIZE
    with accepted() as (client, end), mmap.mmap(-1, 2 * page) as memory:
        client.sendall(b"who?\n")
        end.recv(100)
        # The second page is never touched: there is none.
        memory[page - 40 : page] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
        with memoryview(memory)[page - 40 : page] as piece:
            end.send(piece)
        found = heads_of(conntime, end)
        assert found.answer.rstrip(b"\0") == memory[page - 40 : page] and found.tail == b" 2\r\n\r\nok"
        client.sendall(b"and?\n")
        end.recv(100)
        memory[: page - 40] = b"x" * (page - 40)
        with memoryview(memory)[:100] as longer, longer[:20] as piece:
            end.send(piece)
        assert heads_of(conntime, end).answer.rstrip(b"\0") == b"x" * 20


@needs_bpf
@pytest.mark.parametrize("how", ["writev", "sendmsg"])
@pytest.mark.parametrize(
    ("pieces", "tail"),
    [
        ((b"HTTP/1.1 200 OK\r\n\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n"), b"0\r\n\r\n"),
        ((b"HTTP/1.1 200 OK\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n"), b"o\r\n0\r\n\r\n"),
        # More pieces than are looked at: not known, which is all NUL.
        ((b"HTTP/1.1 200 OK\r\n\r\n", *[b"1\r\nx\r\n"] * 9, b"0\r\n\r\n"), b""),
    ],
    ids=["three", "two", "eleven"],
)
def test_an_answer_in_pieces_begins_in_the_first_and_ends_in_the_last(conntime, how, pieces, tail):
    with accepted() as (client, end):
        client.sendall(b"who?\n")
        end.recv(100)
        assert os.writev(end.fileno(), pieces) if how == "writev" else end.sendmsg(pieces)
        found = heads_of(conntime, end)
        assert (found.answer.rstrip(b"\0"), found.tail.rstrip(b"\0")) == (pieces[0], tail)


@needs_bpf
def test_what_ends_an_answer_may_be_shorter_than_what_is_kept(conntime):
    with accepted() as (client, end):
        client.sendall(b"who?\n")
        end.recv(100)
        end.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        end.send(b"0\r\n\r\n")
        assert heads_of(conntime, end).tail.rstrip(b"\0") == b"0\r\n\r\n"


@needs_bpf
def test_what_was_there_before_is_seeded_and_not_overwritten(conntime):
    with server() as port, socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"silence\n")
        known = until(lambda: next((r for r in connections(conntime) if r.role == rows.CLIENT and r.waits), None))
        conntime.seed(rows.ConnectionRow(os.getpid(), known.fd, 0, rows.CLIENT, rows.SEEDED, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0))
        assert next(r for r in connections(conntime) if r.fd == known.fd).waits
        conntime.clear()
        assert connections(conntime) == []


# By hand, as the agent's child does


@needs_bpf
def test_a_window_shows_what_keeps_a_thread():
    with loop() as child:
        child.say("sleep")
        found = collect.loops(child.pid, [child.tid], (0, 0), 0.2, 100)
        (thread,) = [thread for thread in found["threads"] if thread["tid"] == child.tid]
        assert thread["cpu_ms"] is not None and thread["call"] in ("clock_nanosleep", "epoll_wait")


@needs_bpf
def test_by_hand_it_prints_json_and_says_why_it_cannot(capsys):
    with loop() as child:
        assert collect.main(["loops", str(child.pid), "--seconds", "0.1", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["window_ms"] >= 100
        assert collect.main(["connections", str(child.pid), "--seconds", "0.1"]) == 0


@pytest.mark.skipif(not why_not(), reason="eBPF works here")
def test_without_rights_it_says_so(capsys):
    assert collect.main(["loops", str(os.getpid()), "--seconds", "0.1"]) == 2
    assert capsys.readouterr().err


@needs_bpf
def test_a_kernel_without_that_tracepoint_says_so_and_how_to_do_without():
    with looptime() as collector:
        source = collector.collector.source
        known = source.programs["loop_exit"]
        absent = {"loop_exit": type(known)("loop_exit", "raw_tp/no_such_tracepoint", known.code, known.uses)}
        collector.collector.detach("loop_exit")
        collector.collector._loaded.pop("loop_exit", None)
        collector.collector.source = type(source)(source.name, source.license, source.maps, absent, source.btf)
        with pytest.raises(BpfError, match="RAW_TRACEPOINT_OPEN no_such_tracepoint") as caught:
            collector.collector.attach("loop_exit")
    said, help_text = bpfchecks.explain(caught.value.errno, caught.value.step, bpfchecks.facts())
    assert "no tracepoint no_such_tracepoint" in said and "/proc" in help_text
