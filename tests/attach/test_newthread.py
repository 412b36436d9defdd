"""A thread started in a stopped process: killed in the middle, under signals, at unsafe places, called off. The target goes on as it was."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hangwatch.attach.entry import CannotEnter, answer, newthread, safeplace, uninstall
from hangwatch.attach.entry import install as enter
from hangwatch.attach.entry.tracee import Tracee
from hangwatch.attach.entry.wayback import NO_SYSTEM_CALL, RESTORER, resumed
from hangwatch.attach.side import Side
from hangwatch.errors import CannotLook
from hangwatch.kernel import files
from hangwatch.reading.remote import RemoteReader
from hangwatch.reading.remote.memory import Memory
from hangwatch.reading.remote.process import ProcessSource
from tests.attach.test_entry import Target, stressed
from tests.processes import running, until
from tests.reading.remote.target import needs_ptrace, python_of

pytestmark = [needs_ptrace, pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 only")]
#: ENTRY_KILLS=50 for a long run.
KILLS = int(os.environ.get("ENTRY_KILLS", "8"))
ENTERING = """
import sys
from hangwatch.attach.entry import newthread
from hangwatch.attach.side import Side
from hangwatch.reading.remote import RemoteReader
reader = RemoteReader(int(sys.argv[1]), Side(int(sys.argv[1])))
print("ready", flush=True)
while True:
    newthread.run(reader, "0")
"""


def state(pid, *names):
    found = files.fields(files.read_text(f"/proc/{pid}/status"))
    return [found[name] for name in names]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("version", "words"), [("3.12", ()), ("3.12", ("idle",)), ("3.14", ())])
def test_killed_in_the_middle(version, words, tmp_path):
    """At any moment: the computing thread goes on with the right numbers, the same signal mask, and no thread more."""
    with stressed(version, *words, cwd=tmp_path) as child:
        target = Target(child)
        before = state(child.pid, "SigBlk")
        for _ in range(KILLS):
            with running([sys.executable, "-c", ENTERING, str(child.pid)]) as entering:
                assert entering.stdout.readline()
                time.sleep(random.random() * 0.03)
        rounds, wrong, threads, _, _ = target.fresh()
        assert (wrong, threads) == (0, 0)
        assert target.fresh()[0] > rounds and child.poll() is None
        until(lambda: state(child.pid, "Threads", "SigBlk", "TracerPid") == ["1", *before, "0"])


@pytest.mark.parametrize("words", [(), ("idle",)])
def test_the_way_back_by_itself(words, tmp_path, monkeypatch):
    """As when the tracer is killed after each call, every time: nothing is put back from outside."""
    monkeypatch.setattr(Tracee, "put_back", lambda stopped: None)
    with stressed("3.12", *words, cwd=tmp_path) as child:
        target = Target(child)
        before = state(child.pid, "SigBlk")
        reader = RemoteReader(child.pid, Side(child.pid))
        for _ in range(40):
            newthread.run(reader, "0")
        assert target.fresh()[1] == 0
        until(lambda: state(child.pid, "Threads", "SigBlk") == ["1", *before])


def test_what_an_interrupted_call_goes_on_with():
    asleep = {"rip": 0x1002, "rax": (1 << 64) - 514, "orig_rax": 232}
    assert resumed(asleep) == {"rip": 0x1000, "rax": 232, "orig_rax": (1 << 64) - 1}
    assert resumed({**asleep, "rax": (1 << 64) - 516})["rax"] == 219
    for over in ({"rip": 0x1002, "rax": 3, "orig_rax": 232}, {"rip": 0x1002, "rax": (1 << 64) - 514, "orig_rax": (1 << 64) - 1}):
        assert resumed(over) == {**over, "orig_rax": (1 << 64) - 1}


SIGNALLED = """
import asyncio, json, signal, threading
seen = {"alarms": 0}
def alarm(*_):
    seen["alarms"] += 1
signal.signal(signal.SIGALRM, alarm)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
async def main():
    slept = 0
    while True:
        await asyncio.sleep(0.1)
        slept += 1
        mask = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        print(json.dumps([slept, seen["alarms"], mask, threading.active_count(), 0]), flush=True)
asyncio.run(main())
"""


def test_signals_at_a_kilohertz(tmp_path):
    """Each comes with a stop of its own in place of the one asked for; none is lost, the mask stays."""
    with running([python_of("3.12"), "-c", SIGNALLED]) as child:
        target = Target(child)
        mask = target.said[2]
        for _ in range(5):
            enter(child.pid, by_ptrace=True, spool=str(tmp_path / "spool"))
            uninstall(child.pid, by_ptrace=True)
        alarms = target.fresh()[1]
        said = target.fresh()
        assert said[1] > alarms and said[2] == mask and child.poll() is None


def test_threads_in_calls_with_a_time_limit(tmp_path):
    """poll, a wait for a lock, and sleep: they go on, and end when they should have."""
    code = """
import asyncio, json, select, threading, time
lock, event, said = threading.Lock(), threading.Event(), {}
lock.acquire()
def timed(name, call):
    began = time.monotonic()
    call()
    said[name] = time.monotonic() - began
for name, call in {"poll": lambda: select.poll().poll(3000), "lock": lambda: lock.acquire(timeout=3), "sleep": lambda: time.sleep(3),
                   "event": lambda: event.wait(3)}.items():
    threading.Thread(target=timed, args=(name, call)).start()
async def main():
    while True:
        print(json.dumps(said), flush=True)
        await asyncio.sleep(0.2)
asyncio.run(main())
"""
    with running([python_of("3.12"), "-c", code]) as child:
        child.stdout.readline()
        reader = RemoteReader(child.pid, Side(child.pid))
        ground = safeplace.Ground(reader)
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            for tid in safeplace.candidates(child.pid):
                # The new threads end meanwhile.
                with contextlib.suppress(CannotLook), Tracee(child.pid, tid) as stopped:
                    if not safeplace.unsafe(stopped.registers, ground):
                        newthread._start(stopped, ground, "0")
        said = until(lambda: len(found := json.loads(child.stdout.readline())) == 4 and found)
    assert all(2.9 < seconds < 4.5 for seconds in said.values()), said


def test_a_stopped_process_stays_stopped(tmp_path):
    with stressed("3.12", cwd=tmp_path) as child:
        target = Target(child)
        reader = RemoteReader(child.pid, Side(child.pid))
        child.send_signal(signal.SIGSTOP)
        until(lambda: state(child.pid, "State")[0].startswith("T"))
        with pytest.raises(CannotLook, match=r"stopped \(SIGSTOP\)"):
            newthread.run(reader, "0")
        until(lambda: state(child.pid, "State")[0].startswith("T (stopped)"))
        child.send_signal(signal.SIGCONT)
        assert target.fresh()[1] == 0


def test_one_that_is_traced_already_names_the_tracer(tmp_path):
    with stressed("3.12", "idle", cwd=tmp_path) as child:
        Target(child)
        reader = RemoteReader(child.pid, Side(child.pid))
        code = "import sys, time; from hangwatch.attach.entry.tracee import Tracee\nwith Tracee(int(sys.argv[1]), int(sys.argv[1])): print(1, flush=True); time.sleep(60)"
        with running([sys.executable, "-c", code, str(child.pid)]) as tracing:
            tracing.stdout.readline()
            with pytest.raises(CannotLook, match=f"traced by process {tracing.pid}"):
                newthread.run(reader, "0")


def test_called_off_while_native_code_keeps_the_gil(tmp_path, monkeypatch):
    """Nothing happens in it afterwards, and no thread is left."""
    monkeypatch.setattr(answer, "PATIENCE_S", 1.0)
    monkeypatch.setattr(answer.wait, "__defaults__", (1.0,))
    code = f"""
import asyncio, ctypes, json, threading
async def main():
    while True:
        print(json.dumps([0, 0, threading.active_count(), 0, 0]), flush=True)
        await asyncio.sleep(0.05)
        if {str(tmp_path / "hold")!r} and __import__("os").path.exists({str(tmp_path / "hold")!r}):
            __import__("os").unlink({str(tmp_path / "hold")!r})
            ctypes.PyDLL(None).sleep(4)
asyncio.run(main())
"""
    with running([python_of("3.12"), "-c", code]) as child:
        target = Target(child)
        (tmp_path / "hold").touch()
        until(lambda: not (tmp_path / "hold").exists())
        time.sleep(0.2)
        with pytest.raises(CannotEnter, match="told nothing") as refused:
            enter(child.pid, by_ptrace=True, spool=str(tmp_path / "spool"))
        assert "called off" in refused.value.help_text
        assert state(child.pid, "Threads") == ["2"]
        target.fresh()
        until(lambda: state(child.pid, "Threads") == ["1"])
        time.sleep(0.5)
        assert not (tmp_path / "spool").exists()
        monkeypatch.undo()
        enter(child.pid, by_ptrace=True, spool=str(tmp_path / "spool"))
        uninstall(child.pid, by_ptrace=True)


def test_an_import_that_hangs_is_not_joined(tmp_path):
    """The standard library's module that another thread is importing is one that ours would wait for."""
    (tmp_path / "tomllib.py").write_text("import time; time.sleep(60)")
    code = "import asyncio, sys, threading; sys.path.insert(0, '.'); threading.Thread(target=__import__, args=('tomllib',), daemon=True).start(); print('[0]', flush=True); asyncio.run(asyncio.Event().wait())"
    with running([python_of("3.12"), "-c", code], cwd=tmp_path) as child:
        Target(child)
        with pytest.raises(CannotLook, match="importing tomllib"):
            enter(child.pid, by_ptrace=True)
        assert child.poll() is None


@pytest.fixture
def held(request, tmp_path):
    """A C program in a signal handler, or in a wait for a mutex of the C library's."""
    body = {
        "handler": "static void f(int n){ for(;;) pause(); } int main(){ signal(SIGALRM, f); raise(SIGALRM); }",
        "mutex": "int main(){ pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER; pthread_mutex_lock(&m); pthread_mutex_lock(&m); }",
    }[request.param]
    source, program = tmp_path / "held.c", tmp_path / "held"
    source.write_text(f"#include <signal.h>\n#include <pthread.h>\n#include <unistd.h>\n{body}\n")
    try:
        subprocess.run(["cc", "-o", program, source, "-lpthread"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no C compiler")
    with running([str(program)]) as child:
        until(lambda: not (files.read_text(f"/proc/{child.pid}/syscall") or "running").startswith("running"))
        yield child


@pytest.mark.parametrize(
    ("held", "said"),
    [("handler", "a thread is in a signal handler"), ("mutex", "a thread waits for a mutex")],
    indirect=["held"],
)
def test_a_thread_at_no_safe_place_is_left_alone(held, said):
    ground = object.__new__(safeplace.Ground)
    ground.memory = Memory(ProcessSource(held.pid))
    ground.regions, ground.python = ground.memory.regions, []
    ground.others = [region for region in ground.regions if "x" in region.permissions and region.path.startswith("/")]
    with Tracee(held.pid, held.pid) as stopped:
        registers = {**stopped.registers}
        if said.endswith("handler"):
            registers["orig_rax"] = 232  # as if it waited in a handler for what may be waited for
        assert safeplace.unsafe(registers, ground) == said
    assert held.poll() is None


def test_no_thread_can_be_started(tmp_path):
    """Its limit of threads is reached: a clear refusal, and no memory of ours is left."""
    code = "import asyncio, json, resource, os\nos.setgroups([]); os.setgid(60123); os.setuid(60123)\nresource.setrlimit(resource.RLIMIT_NPROC, (1, 1))\nasync def main():\n while True: print(json.dumps([0, 0, 1, 0, 0]), flush=True); await asyncio.sleep(0.1)\nasyncio.run(main())"
    if os.geteuid():
        pytest.skip("needs root to become somebody else")
    with running(["/usr/bin/env", "-C", "/", python_of("3.12"), "-c", code]) as child:
        target = Target(child)
        reader = RemoteReader(child.pid, Side(child.pid))
        mapped = []
        for _ in range(3):
            with pytest.raises(CannotLook, match="cannot start a thread"):
                newthread.run(reader, "0")
            mapped.append(len(Path(f"/proc/{child.pid}/maps").read_text().splitlines()))
        assert mapped[0] == mapped[2]  # the C library keeps one stack for the next thread
        assert target.fresh()


VECTORS = r"""
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main() {
    static uint8_t in[32], out[32] __attribute__((aligned(32)));
    for (int i = 0; i < 32; i++) in[i] = i * 7 + 1;
    for (unsigned long n = 0;; n++) {
        __asm__ volatile("vmovdqu %1, %%ymm13\n mov $200000000, %%rcx\n 1: dec %%rcx\n jnz 1b\n vmovdqu %%ymm13, %0"
                         : "=m"(out) : "m"(in) : "rcx", "xmm13");
        if (memcmp(in, out, 32)) { puts("wrong"); fflush(stdout); return 1; }
        puts("right"); fflush(stdout);
    }
}
"""


@pytest.mark.parametrize("by_itself", [True, False])
def test_the_upper_halves_of_vector_registers(by_itself, tmp_path, monkeypatch):
    """Live while the thread is made to call, and as they were when it goes on."""
    if " avx " not in Path("/proc/cpuinfo").read_text():
        pytest.skip("no AVX on this machine")
    if by_itself:
        monkeypatch.setattr(Tracee, "put_back", lambda stopped: None)
    (tmp_path / "vectors.c").write_text(VECTORS)
    try:
        subprocess.run(["cc", "-O1", "-mavx", "-o", tmp_path / "vectors", tmp_path / "vectors.c"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no C compiler")
    with running([str(tmp_path / "vectors")]) as child:
        assert child.stdout.readline() == b"right\n"
        memory = Memory(ProcessSource(child.pid))
        (library,) = {region.path for region in memory.regions if safeplace._LIBC.search(region.path)}
        at = safeplace._symbols(memory, memory.regions, (library,), ("getpid", "mmap"))
        restorer = safeplace._find(memory, safeplace._code(memory.regions, library), RESTORER)
        for _ in range(30):
            with Tracee(child.pid, child.pid) as stopped:
                if stopped.registers["orig_rax"] == NO_SYSTEM_CALL:
                    stopped.begin_calls(at["getpid"], restorer)
                    assert stopped.call(at["mmap"], 0, 4096, 3, 0x22, -1, 0, makes=(9,)) > 0
                    state = stopped._read_set(0x202, 1 << 16)
                    stopped._write_set(0x202, state[:576] + bytes(len(state) - 576))  # as a call may leave them
                    stopped.put_back()
            assert child.stdout.readline() == b"right\n"
