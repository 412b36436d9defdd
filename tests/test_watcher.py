"""Hangs of a real uvicorn seen from outside, by a real kernel, told while they last; healthy services give nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hangwatch.store import Store
from hangwatch.watcher import Choice
from tests.kernel.bpf import needs_bpf
from tests.processes import running, until
from tests.watcher.service import BLOCK_S
from tests.watcher.watched import (
    LOOP_AFTER_S,
    ROOT,
    STALL_AFTER_S,
    Client,
    certificate,
    kernel_facts,
    no_verification,
    uvicorn,
    waits_for,
    watching,
)

pytest.importorskip("uvicorn")
pytestmark = [pytest.mark.needs_ptrace, pytest.mark.slow]


def has_uvloop():
    return subprocess.run([sys.executable, "-c", "import uvloop"], capture_output=True).returncode == 0


@pytest.fixture(
    scope="module", params=["asyncio", pytest.param("uvloop", marks=pytest.mark.skipif(not has_uvloop(), reason="no uvloop here"))]
)
def watched(request, tmp_path_factory):
    """(the service, what is told of it), one watcher for all tests of a loop policy."""
    with uvicorn(request.param) as service, watching(tmp_path_factory.mktemp("spool"), service.pid, full=True, heads=True) as told:
        yield service, told


@pytest.fixture
def client(watched):
    with contextlib.ExitStack() as stack:

        def make(**options):
            made = Client(watched[0].port, **options)
            stack.callback(made.close)
            return made

        yield make


BLOCKS = [
    ("/sleeps", "blocked-loop-io", "asleep", "clock_nanosleep"),
    ("/computes", "blocked-loop-cpu", "computing", ""),
    ("/locks", "lock-leaked", "asleep", "futex"),
    ("/holds", "gil-held", "gil", "futex"),
    ("/collects", "gc-pause", "computing", ""),
]


@needs_bpf
@pytest.mark.parametrize("path, cause, verdict, call", BLOCKS, ids=[row[0] for row in BLOCKS])
def test_a_blocked_loop_is_told_while_it_lasts(watched, client, path, cause, verdict, call):
    service, told = watched
    begun = len(told)
    asked = client().ask(path)
    incident = waits_for(told, lambda i: i.stall.kind == "loop" and i.snapshot.pid == service.pid, begun)
    after_ns = told.at[told.index(incident)] - incident.stall.since_ns
    assert after_ns < BLOCK_S * 1e9, "told after it was over"
    assert cause in {finding.cause for finding in incident.findings}
    # Where the GIL is kept by a library that a thread calls, that call is the culprit.
    assert path == "/holds" or any(frame.file.endswith("service.py") for finding in incident.findings[:1] for frame in finding.culprit)
    facts = kernel_facts(incident).data
    (thread,) = facts["threads"]
    assert thread["tid"] == service.pid and thread["call"] == call and thread["busy_ms"] >= LOOP_AFTER_S * 1e3
    # A busy machine may keep a computing thread waiting for a CPU for longer than it has one.
    assert facts["verdict"] in ((verdict, "starved", "mixed") if verdict == "computing" else (verdict,))
    asked.answer()
    closed = until(lambda: (stored := Store(told.watcher.config.spool).load(incident.id)).closed_at and stored)
    assert closed.closed_at - closed.opened_at >= 1.0


@needs_bpf
def test_a_request_that_is_parked_for_ever(watched, client):
    _, told = watched
    begun = len(told)
    address = client().ask("/parks?token=secret").address
    incident = waits_for(told, lambda i: i.stall.kind == "request" and any(f.cause == "never-set" for f in i.findings), begun)
    (request,) = [r for r in incident.snapshot.requests if r.id == incident.stall.subject_id]
    assert (request.method, request.route) == ("GET", "/parks") and request.since_ns == incident.stall.since_ns
    (connection,) = [c for c in kernel_facts(incident).data["connections"] if c["peer"] == address]
    assert connection["task_id"] == request.task_id and connection["state"] == "request-pending" and connection["request"] == "GET /parks"
    assert "secret" not in json.dumps([kernel_facts(incident).text, kernel_facts(incident).data])
    late_ns = told.at[told.index(incident)] - incident.stall.since_ns - incident.stall.limit_ns
    assert late_ns >= 0
    assert incident.snapshot.at_ns - incident.stall.since_ns >= STALL_AFTER_S * 1e9


@needs_bpf
def test_a_client_that_does_not_read(watched, client):
    _, told = watched
    begun = len(told)
    client(window=4096).ask("/pours")
    incident = waits_for(told, lambda i: any(f.cause == "slow-client" for f in i.findings[:1]), begun)
    assert any(c["state"] == "client-not-reading" for c in kernel_facts(incident).data["connections"])


@needs_bpf
def test_a_silent_upstream(watched, client):
    _, told = watched
    begun = len(told)
    client().ask("/asks")
    incident = waits_for(told, lambda i: any(f.cause == "silent-peer" for f in i.findings[:1]), begun)
    silent = [c for c in kernel_facts(incident).data["connections"] if c["state"] == "upstream-silent"]
    # And not the pair of sockets by which the loop is woken.
    assert [(c["sent"], c["received"]) for c in silent] == [(6, 0)]


@needs_bpf
def test_an_answer_that_stops_half_way(watched, client):
    _, told = watched
    begun = len(told)
    asked = client().ask("/half")
    got = b""
    while b"half" not in got:
        got += asked.socket.recv(4096)
    incident = waits_for(
        told,
        lambda i: any(c["state"] == "answer-unfinished" for e in i.evidence if e.tool == "ebpf" for c in e.data.get("connections", ())),
        begun,
    )
    assert any(r.route == "/half" for r in incident.snapshot.requests)


@needs_bpf
def test_a_pipelined_request_behind_an_answered_one(watched, client):
    _, told = watched
    begun = len(told)
    asked = client()
    asked.socket.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /parks HTTP/1.1\r\nHost: x\r\n\r\n")
    asked.answer()
    incident = waits_for(told, lambda i: asked.address in str([e.data for e in i.evidence if e.tool == "ebpf"]), begun)
    (connection,) = [c for c in kernel_facts(incident).data["connections"] if c["peer"] == asked.address]
    assert (connection["state"], connection["request"]) == ("request-pending", "GET /parks") and connection["task_id"]


@needs_bpf
def test_healthy_connections_give_nothing(tmp_path, watched):
    """Idle, slow but alive, streaming, one-sided: for some limits, beside load."""
    policy = "uvloop" if "uvloop" in str(Path(f"/proc/{watched[0].pid}/cmdline").read_bytes()) else "asyncio"
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(uvicorn(policy))
        told = stack.enter_context(watching(tmp_path, service.pid, full=True, heads=True))

        def make(**options):
            made = Client(service.port, **options)
            stack.callback(made.close)
            return made

        kept = make().ask("/")
        kept.answer()
        make().ask("/chunks").answer(b"\r\n0\r\n\r\n")
        make()  # connected, nothing sent
        assert b"event-stream" in make().ask("/streams").socket.recv(4096)
        quiet, talks = make().websocket(), make().websocket()
        upload = make().ask("/uploads", "POST", ["Content-Length: 1000"])
        stalled = make().ask("/uploads", "POST", ["Content-Length: 1000"], b"x" * 10)
        reader = make(window=65536).ask("/pours")
        loaded = make()
        end = time.monotonic() + 4 * STALL_AFTER_S
        while time.monotonic() < end:
            for _ in range(20):
                loaded.ask("/").answer()
            talks.say()
            upload.socket.sendall(b"x")
            reader.socket.recv(1 << 18)
            time.sleep(0.02)
        quiet.say()
        assert [(i.stall.kind, [f.title for f in i.findings]) for i in told] == []
        # Nor was anything suspected that a look into the process had to clear.
        assert stalled.address and told.watcher.connections.scans and told.watcher.connections.trouble == set()


@needs_bpf
@pytest.mark.skipif(shutil.which("wrk") is None, reason="no wrk to saturate it with")
def test_a_saturated_loop_is_not_blocked(tmp_path, watched):
    policy = "uvloop" if "uvloop" in str(Path(f"/proc/{watched[0].pid}/cmdline").read_bytes()) else "asyncio"
    with uvicorn(policy) as service, watching(tmp_path, service.pid) as told:
        done = subprocess.run(["wrk", "-t1", "-c64", "-d5s", f"http://127.0.0.1:{service.port}/"], capture_output=True, text=True)
        assert "Requests/sec" in done.stdout
        # Its machine may really keep it from a CPU for so long; that is told as such.
        assert [f.cause for i in told for f in i.findings[:1] if f.cause != "cpu-starved"] == []


@needs_bpf
def test_tls_tells_by_bytes_and_does_not_miss_the_first_request(tmp_path):
    files = certificate(tmp_path)
    if files is None:
        pytest.skip("no openssl to make a certificate with")
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(uvicorn("asyncio", "--ssl-keyfile", files[0], "--ssl-certfile", files[1]))
        told = stack.enter_context(watching(tmp_path / "spool", service.pid, full=True, heads=True))
        idle, first = (Client(service.port, tls=no_verification()) for _ in range(2))
        stack.callback(idle.close)
        stack.callback(first.close)
        assert first.socket.version() == "TLSv1.3"
        idle.ask("/").answer()
        first.ask("/parks")
        incident = waits_for(told, lambda i: i.stall.kind == "request")
        rows = {c["peer"]: c for c in kernel_facts(incident).data["connections"]}
        assert set(rows) == {first.address}
        assert rows[first.address]["tls"] and "TLS: byte counts only" in kernel_facts(incident).text


@needs_bpf
def test_what_began_before_the_watcher_came(tmp_path):
    with uvicorn() as service:
        parked = Client(service.port).ask("/parks")
        time.sleep(0.3)
        with watching(tmp_path, service.pid) as told:
            incident = waits_for(told, lambda i: i.stall.kind == "request")
            assert any(f.cause == "never-set" for f in incident.findings)
            parked.close()
    with running(
        [sys.executable, "-c", "import asyncio, time\nasync def f():\n    print(flush=True)\n    time.sleep(30)\nasyncio.run(f())"]
    ) as child:
        child.stdout.readline()
        with watching(tmp_path, child.pid) as told:
            incident = waits_for(told, lambda i: i.stall.kind == "loop")
            assert incident.findings[0].cause == "blocked-loop-io"


def test_without_ebpf_a_sleep_is_found_by_sampling(tmp_path):
    with uvicorn() as service, watching(tmp_path, service.pid, use_bpf=False) as told:
        for path, cause in (("/sleeps", "blocked-loop-io"), ("/computes", "blocked-loop-cpu")):
            begun = len(told)
            asked = Client(service.port).ask(path)
            incident = waits_for(told, lambda i: i.stall.kind == "loop", begun)
            assert incident.findings[0].cause == cause
            assert kernel_facts(incident).data["observer"] == "/proc"
            asked.answer()
            asked.close()
            # Ten samples a second must have seen it back in its epoll.
            until(lambda: not told.watcher.loops.away())
        parked = Client(service.port).ask("/parks")
        incident = waits_for(told, lambda i: i.stall.kind == "request")
        assert kernel_facts(incident).data["connections"][0]["observer"] == "sock_diag"
        parked.close()


@needs_bpf
def test_a_worker_that_starts_later_is_found_and_one_that_ends_is_forgotten(tmp_path):
    with watching(tmp_path, choice=Choice(("tests.watcher.service",))) as told:
        with uvicorn() as service:
            until(lambda: service.pid in told.watcher.roster.workers)
            asked = Client(service.port).ask("/sleeps")
            assert waits_for(told, lambda i: i.snapshot.pid == service.pid).service == "tests.watcher.service:app"
            asked.close()
        until(lambda: service.pid not in told.watcher.roster.workers)
        assert told.watcher.dropped.keys() <= {"looked into, nothing wrong"}


@needs_bpf
def test_a_process_that_becomes_another_is_another_worker(tmp_path):
    program = "import sys, os, time; print(flush=True); sys.stdin.readline(); os.execv('/bin/sleep', ['sleep', '60'])"
    with running([sys.executable, "-c", program]) as child:
        child.stdout.readline()
        with watching(tmp_path, child.pid) as told:
            child.stdin.write(b"\n")
            child.stdin.flush()
            until(lambda: not told.watcher.roster.workers)
            assert not told


@needs_bpf
def test_the_command_prints_one_line_and_keeps_the_incident(tmp_path):
    hostile = tmp_path / "evil\x1b[2J.py"
    hostile.write_text("import asyncio, time\nasync def f():\n    await asyncio.sleep(3)\n    time.sleep(30)\nasyncio.run(f())\n")
    with running([sys.executable, str(hostile)]) as child:
        for options in ([], ["--json"]):
            command = [
                sys.executable,
                "-m",
                "hangwatch",
                "watch",
                str(child.pid),
                "--spool",
                str(tmp_path / "spool"),
                "--loop-after",
                "0.3",
                *options,
            ]
            watcher = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )
            timer = threading.Timer(60, watcher.kill)
            timer.start()
            line = watcher.stdout.readline()
            watcher.send_signal(signal.SIGINT)
            rest, errors = watcher.communicate()
            timer.cancel()
            assert watcher.returncode == 1, errors
            assert rest == "" and "Traceback" not in errors
            assert "\x1b" not in line
            if options:
                incident = json.loads(line)
                assert incident["findings"][0]["cause"] == "blocked-loop-io" and incident["snapshot"]["pid"] == child.pid
                assert Store(tmp_path / "spool").load(incident["id"]).id == incident["id"]
            else:
                assert "blocked-loop-io" in line and f"pid {child.pid}" in line and "\\x1b" in line


def test_whom_is_asked():
    done = subprocess.run(
        [sys.executable, "-m", "hangwatch", "watch"], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 2 and "--all" in done.stderr
