"""/proc of real processes whose threads wait in real system calls."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hangwatch.kernel import procfs
from tests.processes import running, until, waiting

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux'")


def call(facts, mode, name):
    """The decoded system call of that mode's thread, once it is in it."""
    tid = facts["threads"][mode]
    return until(lambda: (found := procfs.system_call(facts["pid"], tid)) and found.name in name.split() and found)


@pytest.fixture(scope="module")
def blocked():
    modes = ["recv", "recv-unix", "connect", "accept", "pipe", "lock", "lock-with-timeout", "poll", "select", "epoll", "sleep"]
    with waiting(*modes) as facts:
        yield facts


@pytest.mark.parametrize(
    ("mode", "names", "text"),
    [
        ("recv", "recvfrom", "recvfrom tcp 127.0.0.1:{listener}"),
        ("recv-unix", "recvfrom", "recvfrom unix"),
        ("connect", "connect", "connect tcp 127.0.0.1:{full}"),
        ("accept", "accept accept4", "tcp listening on 127.0.0.1:{listener}"),
        ("pipe", "read", "read pipe"),
        ("lock", "futex", "futex wait"),
        ("lock-with-timeout", "futex", "futex wait with a deadline"),
        ("poll", "poll ppoll", "tcp 127.0.0.1:{listener} and 1 more"),
        ("select", "select pselect6", "tcp 127.0.0.1:{listener}"),
        ("epoll", "epoll_wait epoll_pwait epoll_pwait2", "on 1 descriptor"),
        ("sleep", "clock_nanosleep nanosleep select pselect6", ""),
    ],
)
def test_system_call_of_a_blocked_thread(blocked, mode, names, text):
    found = str(call(blocked, mode, names))
    assert found.split()[0] in names.split()
    assert found.endswith(text.format(**blocked["ports"]))


def test_descriptors_and_time_outs_that_it_was_given(blocked):
    assert call(blocked, "recv", "recvfrom").fds == (blocked["fds"]["client"],)
    polled = call(blocked, "poll", "poll ppoll")
    assert set(polled.fds) == {blocked["fds"]["client"], blocked["fds"]["pipe"]}
    assert polled.timeout_ns == 3_600_000_000_000
    assert call(blocked, "select", "select pselect6").timeout_ns == 3_600_000_000_000
    assert call(blocked, "epoll", "epoll_wait epoll_pwait epoll_pwait2").timeout_ns is None


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="from 3.13 on each waiter sleeps on a word of its own")
def test_two_threads_that_wait_on_one_lock_share_its_address(blocked):
    assert call(blocked, "lock", "futex").address == call(blocked, "lock-with-timeout", "futex").address


def test_thread_syscall_is_the_text_and_the_name_alone(blocked):
    tid = blocked["threads"]["recv"]
    call(blocked, "recv", "recvfrom")
    assert procfs.thread_syscall(blocked["pid"], tid) == f"recvfrom tcp 127.0.0.1:{blocked['ports']['listener']}"
    assert procfs.thread_call_name(blocked["pid"], tid) == "recvfrom"


def test_a_spinning_thread_is_in_no_call_and_its_cpu_time_grows():
    with waiting("spin") as facts:
        pid, tid = facts["pid"], facts["threads"]["spin"]
        until(lambda: procfs.thread_call_name(pid, tid) == "running")
        assert procfs.thread_syscall(pid, tid) is None
        before = procfs.thread_cpu_ns(pid, tid)
        until(lambda: procfs.thread_cpu_ns(pid, tid) > before)
        assert procfs.thread_stat(pid, tid).state == "R"


def test_a_thread_that_holds_the_gil_in_c_is_seen_in_its_call():
    with waiting("hold-gil") as facts:
        found = call(facts, "hold-gil", "clock_nanosleep nanosleep")
        assert str(found).endswith("nanosleep")
        assert procfs.thread_stat(facts["pid"], facts["threads"]["hold-gil"]).state == "S"


def test_the_asking_thread_is_running_whatever_proc_says():
    assert procfs.thread_syscall(os.getpid(), threading.get_native_id()) is None


def test_own_other_threads_are_seen_too():
    gate = threading.Lock()
    with gate:
        thread = threading.Thread(target=gate.acquire, daemon=True)
        thread.start()
        until(lambda: procfs.thread_syscall(os.getpid(), thread.native_id) == "futex wait")
    thread.join()


def test_thread_names_with_brackets_do_not_break_the_line(tmp_path):
    program = tmp_path / "a) R (b"
    program.symlink_to(subprocess.check_output(["which", "sleep"], text=True).strip())
    with running([str(program), "60"]) as child:
        stat = until(lambda: (found := procfs.thread_stat(child.pid, child.pid)) and found.name.startswith("a)") and found)
        assert stat.name == "a) R (b"
        until(lambda: procfs.thread_stat(child.pid, child.pid).state == "S")


def test_relatives():
    with waiting() as facts:
        assert facts["pid"] in procfs.children(os.getpid())
        assert procfs.parent(facts["pid"]) == os.getpid()
        assert procfs.inside_ids(facts["pid"])[facts["pid"]] == facts["pid"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace needs root")
def test_thread_ids_inside_a_pid_namespace_are_mapped():
    with running(
        ["unshare", "--pid", "--fork", sys.executable, "-c", "import os, threading; print(threading.get_native_id(), flush=True); input()"]
    ) as child:
        inside = int(child.stdout.readline())
        (here,) = procfs.children(child.pid)
        assert inside == 1
        assert procfs.inside_ids(here) == {1: here}


def test_what_is_gone_is_none_or_empty():
    child = subprocess.Popen(["true"])
    child.wait()
    assert procfs.thread_ids(child.pid) == []
    assert procfs.thread_stat(child.pid, child.pid) is None
    assert procfs.thread_cpu_ns(child.pid, child.pid) is None
    assert procfs.thread_syscall(child.pid, child.pid) is None
    assert procfs.status(child.pid) == {}
    assert procfs.children(child.pid) == []
    assert procfs.listening_ports(child.pid) == frozenset()


_CPU_GROUPS = "/sys/fs/cgroup/cpu" if os.path.isdir("/sys/fs/cgroup/cpu") else "/sys/fs/cgroup"


@pytest.fixture
def tenth_of_a_cpu():
    """A real control group with a quota of a tenth of a CPU."""
    folder = f"{_CPU_GROUPS}/hangwatch-test-{os.getpid()}"
    try:
        os.mkdir(folder)
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        if os.path.exists(f"{folder}/cpu.cfs_quota_us"):
            write(f"{folder}/cpu.cfs_quota_us", "10000")
        elif os.path.exists(f"{folder}/cpu.max"):
            write(f"{folder}/cpu.max", "10000 100000")
        else:
            pytest.skip("the cpu controller is not enabled here")
        yield folder
    finally:
        until(lambda: not Path(folder, "cgroup.procs").read_text())
        os.rmdir(folder)


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def test_a_throttled_process_shows_it(tenth_of_a_cpu):
    with running([sys.executable, "-c", "input()\nwhile True: pass"]) as child:
        write(f"{tenth_of_a_cpu}/cgroup.procs", str(child.pid))
        before = procfs.cpu_throttling(child.pid)
        assert before.cpus == pytest.approx(0.1)
        child.stdin.write(b"\n")
        child.stdin.flush()
        delta = until(lambda: (d := procfs.cpu_throttling(child.pid).since(before)).throttled_ns and d)
        assert delta.throttled_periods >= 1
        assert delta.periods >= delta.throttled_periods
