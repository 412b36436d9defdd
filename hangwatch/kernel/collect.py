"""The collectors by hand, and as a child of the agent: ``python -m hangwatch.kernel.collect loops PID``.

    loops PID        where each loop's thread spends its time, for --seconds; --stalls MS prints turns that took longer
    connections PID  what each connection waits for after --seconds

``--json`` prints one JSON object. Exit status 2, with the reason on standard error, when eBPF cannot be used here.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from hangwatch.kernel import kallsyms, procfs
from hangwatch.kernel.collectors import CannotCollect, ConnTime, LoopTime
from hangwatch.kernel.rows import CLIENT, LoopRow
from hangwatch.kernel.sockets import SocketTable


def loops(pid: int, tids: Sequence[int], gil: tuple[int, int], seconds: float, limit_ms: float) -> dict[str, Any]:
    """{"window_ms", "threads": [{"tid", "busy_ms", "call", "what", "asleep_ms", "cpu_ms", "delay_ms", "slept_ms", "gil_ms"}], "stalls"}.

    ``tids``: threads to follow from now on wherever they are; others appear when they come by their epoll. ``busy_ms`` counts from
    then or from the begin of the window. Raises CannotCollect.
    """
    collector = LoopTime(int(limit_ms * 1e6), kernel_stacks=True)
    try:
        collector.watch(pid, gil)
        begun = time.monotonic_ns()
        before = {tid: procfs.thread_stat(pid, tid) for tid in tids}
        for tid in tids:
            # No epoll has this number: whatever the thread does counts as away from its own.
            collector.knows(tid, 1 << 30, begun)
        stalls = _until(collector, begun + int(seconds * 1e9))
        now, table = time.monotonic_ns(), SocketTable(pid)
        rows = {row.tid: row for row in collector.rows() if row.pid == pid}
        threads = [_thread(pid, tid, rows.get(tid), before.get(tid), begun, now, table) for tid in dict.fromkeys((*tids, *rows))]
        stack = next((collector.stack(row.now.stack) for row in rows.values() if row.now is not None), ())
        return {
            "window_ms": round((now - begun) / 1e6, 1),
            "threads": threads,
            "stalls": stalls,
            "kernel_stack": list(kallsyms.names(stack)),
            "lost": collector.lost(),
        }
    finally:
        collector.close()


def _until(collector: LoopTime, end_ns: int) -> list[dict[str, Any]]:
    stalls = []
    while time.monotonic_ns() < end_ns:
        time.sleep(max(0.0, min(0.1, (end_ns - time.monotonic_ns()) / 1e9)))
        for ended in collector.ended():
            row = ended.row
            stalls.append(
                {
                    "tid": row.tid,
                    "ms": round((ended.at_ns - row.busy_since) / 1e6, 1),
                    "cpu_ms": _ms(ended.cpu_ns),
                    "delay_ms": _ms(ended.delay_ns),
                    "slept_ms": _ms(row.slept_ns),
                    "gil_ms": _ms(row.gil_ns),
                    "longest": f"{row.longest.name} {row.longest.ns / 1e6:.1f} ms" if row.longest is not None else "",
                }
            )
    return stalls


def _thread(
    pid: int, tid: int, row: LoopRow | None, before: procfs.ThreadStat | None, begun: int, now: int, table: SocketTable
) -> dict[str, Any]:
    stat = procfs.thread_stat(pid, tid)
    call = procfs.system_call(pid, tid, table)
    asleep_ns = now - row.now.ns if row is not None and row.now is not None else 0
    since = max(begun, row.busy_since) if row is not None and row.busy_since else begun
    found: dict[str, Any] = {
        "tid": tid,
        "busy_ms": 0.0 if row is not None and not row.busy_since else _ms(now - since),
        "call": call.name if call is not None else "",
        "what": str(call) if call is not None else "",
        "asleep_ms": _ms(asleep_ns),
        "slept_ms": _ms(row.slept_ns + asleep_ns) if row is not None else None,
        "gil_ms": _ms(row.gil_ns) if row is not None else None,
        "cpu_ms": None,
        "delay_ms": None,
    }
    if stat is not None and before is not None:
        found["cpu_ms"] = _ms(stat.cpu_ns - before.cpu_ns)
        found["delay_ms"] = _ms(stat.delay_ns - before.delay_ns) if stat.delay_ns is not None and before.delay_ns is not None else None
    return found


def connections(pid: int, seconds: float) -> dict[str, Any]:
    """{"connections": [{"fd", "role", "peer", "waits_ms", "received", "sent", "exchanges", "unsent_ms"}]} of what began or moved in the
    window. Raises CannotCollect."""
    collector = ConnTime(0, copy_heads=True)
    try:
        collector.watch(pid)
        collector.attach()
        time.sleep(seconds)
        now, table = time.monotonic_ns(), SocketTable(pid)
        found = []
        for row in collector.overdue(now, 0):
            here = table.socket(row.fd)
            found.append(
                {
                    "fd": row.fd,
                    "role": "client" if row.role == CLIENT else "server",
                    "peer": here.peer if here is not None else "",
                    "waits_ms": _ms(now - row.waits_since) if row.waits else None,
                    "unsent_ms": _ms(now - row.unsent_since) if row.unsent_since else None,
                    "received": row.received,
                    "sent": row.sent,
                    "exchanges": row.exchanges,
                }
            )
        return {"connections": found, "lost": collector.lost()}
    finally:
        collector.close()


def _ms(ns: int | None) -> float | None:
    return None if ns is None else round(ns / 1e6, 1)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m hangwatch.kernel.collect", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("loops", "connections"))
    parser.add_argument("pid", type=int)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--stalls", type=float, default=100.0, metavar="MS")
    parser.add_argument("--tids", type=lambda text: tuple(int(word) for word in text.split(",") if word), default=())
    parser.add_argument("--gil", type=lambda text: tuple(int(word, 16) for word in text.split("-")), default=(0, 0), metavar="FROM-TO")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    try:
        if given.what == "loops":
            found = loops(given.pid, given.tids, given.gil, given.seconds, given.stalls)
        else:
            found = connections(given.pid, given.seconds)
    except CannotCollect as error:
        print(error, file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps(found))
    else:
        _print(found)
    return 0


def _print(found: dict[str, Any]) -> None:
    for rows in (found.get("stalls"), found.get("threads"), found.get("connections")):
        if rows:
            print("  ".join(f"{name:>9}" for name in rows[0]))
            for row in rows:
                print("  ".join(f"{'-' if value is None else value!s:>9}" for value in row.values()))
    if found.get("kernel_stack"):
        print("in the kernel:", " < ".join(found["kernel_stack"][:6]))


if __name__ == "__main__":
    sys.exit(main())
