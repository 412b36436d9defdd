"""Incidents built by hand, one for each shape that a trace can take."""

from __future__ import annotations

import dataclasses

from hangwatch.records import (
    Connection,
    Finding,
    Frame,
    Hold,
    Incident,
    Loop,
    Primitive,
    Request,
    Signature,
    Snapshot,
    Stall,
    Task,
    Thread,
    Wait,
)

S = 1_000_000_000
AT_NS = 500 * S
TAKEN_AT = 1_790_000_000.25
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HOLDER_TRACE = "0af7651916cd43dd8448eb211c80319c"


def wall(monotonic_ns):
    return int(TAKEN_AT * 1e9) + monotonic_ns - AT_NS


def request(n, trace_id=None, span_id=None, since_s=30, route="/orders", **more):
    return Request(
        f"request:{n:x}", f"connection:{n:x}", f"task:{n:x}", "GET", route, AT_NS - since_s * S, "app", trace_id, span_id, **more
    )


def lock_incident(incident_id="20260101T000000-lock", trace_id=TRACE, sampled=None, extra_victims=0):
    """Request 1 waits for a lock that request 2 holds, which waits for a silent peer; requests 3.. wait for the same lock."""
    numbers = [1, 2, *range(3, 3 + extra_victims)]
    lock_holder = Hold("lock:a", Frame("/app/orders.py", 41, "charge"), AT_NS - 40 * S)
    tasks, waits, requests = [], [], []
    for n in numbers:
        holds = (lock_holder,) if n == 2 else ()
        target = "peer:b" if n == 2 else "lock:a"
        frames = (
            Frame("/site/uvicorn/protocols/http/h11_impl.py", 400, "RequestResponseCycle.run_asgi"),
            Frame("/app/orders.py", 12, "orders"),
        )
        tasks.append(Task(f"task:{n:x}", f"Task-{n}", "loop:1", "parked", frames, target, holds, request_id=f"request:{n:x}"))
        waits.append(
            Wait(f"task:{n:x}", target, "acquire" if n != 2 else "read", AT_NS - (20 + n) * S, Frame("/app/orders.py", 12, "orders"))
        )
        trace = trace_id if n == 1 else HOLDER_TRACE if n == 2 else f"{n:032x}"
        requests.append(request(n, trace, f"{n:016x}", since_s=30 if n != 2 else 45, sampled=sampled if n == 1 else None))
    snapshot = Snapshot(
        schema=1,
        taken_at=TAKEN_AT,
        at_ns=AT_NS,
        pid=4242,
        source="agent",
        loops=(Loop("loop:1", "asyncio", "thread:9", lag_ns=1000),),
        tasks=tuple(tasks),
        threads=(Thread("thread:9", "MainThread", 9, is_loop=True),),
        primitives=(
            Primitive("lock:a", "lock", "orders.LOCK", "asyncio", {"locked": True}, holders=("task:2",)),
            Primitive("peer:b", "peer", "10.0.0.7:5432", "asyncpg"),
        ),
        waits=tuple(waits),
        connections=tuple(Connection(f"connection:{n:x}", "h11", f"10.1.0.{n % 250}:5000") for n in numbers),
        requests=tuple(requests),
    )
    finding = Finding(
        "holder-stuck",
        "GET /orders waits for orders.LOCK, whose holder waits for 10.0.0.7:5432.",
        ("the lock is held by Task-2", "Task-2 has waited 22 s for its peer"),
        (Frame("/app/orders.py", 41, "charge"),),
        ("request:1",),
        "likely",
        "Give the query a deadline.",
        frees=len(numbers) - 1,
    )
    stall = Stall("request", "request:1", AT_NS - 30 * S, 10 * S)
    return Incident(incident_id, "f" * 16, "shop", stall, snapshot, (), (finding,), opened_at=TAKEN_AT, host="web-1")


def numbered(n):
    return lock_incident(f"20260101T0000{n:05d}")


def loop_incident(incident_id="20260101T000001-loop", n_victims=3):
    """The loop is blocked by request 1's `price`; the others wait for the loop."""
    requests = [request(n, f"{n:032x}", f"{n:016x}", since_s=12) for n in range(1, n_victims + 2)]
    frames = (Frame("/app/main.py", 3, "<module>"), Frame("/app/prices.py", 77, "Catalogue.price"))
    snapshot = Snapshot(
        schema=1,
        taken_at=TAKEN_AT,
        at_ns=AT_NS,
        pid=4242,
        source="agent",
        loops=(Loop("loop:1", "uvloop", "thread:9", "task:1", 4 * S),),
        tasks=(Task("task:1", "Task-1", "loop:1", "running", frames, request_id="request:1"),),
        threads=(Thread("thread:9", "MainThread", 9, frames, is_loop=True),),
        requests=tuple(requests),
    )
    finding = Finding(
        "blocked-loop-cpu", "Catalogue.price has kept the loop busy for 4 s.", ("100 % CPU",), (frames[-1],), ("loop:1",), "proved"
    )
    stall = Stall("loop", "loop:1", AT_NS - 4 * S, S // 2)
    return Incident(incident_id, "e" * 16, "shop", stall, snapshot, (), (finding,), opened_at=TAKEN_AT, host="web-1")


def untraced_incident(incident_id="20260101T000002-own"):
    """As `lock_incident`, but no request came with a traceparent."""
    incident = lock_incident(incident_id)
    plain = tuple(dataclasses.replace(r, trace_id=None, span_id=None) for r in incident.snapshot.requests)
    return dataclasses.replace(incident, snapshot=dataclasses.replace(incident.snapshot, requests=plain))


def known_bug_incident():
    """With a signature, a deadlock's cycle, and values far beyond what back-ends keep."""
    incident = lock_incident("20260101T000003-bug")
    cycle = tuple(dataclasses.replace(p, holders=("task:1",)) if p.id == "peer:b" else p for p in incident.snapshot.primitives)
    deep = tuple(Frame(f"/app/deep/module_{i}.py", i, f"Very.Long.Name.function_{i}") for i in range(200))
    tasks = tuple(dataclasses.replace(t, frames=deep) for t in incident.snapshot.tasks)
    signature = Signature("uvicorn-748", "uvicorn", "shared event", "0.12.2", "<0.12.3", "0.12.3", "https://example.org/748", None)
    finding = dataclasses.replace(
        incident.findings[0], cause="deadlock", because=tuple(f"fact {i} ünïcode" * 9 for i in range(60)), signature=signature
    )
    snapshot = dataclasses.replace(incident.snapshot, primitives=cycle, tasks=tasks)
    return dataclasses.replace(incident, snapshot=snapshot, findings=(finding,))
