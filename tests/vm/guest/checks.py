"""What is expected of hangwatch on one interpreter and one loop. Each check is a function of the stage it stands on."""

import contextlib
import glob
import json
import os
import platform
import signal
import time

from running import Service, Watching, facts, hangwatch, look

#: How long the loop is blocked: on an emulated processor of a busy machine a look may take half a minute. And how long the GIL is kept.
BLOCKED_S, KEPT_S = 120, 25

#: Loaded when the watcher is ready: loop_where, loop_exit and loop_switch of looptime, conn_call of conntime. The socket to ask the kernel for
#: connections is opened when it has looked into the process for the first time.
PROGRAMS = 4


class Skipped(Exception):
    pass


def missing(target):
    """Why this target cannot be run here; "" when it can."""
    home = "/roots/" + target["root"]
    packages = (home if os.path.isdir(home + "/usr/bin") else "") + f"/opt/{target['version']}"
    for name in ("uvicorn", *(["uvloop"] if target["loop"] == "uvloop" else [])):
        if not os.path.isdir(f"{packages}/{name}"):
            return f"no wheel of {name} for Python {target['version']} on {platform.machine()}"
    return ""


class Stage:
    """The services of one target; all end with it."""

    def __init__(self, target, port):
        self.target, self.port = target, port
        self.full = target["loop"] == "asyncio"
        self.version = tuple(map(int, target["version"].split(".")))
        self.service = None
        self.watching = None
        self._services = []

    def start(self, **options):
        service = Service(self.target, self.port + len(self._services), **options)
        self._services.append(service)
        service.ready()
        return service

    def close(self):
        if self.watching:
            self.watching.close()
        for service in self._services:
            service.close()


def serve(stage):
    stage.service = stage.start()
    return f"pid {stage.service.pid}"


def attach_parked(stage):
    """A lock's holder that is itself stuck, and two tasks that wait for each other's locks: tasks, chains, holders, verdicts."""
    service = stage.start()
    for path in ("/holds", "/queues", "/left", "/right"):
        service.ask(path)
        time.sleep(0.3)
    time.sleep(3)
    incident = look(service)
    snapshot = incident["snapshot"]
    chains = {
        tuple(frame["function"] for frame in task["frames"] if frame["file"].endswith("service.py")): task for task in snapshot["tasks"]
    }
    holder, waiter = chains[("app", "holds", "never_told")], chains[("app", "queues")]
    held = {hold["primitive_id"] for hold in holder["holds"]}
    assert waiter["waits_on"] in held, (waiter, holder)
    assert [task["frames"][-1]["function"].rpartition(".")[2] for task in (holder, waiter)] == ["wait", "acquire"], (holder, waiter)
    causes = {finding["cause"]: finding for finding in incident["findings"]}
    assert {"holder-stuck", "deadlock"} <= set(causes), sorted(causes)
    assert causes["deadlock"]["confidence"] == "proved"
    crossed = causes["deadlock"]["subjects"]
    for name in ("crosses_left", "crosses_right"):
        assert chains[("app", name, "crosses")]["id"] in crossed, causes["deadlock"]
    assert holder["id"] in causes["holder-stuck"]["subjects"] or "never_told" in json.dumps(causes["holder-stuck"]["culprit"])
    routes = {request["route"] for request in snapshot["requests"]}
    assert {"/holds", "/queues", "/left", "/right"} <= routes, routes
    (loop,) = [thread for thread in snapshot["threads"] if thread["is_loop"]]
    assert loop["native_id"] == service.pid, loop
    return f"{len(snapshot['tasks'])} tasks, {sorted(causes)}, gaps {snapshot['gaps']}"


def attach_time_sleep(stage):
    return _blocked(stage, "/sleeps", "sleeps", {"blocked-loop-io"})


def attach_spin(stage):
    # The looker takes the only processor for itself at times.
    return _blocked(stage, "/spins", "spins", {"blocked-loop-cpu", "cpu-starved"})


def _blocked(stage, path, function, causes):
    service = stage.start()
    service.ask(f"{path}:{BLOCKED_S}")
    time.sleep(2)
    begun = time.monotonic()
    incident = look(service)
    took_s = time.monotonic() - begun
    service.close()
    (stuck,) = [task for task in incident["snapshot"]["tasks"] if task["state"] == "running"]
    assert [f["function"] for f in stuck["frames"] if f["file"].endswith("service.py")] == ["app", function], stuck
    assert incident["stall"]["kind"] == "loop", incident["stall"]
    found = incident["findings"][0]
    assert found["cause"] in causes, found
    assert any(frame["function"] == function for frame in found["culprit"]), found
    (thread,) = [thread for thread in incident["snapshot"]["threads"] if thread["is_loop"]]
    if path == "/sleeps":
        assert "clock_nanosleep" in thread["syscall"] or "select" in thread["syscall"], thread
    return f"{found['cause']}: {found['title']} (look {took_s:.1f} s; in {thread['syscall']})"


def watch_begins(stage):
    """The collectors are in the kernel, not the sampling of /proc. On uvloop as it is by default: no program on system calls for good."""
    stage.watching = Watching(stage.service, *(("--full", "--heads") if stage.full else ()))
    end = time.monotonic() + 90
    while _holds(stage.watching.child.pid, "bpf-prog") < PROGRAMS or not _holds(stage.watching.child.pid, "socket:"):
        assert time.monotonic() < end, f"{_holds(stage.watching.child.pid, 'bpf-prog')} programs loaded; notes: {stage.watching.notes}"
        assert stage.watching.child.poll() is None, stage.watching.notes
        time.sleep(0.5)
    time.sleep(2)
    return f"{_holds(stage.watching.child.pid, 'bpf-prog')} programs; {' '.join(note.strip() for note in stage.watching.notes)}"


def _watched(stage):
    if stage.watching is None or stage.watching.child.poll() is not None:
        raise Skipped("nobody watches")
    return stage.service


def _holds(pid, what):
    """How many descriptors of that kind the process has."""
    found = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found += what in os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def watch_time_sleep(stage):
    asked = _watched(stage).ask(f"/sleeps:{BLOCKED_S}")
    begun = time.monotonic()
    try:
        incident = stage.watching.until(lambda incident: incident["stall"]["kind"] == "loop")
    finally:
        stage.service.child.send_signal(signal.SIGUSR1)
    told_s = time.monotonic() - begun
    known = facts(incident)
    (thread,) = known["threads"]
    assert known["observer"] == "eBPF" and known["verdict"] == "asleep", known
    assert thread["tid"] == stage.service.pid and thread["call"] in ("clock_nanosleep", "pselect6", "select"), thread
    assert incident["findings"][0]["cause"] == "blocked-loop-io", incident["findings"][0]
    assert known["kernel_stack"], "no kernel stack"
    asked.until(b"ok")
    return f"{thread['call']}, busy {thread['busy_ms']:.0f} ms, cpu {thread['cpu_ms']:.0f}, delay {thread['delay_ms']:.0f}; told after {told_s:.1f} s; {known['kernel_stack'][:4]}"


def watch_gil(stage):
    """Another thread keeps the GIL in native code: the loop's waits for it lie inside the interpreter's own data."""
    asked = _watched(stage).ask(f"/keeps-gil:{KEPT_S}")
    incident = stage.watching.until(lambda incident: facts(incident).get("verdict") == "gil", KEPT_S)
    (thread,) = facts(incident)["threads"]
    assert thread["call"] == "futex" and incident["findings"][0]["cause"] == "gil-held", (thread, incident["findings"][0])
    asked.until(b"ok")
    return f"{thread['gil_ms']:.0f} of {thread['busy_ms']:.0f} ms: {incident['findings'][0]['title']}"


def watch_parked(stage):
    asked = _watched(stage).ask("/parks")
    row, incident = _connection(stage, "request-pending", asked.address)
    assert row["request"] == "GET /parks" and row["task_id"], row
    assert row["observer"] == "eBPF" or not stage.full, row
    assert any(finding["cause"] == "never-set" for finding in incident["findings"]), incident["findings"]
    return f"fd {row['fd']} {row['local']} <- {row['peer']} {row['request']} {row['received']} in ({row['observer']})"


def watch_slow_client(stage):
    asked = _watched(stage).ask("/pours", window=4096)
    row, incident = _connection(stage, "client-not-reading", asked.address)
    assert any(finding["cause"] == "slow-client" for finding in incident["findings"]), incident["findings"]
    return f"fd {row['fd']} {row['local']} <- {row['peer']} {row['sent']} out ({row['observer']})"


def _connection(stage, state, address):
    def wanted(incident):
        return any(c["state"] == state and c["peer"] == address for c in facts(incident).get("connections", ()))

    incident = stage.watching.until(wanted)
    (row,) = [c for c in facts(incident)["connections"] if c["peer"] == address]
    inode = os.readlink(f"/proc/{stage.service.pid}/fd/{row['fd']}")
    assert inode.startswith("socket:"), (row, inode)
    return row, incident


def watch_ends(stage):
    stage.watching.close()
    watching, stage.watching = stage.watching, None
    assert watching.child.returncode in (0, 1), (watching.child.returncode, watching.notes)
    return "; ".join(note.strip() for note in watching.notes)


def core_file(stage):
    """What the kernel of this machine writes, without the pages that it finds on disk."""
    if os.path.isdir(f"/roots/{stage.target['root']}/usr/bin"):
        raise Skipped("its files lie in another root")
    service = stage.start()
    service.ask("/left")
    service.ask("/right")
    time.sleep(3)
    service.child.send_signal(signal.SIGABRT)
    service.child.wait(60)
    (core,) = glob.glob("/core*")
    incident = json.loads(hangwatch("attach", "--core", core, "--json", expect=(1,))[1])
    os.unlink(core)
    found = incident["findings"][0]
    assert (found["cause"], found["confidence"], incident["snapshot"]["pid"]) == ("deadlock", "proved", service.pid), found
    return found["title"]


def by_ptrace_is_refused(stage):
    """Entering by ptrace is for x86-64: elsewhere the line for gdb is told, and the process is as it was."""
    if platform.machine() == "x86_64":
        raise Skipped("this is x86-64: entered by ptrace in the tests of the machine itself")
    if stage.version < (3, 10):
        raise Skipped("the agent needs Python 3.10")
    if stage.version >= (3, 14):
        raise Skipped("this Python has a door of its own")
    service = stage.start()
    _, _, said = hangwatch("attach", str(service.pid), "--install", "--by-ptrace", expect=(2,))
    assert "x86-64" in said and "gdb -p" in said, said
    assert service.child.poll() is None
    service.ask("/").until(b"ok")
    return said.strip().splitlines()[0]


def the_door(stage):
    """PEP 768: the agent comes in, sees a parked request, and goes out again."""
    if stage.version < (3, 14):
        raise Skipped("PEP 768 came with 3.14")
    service = stage.start()
    _, out, _ = hangwatch("attach", str(service.pid), "--install", "--spool", "/tmp/door", expect=(0,))
    assert "the agent is in" in out, out
    hangwatch("attach", str(service.pid), "--uninstall", expect=(0,))
    service.ask("/").until(b"ok")
    return out.strip()


def agent_inside(stage):
    """hangwatch.install() in the service: a parked request becomes an incident in its spool."""
    if stage.version < (3, 10):
        raise Skipped("the agent needs Python 3.10")
    spool = f"/tmp/agent-{stage.port}"
    service = stage.start(agent={"HANGWATCH_SPOOL": spool, "HANGWATCH_STALL_AFTER": "3"})
    service.ask("/holds")
    service.ask("/queues")
    end = time.monotonic() + 60
    found = []
    while not found and time.monotonic() < end:
        time.sleep(1)
        found = glob.glob(f"{spool}/incidents/*/incident.json")
    assert found, (os.listdir(spool) if os.path.isdir(spool) else "no spool", service.said()[-500:])
    _, out, _ = hangwatch("incidents", "--spool", spool, "--json", expect=(1,))
    causes = {finding["cause"] for incident in json.loads(out) for finding in incident["findings"]}
    assert causes & {"never-set", "holder-stuck"}, causes
    return sorted(causes)


CHECKS = (
    serve, watch_begins, watch_time_sleep, watch_gil, watch_parked, watch_slow_client, watch_ends, attach_time_sleep, attach_spin, attach_parked, core_file,
    by_ptrace_is_refused, the_door, agent_inside,
)  # fmt: skip
#: What does not depend on the loop: left out on the second loop of a version.
OF_VERSION = (core_file, by_ptrace_is_refused, the_door)
#: In a pid namespace of its own the programs translate ids.
CONTAINED = (serve, watch_begins, watch_time_sleep, watch_parked, watch_ends, attach_parked)
