"""What the thread of a blocked loop does, from every witness there is: the snapshot's stack and system call, faulthandler, py-spy, /proc.

The rules for blocked loops each ask this and take their own part, so that no two of them claim the same block.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from hangwatch.records import Frame, Loop, Primitive, Thread
from hangwatch.rules.base import Case
from hangwatch.rules.frames import innermost, inside_the_loop, is_ours, is_standard
from hangwatch.rules.source import line_of
from hangwatch.rules.witness import as_frames, in_selector, native_call, witness

#: Below this share of a CPU a thread is not computing. Generous: a starved thread gets some, a waiting one next to none.
BUSY_SHARE = 0.5
#: Below this share a thread that is ready to run is starved; above, it computes on a busy machine. Small: on an overloaded machine a thread that
#: spins for ever gets its fair part of the CPUs, and what it does is the cause, not that it gets no more.
STARVED_SHARE = 0.1
#: What share of the time it must have waited for a CPU, or its group been held back.
STARVED_WAIT = 0.8

#: System calls in which a thread waits for data, a peer, a file, a child or the clock.
_IO_CALLS = (
    "read", "readv", "pread", "recv", "write", "send", "connect", "accept", "poll", "ppoll", "select", "pselect", "wait4", "waitid", "waitpid",
    "clock_nanosleep", "nanosleep", "fsync", "fdatasync", "open", "flock", "fcntl", "ioctl", "sendfile", "splice", "stat", "getdents",
)  # fmt: skip
_LOOP_CALLS = ("epoll_wait", "epoll_pwait", "kevent")
_LOCK_CALLS = ("futex",)

#: Standard library functions in which a thread waits, by the end of their file.
_LOCK_FRAMES = {
    "threading.py": {"wait", "acquire", "join", "_wait_for_tstate_lock", "__enter__", "wait_for"},
    "queue.py": {"get", "put", "join"},
    "concurrent/futures/_base.py": {"result", "exception", "wait", "as_completed", "result_iterator", "_result_or_cancel"},
    "concurrent/futures/thread.py": {"shutdown"},
    "multiprocessing/pool.py": {"get", "wait", "join"},
    "importlib._bootstrap>": {"acquire", "_lock_unlock_module"},
    "importlib/_bootstrap.py": {"acquire", "_lock_unlock_module"},
}  # fmt: skip
_IO_FRAMES = {
    "socket.py": {"readinto", "accept", "create_connection", "getaddrinfo", "sendall", "recv"},
    "ssl.py": {"read", "recv", "recv_into", "do_handshake", "send", "sendall", "write"},
    "selectors.py": {"select"}, "subprocess.py": {"wait", "_wait", "communicate", "_communicate", "_try_wait"},
    "multiprocessing/connection.py": {"_recv", "recv", "_poll", "poll", "wait", "recv_bytes"},
    "multiprocessing/popen_fork.py": {"poll", "wait"},
}  # fmt: skip
_LOCK_KINDS = frozenset({
    "thread-lock", "thread-event", "thread-queue", "import-lock", "lock", "thread", "job", "future", "task", "loop", "condition", "executor",
    "semaphore", "barrier", "queue-get", "queue-put", "event", "limiter", "pool",
})  # fmt: skip
_IO_KINDS = frozenset({"peer", "file", "pipe", "process", "timer", "client", "stream"})


@dataclass(frozen=True)
class Doing:
    """``what``: ``idle``, ``gc``, ``lock``, ``io``, ``cpu``, ``native`` (in C, with the GIL), ``gil`` (another has it), ``starved``, ``unclear``."""

    loop: Loop
    thread: Thread | None
    frames: tuple[Frame, ...]
    what: str
    facts: tuple[str, ...] = ()
    other: tuple[Frame, ...] = ()
    primitive: Primitive | None = None
    sure: bool = True


def blocked_loops(case: Case) -> list[Doing]:
    """One for the loop that the stall names; for other stalls, each loop whose thread stands at the same place in both samples,
    waiting for something that is not its selector."""
    found = []
    for loop in case.snapshot.loops:
        thread = case.graph.threads.get(loop.thread_id or "")
        named = case.stall.kind == "loop" and case.stall.subject_id in (loop.id, loop.thread_id)
        waits = (
            thread is not None and bool(case.graph.waits_of(thread.id)) and not loop.asleep and case.stands_still(thread.id) is not False
        )
        if named or waits:
            doing = _look(case, loop, thread)
            if named or doing.what not in ("idle", "unclear", "cpu"):
                found.append(doing)
    return found


def _look(case: Case, loop: Loop, thread: Thread | None) -> Doing:
    frames = _frames(case, loop, thread)
    primitive = next((p for w in case.graph.waits_of(thread.id) if (p := case.graph.primitives.get(w))), None) if thread else None
    for judge in (_collecting, _gil, _waits, _runs):
        doing = judge(case, loop, thread, frames, primitive)
        if doing is not None:
            return doing
    return Doing(loop, thread, frames, "unclear", primitive=primitive, sure=False)


def _frames(case: Case, loop: Loop, thread: Thread | None) -> tuple[Frame, ...]:
    """The stack during the block. When the snapshot came too late (the loop turns again), faulthandler's, which came in time."""
    written = witness(case, "faulthandler", thread) or witness(case, "watchdog", thread)
    own = tuple(thread.frames) if thread else ()
    late = witness(case, "watchdog", thread) is not None  # the agent could look only when the block was over
    if written and (not own or ((late or in_selector(own)) and not in_selector(as_frames(written)))):
        return inside_the_loop(as_frames(written))
    return inside_the_loop(own)


def samples(case: Case, doing: Doing) -> list[tuple[Frame, ...]]:
    """Every stack of the loop's thread that any witness has of the block, the snapshot's first."""
    old = next((t.frames for t in case.earlier.threads if doing.thread and t.id == doing.thread.id), ()) if case.earlier else ()
    told = [as_frames(said) for tool in ("faulthandler", "watchdog", "py-spy") if (said := witness(case, tool, doing.thread))]
    stacks = [doing.frames, *(inside_the_loop(stack) for stack in (old, *told))]
    sampled = (witness(case, "samples", doing.thread) or {}).get("stacks") or ()
    stacks += [inside_the_loop(as_frames({"frames": stack})) for stack in sampled]
    return [stack for stack in stacks if stack and not in_selector(stack)]


def _collecting(case: Case, loop: Loop, thread: Thread | None, frames: tuple[Frame, ...], primitive: Primitive | None) -> Doing | None:
    facts, said = [], case.of_tool("faulthandler")
    if said is not None and any(t.get("collecting") for t in said.data.get("threads") or () if isinstance(t, dict)):
        facts.append("faulthandler saw a garbage collection in progress.")
    acts = sorted((a for a in case.snapshot.history if a.op in ("gc-start", "gc-stop")), key=lambda a: a.at_ns)
    if acts and acts[-1].op == "gc-start":
        facts.append(f"A garbage collection began {(case.snapshot.at_ns - acts[-1].at_ns) / 1e9:.1f} s before and has not ended.")
    long = [b.at_ns - a.at_ns for a, b in itertools.pairwise(acts) if (a.op, b.op) == ("gc-start", "gc-stop")]
    if long and max(long) >= case.stall.limit_ns > 0 and case.stall.kind == "loop":
        facts.append(f"A garbage collection took {max(long) / 1e9:.1f} s.")
    watchdog = case.of_tool("watchdog")
    if watchdog is not None and float(watchdog.data.get("gc_ms") or 0) * 1e6 >= case.stall.limit_ns > 0:
        facts.append(f"Garbage collections took {float(watchdog.data['gc_ms']):.0f} ms of it.")
    inner = innermost(frames)
    if inner is not None and frames and frames[-1] == inner and "gc.collect(" in line_of(inner):
        facts.append(f"The innermost line calls the collector: {line_of(inner)}")
    spied = witness(case, "py-spy", thread)
    if spied and any("gc_collect" in str(f.get("function", "")) for f in spied.get("frames") or ()):
        facts.append("py-spy saw the collector on the loop's native stack.")
    read = case.of_tool("gc")
    if read is not None:
        facts.append(read.text)
    if not facts:
        return None
    begun = watchdog.data.get("collector") if watchdog is not None else None
    if begun and thread is not None and begun.get("native_id") == thread.native_id:
        return Doing(loop, thread, inside_the_loop(as_frames(begun)), "gc", tuple(facts))
    return Doing(loop, thread, frames, "gc", tuple(facts), as_frames(begun) if begun else _who_collects(case, thread))


def _who_collects(case: Case, thread: Thread | None) -> tuple[Frame, ...]:
    """The stack of the thread that collects, where it is known to be another than the loop's: the loop waits for the GIL meanwhile."""
    read = case.of_tool("gc")
    owner = read.data.get("owner") if read is not None else None
    other = next((t for t in case.snapshot.threads if owner is not None and t.native_id == owner and t is not thread), None)
    return other.frames if other is not None else ()


def _gil(case: Case, loop: Loop, thread: Thread | None, frames: tuple[Frame, ...], primitive: Primitive | None) -> Doing | None:
    """The watchdog itself could not run for long: nobody released the GIL. Who has it: py-spy, else the stack that faulthandler wrote.

    From outside, the interpreter's own record says that one thread kept it.
    """
    kept = case.of_tool("gil")
    if kept is not None and kept.data.get("owner") is not None:
        if thread is not None and thread.native_id == kept.data["owner"]:
            return Doing(loop, thread, frames, "native", (kept.text,))
        owner_thread = next((t for t in case.snapshot.threads if t.native_id == kept.data["owner"]), None)
        return Doing(loop, thread, frames, "gil", (kept.text,), owner_thread.frames if owner_thread else (), sure=owner_thread is not None)
    if thread is not None and waits_for_gil(case, thread.id):
        seen = witness(case, "ebpf", thread) or {}
        fact = f"The kernel saw its thread wait {seen['gil_ms']:.0f} of {seen['busy_ms']:.0f} ms for the GIL."
        owner, stack = _gil_owner(case, thread, ())
        return Doing(loop, thread, frames, "gil", (fact, f"It is {owner} that has it." if owner else ""), stack, sure=bool(stack))
    watchdog = case.of_tool("watchdog")
    late_ms = float((watchdog.data.get("late_ms") if watchdog else None) or 0)
    if late_ms * 1e6 < max(case.stall.limit_ns // 2, 200_000_000):
        return None
    facts = [f"The watchdog's own thread could not run for {late_ms:.0f} ms: something kept the GIL."]
    if watchdog is not None and watchdog.data.get("over") and witness(case, "faulthandler", thread) is None:
        facts.append("It was over before a stack of it could be taken.")
        frames = ()
    owner, stack = _gil_owner(case, thread, frames)
    if owner == "loop":
        return Doing(loop, thread, frames, "native", (*facts, "The loop's own thread has it."))
    return Doing(
        loop, thread, frames, "gil", (*facts, f"It is {owner} that was inside native code." if owner else ""), stack, sure=bool(stack)
    )


def waits_for_gil(case: Case, waiter_id: str) -> bool:
    """The kernel's programs saw this thread sleep for the GIL most of the time that it has been away from its loop."""
    thread = case.graph.threads.get(waiter_id)
    seen = witness(case, "ebpf", thread) if thread is not None else None
    return seen is not None and (seen.get("gil_ms") or 0) > (seen.get("busy_ms") or 0) / 2


def _gil_owner(case: Case, loop_thread: Thread | None, frames: tuple[Frame, ...]) -> tuple[str, tuple[Frame, ...]]:
    """("loop", its stack), or a thread's name and stack; the loop's thread is the owner when it is in the application's code and no other is."""
    spied = case.of_tool("py-spy")
    for entry in (spied.data.get("threads") or ()) if spied else ():
        if entry.get("owns_gil"):
            own = loop_thread is not None and entry.get("native_id") == loop_thread.native_id
            inside = native_call(entry)
            name = "loop" if own else f"thread '{entry.get('name')}'" + (f", in {inside}," if inside else "")
            return name, as_frames(entry)
    if frames and not in_selector(frames):
        return "loop", frames
    written = case.of_tool("faulthandler")
    stacks = [
        (f"thread '{t.get('name') or hex(t.get('ident', 0))}'", as_frames(t))
        for t in (written.data.get("threads") or () if written else ())
    ]
    stacks += [(f"thread '{t.name}'", t.frames) for t in case.snapshot.threads if not t.is_loop]
    running = [(name, stack) for name, stack in stacks if stack and not is_standard(stack[-1].file) and not is_ours(stack[-1].file)]
    return running[0] if running else ("", ())


def _waits(case: Case, loop: Loop, thread: Thread | None, frames: tuple[Frame, ...], primitive: Primitive | None) -> Doing | None:
    call = ((thread.syscall if thread else None) or "").split(" ")[0]
    # Caught between two calls it may seem to be inside one of them; but it is in no system call, and gets its share of a CPU.
    passes_by = not call and case.snapshot.source != "core" and (share_of_cpu(case, thread) or 0) >= STARVED_SHARE
    if primitive is not None and primitive.kind in _LOCK_KINDS | _IO_KINDS and not in_selector(frames) and not passes_by:
        return Doing(loop, thread, frames, "lock" if primitive.kind in _LOCK_KINDS else "io", _call_fact(thread), primitive=primitive)
    if in_selector(frames) and (not call or call.startswith(_LOOP_CALLS)):
        return Doing(loop, thread, frames, "idle", sure=False)
    named = _by_frames(frames)
    if call.startswith(_IO_CALLS):
        # A lock of C++ or a timed wait of old glibc is a futex as well; a poll or read is never a lock.
        return Doing(loop, thread, frames, "io", _call_fact(thread), primitive=primitive)
    if named and (call.startswith(_LOCK_CALLS) or not _is_busy(case, thread)):
        return Doing(loop, thread, frames, named, _call_fact(thread), primitive=primitive)
    if call.startswith(_LOCK_CALLS) and _sleeps(case, thread) and not _others_busy(case, thread):
        return Doing(loop, thread, frames, "lock", _call_fact(thread), primitive=primitive, sure=False)
    return None


def _call_fact(thread: Thread | None) -> tuple[str, ...]:
    return (f"Its thread sits in the system call {thread.syscall}.",) if thread is not None and thread.syscall else ()


def _by_frames(frames: tuple[Frame, ...]) -> str:
    """``lock`` or ``io`` when the standard library frames below the application's innermost one say so."""
    for frame in reversed(frames):
        name = frame.function.split(".")[-1]
        for table, what in ((_LOCK_FRAMES, "lock"), (_IO_FRAMES, "io")):
            if any(frame.file.endswith(file) and name in functions for file, functions in table.items()):
                return what
        if not is_standard(frame.file):
            break
    return ""


def share_of_cpu(case: Case, thread: Thread | None) -> float | None:
    """CPU time of the thread between the two samples over the time between them; None when that is not known."""
    old = next((t for t in case.earlier.threads if thread and t.id == thread.id), None) if case.earlier else None
    if thread is not None and case.earlier is not None and old is not None and thread.cpu_ns is not None and old.cpu_ns is not None:
        window = case.snapshot.at_ns - case.earlier.at_ns
        if window >= 20_000_000:
            return (thread.cpu_ns - old.cpu_ns) / window
    said = witness(case, "process", thread)
    return float(said["cpu_percent"]) / 100 if said and said.get("cpu_percent") is not None else None


def _is_busy(case: Case, thread: Thread | None) -> bool | None:
    share = share_of_cpu(case, thread)
    if share is not None:
        return share >= BUSY_SHARE
    spied = witness(case, "py-spy", thread)
    return bool(spied.get("active")) if spied else None


def _sleeps(case: Case, thread: Thread | None) -> bool:
    """It gets next to no CPU. Who looks from inside the process has the GIL while it looks, so that every other thread is seen in a futex:
    there a computing thread on a busy machine must not pass for one that waits."""
    if case.snapshot.source != "agent":
        return _is_busy(case, thread) is False
    share = share_of_cpu(case, thread)
    return share is not None and share < STARVED_SHARE


def _others_busy(case: Case, thread: Thread | None) -> bool:
    return any((share_of_cpu(case, other) or 0) >= BUSY_SHARE for other in case.snapshot.threads if other is not thread)


def _runs(case: Case, loop: Loop, thread: Thread | None, frames: tuple[Frame, ...], primitive: Primitive | None) -> Doing | None:
    starved = _starved(case, thread)
    share = share_of_cpu(case, thread)
    if starved and (share is None or share < STARVED_SHARE):
        return Doing(loop, thread, frames, "starved", tuple(starved))
    used = [f"Its thread used {share * 100:.0f} % of a CPU between two looks."] if share is not None else []
    facts = [*used, *starved]
    if not frames:
        return _by_the_kernel(case, loop, thread, starved)
    sure = share >= STARVED_SHARE or bool(starved) if share is not None else _is_busy(case, thread) is not False
    return Doing(loop, thread, frames, "cpu", tuple(facts), sure=sure)


def _by_the_kernel(case: Case, loop: Loop, thread: Thread | None, starved: list[str]) -> Doing | None:
    """Where nobody saw its stack in time: what the scheduler counted since it left its loop."""
    seen = witness(case, "ebpf", thread) or {}
    busy_ms, cpu_ms, delay_ms = (float(seen.get(f"{name}_ms") or 0) for name in ("busy", "cpu", "delay"))
    if starved or delay_ms > max(cpu_ms, busy_ms / 2):
        waited = f"It waited {delay_ms:.0f} of {busy_ms:.0f} ms for a CPU."
        return Doing(loop, thread, (), "starved", tuple(starved) or (waited,), sure=bool(starved))
    if cpu_ms > busy_ms / 2:
        return Doing(loop, thread, (), "cpu", (f"It was on a CPU for {cpu_ms:.0f} of {busy_ms:.0f} ms.",), sure=False)
    return None


def _starved(case: Case, thread: Thread | None) -> list[str]:
    facts, said = [], case.of_tool("process")
    throttling = (said.data.get("throttling") or {}) if said else {}
    if (
        said
        and throttling.get("throttled_ms")
        and throttling["throttled_ms"] >= 1000 * STARVED_WAIT * float(said.data.get("window_s") or 1)
    ):
        facts.append(
            f"Its control group was held back for {throttling['throttled_ms']:.0f} ms of {float(said.data['window_s']) * 1e3:.0f} ms (quota {throttling.get('cpus')} CPUs)."
        )
    waited = witness(case, "process", thread)
    if said and waited and (waited.get("delay_ms") or 0) >= 1000 * STARVED_WAIT * float(said.data.get("window_s") or 1):
        facts.append(
            f"Its thread was ready to run but waited {waited['delay_ms']:.0f} ms of {float(said.data['window_s']) * 1e3:.0f} ms for a CPU."
        )
    seen, share = witness(case, "ebpf", thread), share_of_cpu(case, thread)
    # One that gets next to nothing now may have computed before its quota was used up.
    least = STARVED_WAIT if share is None or share >= STARVED_SHARE else 0.5
    if seen and (seen.get("delay_ms") or 0) > least * (seen.get("busy_ms") or 0) > 0:
        facts.append(
            f"The kernel kept it waiting for a CPU for {seen['delay_ms']:.0f} of the {seen['busy_ms']:.0f} ms since it left its loop."
        )
    return facts
