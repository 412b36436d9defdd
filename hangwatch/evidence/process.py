"""The process as the system sees it (psutil and /proc): does it burn CPU, is it starved of it, is it out of something?

``data`` (every key may be missing where it could not be read; ``gaps`` says which and why):

``name status created_at`` (seconds since the epoch) ``age_s``; ``window_s`` the time over which the following were measured:
``cpu_percent`` (100 = one CPU), ``threads`` [{"tid", "name", "is_loop", "state", "cpu_percent", "cpu_s", "delay_ms"}] busiest first (``delay_ms``: ready
to run without getting a CPU), ``context_switches`` {"voluntary", "involuntary"}, ``throttling`` {"periods", "throttled_periods",
"throttled_ms", "cpus"} (control group; ``cpus`` is the quota or None); ``throttled_total_ms`` since the group was made;
``rss_bytes vms_bytes memory_percent``; ``fds fds_limit``; ``connections`` [{"state", "peer", "count"}] most first,
``connections_by_state`` {state: count}; ``children`` [{"pid", "name", "status"}]; ``cpus`` usable by it, ``load`` [1, 5, 15 minutes].
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from hangwatch.evidence.base import Target
from hangwatch.kernel import procfs
from hangwatch.kernel.ptrace import refusal
from hangwatch.records import Evidence

NAME = "process"

# One period of CPU throttling (100 ms by default); short beside the 300 ms in which an incident is to be on disk.
_WINDOW_S = 0.1
_MAX_PEERS = 50
_MAX_THREADS = 200
_MAX_CHILDREN = 100


def prepare() -> None:
    import psutil  # noqa: F401


def capture(target: Target) -> Evidence:
    try:
        import psutil
    except ImportError as error:
        return Evidence(NAME, error=f"psutil cannot be imported: {error}", hint="pip install 'psutil>=5.6' in this environment.")
    try:
        process = psutil.Process(target.pid)
    except psutil.Error:
        why = refusal(target.pid)
        return Evidence(NAME, error=why.message if why else f"there is no process {target.pid}", hint=why.help_text if why else None)
    data: dict[str, Any] = {"pid": target.pid}
    gaps: list[str] = []
    _rates(target, process, data, gaps)
    for keys, look in _FACTS:
        _try(keys, look, process, data, gaps)
    if gaps:
        data["gaps"] = gaps
    return Evidence(NAME, text=render(data), data=data)


def _try(keys: str, look: Callable[[Any], dict[str, Any]], process: Any, data: dict[str, Any], gaps: list[str]) -> None:
    try:
        data.update(look(process))
    except Exception as error:  # psutil raises its own, OSError and, on kernels it does not know, anything
        gaps.append(f"{keys}: {type(error).__name__} {error}".strip())


def _rates(target: Target, process: Any, data: dict[str, Any], gaps: list[str]) -> None:
    """Everything that is a difference between two looks."""
    before, begun = _sample(process), time.monotonic()
    time.sleep(min(_WINDOW_S, target.deadline_s / 4))
    after, window_s = _sample(process), time.monotonic() - begun
    data["window_s"] = round(window_s, 4)
    threads = [_thread(stat, before["threads"].get(tid), window_s) for tid, stat in after["threads"].items()]
    for thread in threads:
        thread["is_loop"] = thread["tid"] in target.loop_native_ids
    threads.sort(key=lambda thread: -thread["cpu_percent"])
    data["threads"] = threads[:_MAX_THREADS]
    if len(threads) > _MAX_THREADS:
        gaps.append(f"threads: {len(threads) - _MAX_THREADS} more, not shown")
    data["cpu_percent"] = round(sum(thread["cpu_percent"] for thread in threads), 1)
    if before["switches"] and after["switches"]:
        pairs = zip(("voluntary", "involuntary"), before["switches"], after["switches"], strict=True)
        data["context_switches"] = {word: late - early for word, early, late in pairs}
    if before["throttling"] and after["throttling"]:
        delta = after["throttling"].since(before["throttling"])
        data["throttling"] = {
            "periods": delta.periods,
            "throttled_periods": delta.throttled_periods,
            "throttled_ms": round(delta.throttled_ns / 1e6, 3),
            "cpus": delta.cpus,
        }
        data["throttled_total_ms"] = round(after["throttling"].throttled_ns / 1e6, 3)


def _sample(process: Any) -> dict[str, Any]:
    pid = process.pid
    stats = {tid: stat for tid in procfs.thread_ids(pid) if (stat := procfs.thread_stat(pid, tid)) is not None}
    try:
        switches = tuple(process.num_ctx_switches())
    except Exception:  # as in _try; it only leaves the key out
        switches = ()
    return {"threads": stats, "switches": switches, "throttling": procfs.cpu_throttling(pid)}


def _thread(stat: procfs.ThreadStat, earlier: procfs.ThreadStat | None, window_s: float) -> dict[str, Any]:
    cpu_ns = stat.cpu_ns - (earlier.cpu_ns if earlier else 0)
    delay_ms = None
    if stat.delay_ns is not None:
        delay_ms = round((stat.delay_ns - ((earlier.delay_ns or 0) if earlier else 0)) / 1e6, 3)
    return {
        "tid": stat.tid,
        "name": stat.name,
        "state": stat.state,
        "cpu_percent": round(max(0.0, cpu_ns / window_s / 1e7), 1),
        "cpu_s": round(stat.cpu_ns / 1e9, 3),
        "delay_ms": delay_ms,
    }


def _identity(process: Any) -> dict[str, Any]:
    created_at = process.create_time()
    return {"name": process.name(), "status": process.status(), "created_at": created_at, "age_s": round(time.time() - created_at, 1)}


def _memory(process: Any) -> dict[str, Any]:
    memory = process.memory_info()
    return {"rss_bytes": memory.rss, "vms_bytes": memory.vms, "memory_percent": round(process.memory_percent(), 2)}


def _descriptors(process: Any) -> dict[str, Any]:
    import psutil

    return {"fds": process.num_fds(), "fds_limit": process.rlimit(psutil.RLIMIT_NOFILE)[0]}


def _connections(process: Any) -> dict[str, Any]:
    # psutil 6 renamed connections() and warns about the old name.
    look = getattr(process, "net_connections", None) or process.connections
    found = look("inet")
    peers = Counter((c.status, _address(c.raddr)) for c in found)
    return {
        "connections": [{"state": state, "peer": peer, "count": count} for (state, peer), count in peers.most_common(_MAX_PEERS)],
        "connections_by_state": dict(Counter(c.status for c in found)),
    }


def _address(address: Any) -> str:
    if not address:
        return ""
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}"


def _children(process: Any) -> dict[str, Any]:
    # psutil would read the parent of every process of the machine.
    found = procfs.children(process.pid)
    return {"children": [_child(pid) for pid in found[:_MAX_CHILDREN]]}


def _child(pid: int) -> dict[str, Any]:
    stat = procfs.thread_stat(pid, pid)
    return {"pid": pid, "name": stat.name if stat else "", "status": procfs.STATES.get(stat.state, stat.state) if stat else "gone"}


def _machine(process: Any) -> dict[str, Any]:
    return {"cpus": len(process.cpu_affinity()), "load": [round(value, 2) for value in os.getloadavg()]}


_FACTS: tuple[tuple[str, Callable[[Any], dict[str, Any]]], ...] = (
    ("name, status, age", _identity),
    ("memory", _memory),
    ("descriptors", _descriptors),
    ("connections", _connections),
    ("children", _children),
    ("cpus, load", _machine),
)


def render(data: dict[str, Any]) -> str:
    """Some lines for a reader; every number of them is in ``data``."""
    lines = []
    if "cpu_percent" in data:
        lines.append(f"cpu {data['cpu_percent']} % over {data['window_s'] * 1e3:.0f} ms, {len(data['threads'])} threads")
    for thread in data.get("threads", ())[:5]:
        if thread["cpu_percent"] >= 1 or (thread["delay_ms"] or 0) >= 1:
            lines.append(
                f"  thread {thread['tid']} {thread['name']}{' (the loop)' if thread['is_loop'] else ''}: {thread['cpu_percent']} % cpu, waited {thread['delay_ms']} ms for one"
            )
    throttling = data.get("throttling")
    if throttling and throttling["cpus"] is not None:
        lines.append(
            f"quota {throttling['cpus']:g} cpus, held back {throttling['throttled_ms']} ms ({data['throttled_total_ms']} ms in all)"
        )
    if "rss_bytes" in data:
        lines.append(f"memory {data['rss_bytes'] / 1048576:.0f} MB ({data['memory_percent']} %)")
    if "fds" in data:
        lines.append(f"descriptors {data['fds']} of {data['fds_limit']}")
    if data.get("connections_by_state"):
        lines.append(
            "connections " + ", ".join(f"{count} {state.lower()}" for state, count in sorted(data["connections_by_state"].items()))
        )
    for child in data.get("children", ()):
        lines.append(f"child {child['pid']} {child['name']} ({child['status']})")
    lines.extend(f"not known: {gap}" for gap in data.get("gaps", ()))
    return "\n".join(lines)
