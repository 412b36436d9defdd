"""From what the kernel told to an incident: a look into the process as `attach` takes it, joined with the kernel's facts.

The kernel knows since when, in which system call and on whose bytes; the process' memory knows which task, which request, which line.
Both name threads by their id and connections by their addresses.
"""

from __future__ import annotations

import dataclasses
import socket
import time
from typing import Any

from hangwatch import attach, evidence
from hangwatch.errors import HangwatchError
from hangwatch.evidence.base import Target
from hangwatch.investigate import investigate
from hangwatch.kernel import kallsyms, procfs
from hangwatch.kernel.cgroups import Throttling
from hangwatch.reading.remote import RemoteReader
from hangwatch.records import SCHEMA, Evidence, Incident, Loop, Snapshot, Stall, Thread
from hangwatch.snapshot import take
from hangwatch.watcher.loops import LoopStall
from hangwatch.watcher.workers import Worker

TOOL = "ebpf"
#: Between the two looks. The kernel has told already that nothing moved: short, for somebody waits for the line.
APART_S = 0.1
#: Captures that need no tool and stop nothing.
CAPTURES = ("process", "sockets")
CAPTURES_DEADLINE_S = 1.5


class NoStall(Exception):
    """The look into the process says that nothing is wrong. The message says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Looks:
    """Two looks at one process, and what was collected between them."""

    earlier: Snapshot
    now: Snapshot
    loop_tids: tuple[int, ...]
    turned: frozenset[str]
    gil: tuple[Evidence, ...]
    collected: tuple[Evidence, ...]


def two_looks(reader: RemoteReader, native: bool = False) -> Looks:
    """Raises CannotLook."""
    began = time.monotonic()
    earlier, gil, turns = take(reader), reader.gil(), reader.turns()
    tids = reader.loop_native_ids()
    wanted = (*CAPTURES, "py-spy") if native else CAPTURES
    collection = evidence.Collection(Target(reader.pid, native=native, loop_native_ids=tids), wanted, CAPTURES_DEADLINE_S)
    time.sleep(max(0.0, APART_S - (time.monotonic() - began)))
    reader.refresh()
    now = take(reader)
    kept = attach.gil_evidence(reader, gil, (now.at_ns - earlier.at_ns) / 1e6)
    turned = frozenset(loop for loop, turn in reader.turns().items() if turn is not None and turns.get(loop) not in (None, turn))
    return Looks(earlier, now, tids, turned, kept, collection.gather())


def of_loop(worker: Worker, stall: LoopStall, limit_ns: int, throttled: Throttling | None = None, native: bool = False) -> Incident:
    """A blocked loop. Raises NoStall when that thread runs no event loop, or goes on."""
    facts = loop_evidence(stall, throttled)
    if worker.blind:
        return _blind(worker, stall, limit_ns, facts)
    try:
        looks = two_looks(attach.open_reader(worker.pid), native)
    except HangwatchError as error:
        return _blind(dataclasses.replace(worker, blind=str(error)), stall, limit_ns, facts)
    if stall.tid not in looks.loop_tids:
        if looks.loop_tids:
            worker.not_loops.add(stall.tid)
            raise NoStall(f"thread {stall.tid} runs no event loop")
        return _blind(dataclasses.replace(worker, blind="no event loop was found in its memory"), stall, limit_ns, facts)
    loop = next((loop for loop in looks.now.loops if loop.thread_id == f"thread:{stall.tid}"), None)
    if loop is None:
        raise NoStall(f"the loop of thread {stall.tid} has ended")
    if not stall.certain and (loop.id in looks.turned or loop.asleep):
        raise NoStall("it is busy, and goes from callback to callback")
    told = Stall("loop", loop.id, stall.since_ns, limit_ns)
    now = _with_lag(looks.now, loop, stall)
    return conclude(worker, told, dataclasses.replace(looks, now=now), facts)


def conclude(worker: Worker, stall: Stall, looks: Looks, facts: Evidence) -> Incident:
    return investigate(
        stall,
        looks.now,
        evidence=(facts, *looks.collected, *looks.gil),
        earlier=looks.earlier,
        service=worker.service,
        host=socket.gethostname(),
        opened_at=_epoch(stall.since_ns),
    )


def _with_lag(snapshot: Snapshot, loop: Loop, stall: LoopStall) -> Snapshot:
    """How long the loop has been away: from outside only the kernel knows."""
    lag = snapshot.at_ns - stall.since_ns
    return dataclasses.replace(
        snapshot, loops=tuple(dataclasses.replace(other, lag_ns=lag) if other.id == loop.id else other for other in snapshot.loops)
    )


def _blind(worker: Worker, stall: LoopStall, limit_ns: int, facts: Evidence) -> Incident:
    """What is left when the process' memory cannot be read: the kernel's facts."""
    thread_id, loop_id = f"thread:{stall.tid}", f"loop:{stall.tid:x}"
    call = procfs.thread_syscall(stall.pid, stall.tid) or stall.call or None
    snapshot = Snapshot(
        schema=SCHEMA,
        taken_at=time.time(),
        at_ns=time.monotonic_ns(),
        pid=stall.pid,
        source="kernel",
        loops=(Loop(loop_id, "unknown", thread_id, lag_ns=time.monotonic_ns() - stall.since_ns, asleep=False),),
        threads=(Thread(thread_id, procfs.name(stall.pid), stall.tid, is_loop=True, syscall=call, cpu_ns=procfs.thread_cpu_ns(stall.pid, stall.tid)),),
        gaps=(f"The process' memory was not read: {worker.blind}. What is told comes from the kernel.",),
    )
    collected = evidence.collect(Target(stall.pid, loop_native_ids=(stall.tid,)), CAPTURES, CAPTURES_DEADLINE_S)
    return investigate(
        Stall("loop", loop_id, stall.since_ns, limit_ns),
        snapshot,
        evidence=(facts, *collected),
        service=worker.service,
        host=socket.gethostname(),
        opened_at=_epoch(stall.since_ns),
    )


def loop_evidence(stall: LoopStall, throttled: Throttling | None = None) -> Evidence:
    """The kernel's facts about a blocked loop.

    ``data``: {"kind": "loop", "observer", "pid", "certain", "threads": [{"tid", "busy_ms", "call", "what", "asleep_ms", "cpu_ms", "delay_ms",
    "slept_ms", "gil_ms", "longest_call", "longest_ms"}], "verdict": "asleep"|"gil"|"starved"|"computing"|"mixed", "throttled_ms",
    "kernel_stack": [names]}.
    """
    begun = time.perf_counter()
    what = procfs.thread_syscall(stall.pid, stall.tid) if stall.call else None
    thread: dict[str, Any] = {"tid": stall.tid, "busy_ms": _ms(stall.at_ns - stall.since_ns), "call": stall.call, "what": what}
    for name in ("asleep_ns", "cpu_ns", "delay_ns", "slept_ns", "gil_ns", "longest_ns"):
        thread[name[:-3] + "_ms"] = _ms(getattr(stall, name))
    thread["longest_call"] = stall.longest_call
    data: dict[str, Any] = {
        "kind": "loop",
        "observer": stall.observer,
        "pid": stall.pid,
        "certain": stall.certain,
        "threads": [thread],
        "verdict": verdict(stall),
        "throttled_ms": _ms(throttled.throttled_ns) if throttled is not None else None,
        "kernel_stack": list(kallsyms.names(stall.kernel_stack)),
    }
    return Evidence(TOOL, text=render(data), data=data, took_ms=round((time.perf_counter() - begun) * 1e3, 3))


def verdict(stall: LoopStall) -> str:
    """Where most of the time went."""
    half = (stall.at_ns - stall.since_ns) / 2
    if (stall.gil_ns or 0) > half:
        return "gil"
    if (stall.delay_ns or 0) > half:
        return "starved"
    if (stall.slept_ns if stall.slept_ns is not None else stall.asleep_ns) > half:
        return "asleep"
    return "computing" if stall.cpu_ns is None or stall.cpu_ns > half else "mixed"


_VERDICTS = {
    "gil": "it waited for the GIL most of the time",
    "starved": "it was ready to run and had no CPU most of the time",
    "asleep": "it slept most of the time",
    "computing": "it computed",
    "mixed": "it did several things",
}


def render(data: dict[str, Any]) -> str:
    """Some lines for a reader."""
    lines = []
    for thread in data["threads"]:
        lines.append(f"thread {thread['tid']} left its epoll {thread['busy_ms']:.0f} ms ago and has not come back: {_VERDICTS[data['verdict']]}")
        parts = [(word, thread[f"{key}_ms"]) for key, word in (("cpu", "on a CPU"), ("delay", "waiting for a CPU"), ("slept", "asleep"), ("gil", "for the GIL"))]
        known = [f"{word} {value:.0f} ms" for word, value in parts if value is not None]
        if known:
            lines.append("  " + ", ".join(known))
        if thread["call"]:
            lines.append(f"  now in {thread['what'] or thread['call']}, for {thread['asleep_ms']:.0f} ms")
        elif thread["longest_call"]:
            lines.append(f"  now running; its longest sleep was {thread['longest_ms']:.0f} ms in {thread['longest_call']}")
    if data["throttled_ms"]:
        lines.append(f"its control group was held back for {data['throttled_ms']:.0f} ms meanwhile")
    if data["kernel_stack"]:
        lines.append("  in the kernel: " + " < ".join(data["kernel_stack"][:8]))
    return "\n".join(lines)


def _ms(ns: int | None) -> float | None:
    return None if ns is None else round(ns / 1e6, 1)


def _epoch(since_ns: int) -> float:
    return time.time() - (time.monotonic_ns() - since_ns) / 1e9


