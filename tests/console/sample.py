"""Incidents built by hand, the same at every call: what rendering is tested on."""

from __future__ import annotations

import dataclasses

from hangwatch.records import Connection, Evidence, Finding, Incident, Signature
from tests.cases import LOOP, LOOP_THREAD, S, Scene, blocked_case, frame

RECEIVE = "uvicorn/protocols/http/httptools_impl.py:RequestResponseCycle.receive:544"


def _incident(case, number: int, *findings: Finding, **fields: object) -> Incident:
    """The findings are written out here: the words of rules may change without a page's looking different."""
    made = Incident(
        f"20270115T080000000-00000{number}",
        "0123456789abcdef",
        "shop",
        case.stall,
        case.snapshot,
        case.evidence,
        findings,
        opened_at=1.8e9,
        host="web-3",
    )
    return dataclasses.replace(made, **fields)  # type: ignore[arg-type]


def deadlock() -> Incident:
    """Two transfers hold what the other wants; five who only look wait behind them."""
    scene = Scene()
    alice, bob = scene.lock("alice"), scene.lock("bob")
    first = scene.request("POST", "/transfer", ["app.py:transfer:3"], waits_on=bob, holds=[(alice, "app.py:transfer:2")])
    second = scene.request("POST", "/refund", ["app.py:refund:13"], waits_on=alice, holds=[(bob, "app.py:refund:12")])
    for _ in range(5):
        scene.request("GET", "/balance", ["app.py:balance:33"], waits_on=alice)
    finding = Finding(
        "deadlock",
        "POST /transfer waits for lock bob, which POST /refund holds, which waits for lock alice, which POST /transfer holds",
        (
            "POST /transfer waits in transfer() (app.py:3) for lock bob, for 12.0 s now.",
            "POST /refund waits in refund() (app.py:13) for lock alice, for 12.0 s now.",
        ),
        (frame("app.py:transfer:3"), frame("app.py:refund:13")),
        (first, second, bob, alice),
        "proved",
        "Take these in one fixed order everywhere.",
        frees=7,
    )
    return _incident(scene.case(first), 1, finding, closed_at=1.8e9 + 40, count=3)


def known_bug() -> Incident:
    """uvicorn 748, with a connection, evidence that failed and evidence that did not, a gap, and idle tasks."""
    scene = Scene()
    scene.versions["uvicorn"] = "0.12.2"
    state = {"message_event_set": False, "body_bytes": 29, "shared": True}
    body = scene.primitive("body", "the request body of 10.0.0.7:40112", library="uvicorn", state=state, ready=True)
    scene.connections["connection:1"] = Connection("connection:1", "http/1.1", "10.0.0.7:40112", queued=1, read_paused=True)
    frames = [
        "uvicorn/protocols/http/httptools_impl.py:run_asgi:391",
        "app.py:place_order:70",
        "app.py:read_body:62",
        RECEIVE,
        "asyncio/locks.py:Event.wait:213",
    ]
    request = scene.request("POST", "/orders", frames, waits_on=body, body_complete=True, connection_id="connection:1")
    own = scene.tasks[request].request_id or ""
    scene.change(own, trace_id="4bf92f3577b34da6a3ce929d0e0e4736", span_id="00f067aa0ba902b7")
    for number in range(30):
        scene.task(f"poller-{number}", ["app.py:poll:50", "asyncio/tasks.py:sleep:649"])
    scene.thread("hangwatch-watchdog", ["threading.py:wait:320"])
    said = (
        Evidence("process", "cpu 1.1 % over 101 ms, 5 threads\ndescriptors 9 of 1024", took_ms=131.6),
        Evidence("py-spy", error="py-spy is not installed", hint="pip install 'hangwatch[pyspy]'"),
    )
    bug = Signature(
        "uvicorn-748", "uvicorn", "receive() hangs: one event is shared by all requests of a connection", "0.12.2", "<0.12.3", "0.12.3",
        "https://github.com/Kludex/uvicorn/issues/748", "https://github.com/Kludex/uvicorn/pull/848", "The event is cleared by the wrong one.", "A reused connection.",
    )  # fmt: skip
    finding = Finding(
        "shared-event",
        "POST /orders waits for its body by an event that is shared between requests; it has arrived, and another one took the wake-up",
        ("What POST /orders waits for is already there, in two looks one after the other.",),
        (frame(RECEIVE), frame("app.py:read_body:62"), frame("app.py:place_order:70")),
        (request, body),
        "proved",
        "Upgrade uvicorn to 0.12.3 or later.",
        bug,
    )
    made = _incident(scene.case(request, evidence=said), 2, finding)
    return dataclasses.replace(
        made, snapshot=dataclasses.replace(made.snapshot, gaps=("uvloop's timers cannot be read.",), dropped={"acts": 12})
    )


def blocked_loop() -> Incident:
    scene = Scene()
    scene.loop_thread(["asyncio/base_events.py:BaseEventLoop._run_once:1922", "app.py:report:10", "app.py:render:7"], syscall=None)
    scene.task("Task-4", ["app.py:report:10"], state="running")
    scene.task("Task-5", ["app.py:poll:50"])
    culprit = (frame("app.py:render:7"), frame("app.py:report:10"))
    finding = Finding(
        "blocked-loop-cpu",
        "The event loop's thread computes in render() (app.py:7)",
        ("2 tasks of this loop wait for it.",),
        culprit,
        (LOOP, LOOP_THREAD),
        "likely",
        "Do it in a process.",
        frees=2,
    )
    other = Finding("gc-pause", "The collector ran meanwhile", subjects=(LOOP,))
    return _incident(blocked_case(scene), 3, finding, other)


def nothing_found() -> Incident:
    """The least that can be: an incident without findings, tasks or threads."""
    scene = Scene()
    made = _incident(scene.case(scene.request("GET", "/", [])), 4)
    return dataclasses.replace(made, snapshot=dataclasses.replace(made.snapshot, tasks=(), threads=(), requests=(), loops=()))


def hostile() -> Incident:
    """Names that a client or an application chose: markup, terminal codes, right-to-left marks, no end."""
    evil = "/<script>alert(1)</script>&amp;\"'\x1b[2J\u202egnp\x00" + "a" * 300
    scene = Scene()
    lock = scene.lock("</text><script>alert(2)</script>\x1b]0;x\x07", state={"<b>": "<i>\x9b31m", "locked": True})
    request = scene.request("GET", evil, ["app.py:<lambda>:3"], waits_on=lock)
    scene.change(request, name=evil)
    said = (
        Evidence("py-spy", "</pre><img src=x onerror=alert(3)>\x1b[31m", hint=None),
        Evidence("</summary><b>", error="<script>", hint="<a href=javascript:alert(4)>"),
    )
    made = _incident(scene.case(request, evidence=said), 5, service="<u>shop</u>", host="\x1b[1mhost")
    first = Finding(
        "lock-leaked", f"GET {evil} waits", culprit=(frame("app.py:<lambda>:3"),), subjects=(request, lock), confidence="<proved>"
    )
    bug = Signature(
        "x-1", "<x>", "<title>", None, "<1", None, "javascript:alert(5)", "data:text/html,<script>", mechanism="<script>alert(6)</script>"
    )
    return dataclasses.replace(made, findings=(dataclasses.replace(first, signature=bug, because=(*first.because, "\x1b[2J<hr>")),))


def crowd() -> Incident:
    """Thousands of requests behind one lock that somebody slow holds."""
    scene = Scene()
    lock = scene.lock("cache")
    scene.request(
        "GET", "/slow", ["app.py:slow:5"], waits_on=scene.primitive("peer", "10.0.0.9:5432", ready=False), holds=[(lock, "app.py:slow:4")]
    )
    slow = next(iter(scene.requests.values())).task_id or ""
    tasks = [scene.request("GET", f"/page/{n % 7}", ["app.py:page:9"], waits_on=lock, since_ns=880 * S) for n in range(3000)]
    finding = Finding(
        "holder-stuck",
        "3000 requests wait for lock cache, which GET /slow has",
        subjects=(*tasks[:20], lock, slow),
        confidence="likely",
        frees=3000,
    )
    return _incident(scene.case(tasks[0]), 6, finding)


ALL = (deadlock, known_bug, blocked_loop, nothing_found, hostile, crowd)
