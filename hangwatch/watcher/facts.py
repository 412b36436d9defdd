"""The kernel's facts about a stall as an Evidence: what a rule asks, and some lines for a reader."""

from __future__ import annotations

import time
from typing import Any

from hangwatch.kernel import procfs
from hangwatch.kernel.cgroups import Throttling
from hangwatch.records import Evidence, Request
from hangwatch.watcher.loops import LoopStall
from hangwatch.watcher.states import UPSTREAM, ConnectionStall

TOOL = "ebpf"


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
        "kernel_stack": list(stall.kernel_stack),
    }
    return Evidence(TOOL, text=render(data), data=data, took_ms=round((time.perf_counter() - begun) * 1e3, 3))


#: What an incident stores; thousands of connections that hang alike are not understood by reading all of them.
MAX_CONNECTIONS = 200


def connection_evidence(stalls: list[ConnectionStall], upstreams: list[ConnectionStall], requests: dict[int, Request]) -> Evidence:
    """The kernel's facts about connections; ``requests`` by descriptor, as the process' memory tells them.

    ``data``: {"kind": "connections", "connections": [{"fd", "state", "local", "peer", "waits_ms", "received", "sent", "tls", "request", "observer",
    "request_id", "task_id"}], "dropped"}. Upstreams come last, with the state ``upstream-silent``.
    """
    rows: list[dict[str, Any]] = []
    for stall in [*stalls[:MAX_CONNECTIONS], *upstreams[:MAX_CONNECTIONS]]:
        request = requests.get(stall.fd)
        rows.append(
            {
                "fd": stall.fd,
                "state": stall.state,
                "local": stall.local,
                "peer": stall.peer,
                "waits_ms": _ms(stall.at_ns - stall.since_ns),
                "received": stall.received,
                "sent": stall.sent,
                "tls": stall.tls,
                "request": stall.request or (f"{request.method} {request.route}" if request else ""),
                "observer": stall.observer,
                "request_id": request.id if request else None,
                "task_id": request.task_id if request else None,
            }
        )
    dropped = max(0, len(stalls) - MAX_CONNECTIONS) + max(0, len(upstreams) - MAX_CONNECTIONS)
    lines = [
        f"fd {row['fd']} {row['state']} for {row['waits_ms'] / 1e3:.1f} s: {row['local']} {'->' if row['state'] == UPSTREAM else '<-'} {row['peer']}"
        f" {row['request']}{' (TLS: byte counts only)' if row['tls'] else ''}, {row['received']} bytes in, {row['sent']} out".replace(
            "  ", " "
        )
        for row in rows
    ]
    return Evidence(
        TOOL, text="\n".join(lines), data={"kind": "connections", "pid": stalls[0].pid, "connections": rows, "dropped": dropped}
    )


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
        lines.append(
            f"thread {thread['tid']} left its epoll {thread['busy_ms']:.0f} ms ago and has not come back: {_VERDICTS[data['verdict']]}"
        )
        parts = [
            (word, thread[f"{key}_ms"])
            for key, word in (("cpu", "on a CPU"), ("delay", "waiting for a CPU"), ("slept", "asleep"), ("gil", "for the GIL"))
        ]
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
