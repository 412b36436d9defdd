"""Names for things, as a tired person would say them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hangwatch.graph import WaitGraph
from hangwatch.records import Frame, Primitive
from hangwatch.rules.base import Case
from hangwatch.rules.frames import frames_of, innermost, place

_KINDS = {
    "queue-get": "an item of the queue", "queue-put": "room in the queue", "queue-join": "the queue to be worked off",
    "peer": "an answer from", "client": "the client to read", "body": "the client's request body", "gather": "several tasks",
    "group": "the tasks of a group", "job": "work in a thread", "loop": "the event loop", "disconnect": "the client to go away",
    "import-lock": "the import lock", "thread-lock": "the thread lock", "thread-event": "the thread event",
    "thread-queue": "the thread queue", "server-close": "the server's connections to close", "other": "a future",
}  # fmt: skip


def seconds(ns: int) -> str:
    """``12.3 s``; ``340 ms`` below one second."""
    return f"{ns / 1e9:.1f} s" if ns >= 1_000_000_000 else f"{ns // 1_000_000} ms"


def primitive_name(primitive: Primitive | None, primitive_id: str = "") -> str:
    """Its label, led by what it is where the label does not say so."""
    if primitive is None:
        return "the event loop" if primitive_id.startswith("loop:") else primitive_id
    kind = _KINDS.get(primitive.kind, f"the {primitive.kind}")
    if not primitive.label or primitive.label.lower() == primitive.kind:
        return kind
    return f"{kind} {primitive.label}" if primitive.kind not in primitive.label.lower() else primitive.label


def waiter_name(graph: WaitGraph, any_id: str) -> str:
    """``POST /transfer`` for a request or its task, ``task 'shipper'``, ``thread 'worker_0'``, ``the event loop's thread``."""
    task, thread = graph.tasks.get(graph.node(any_id)), graph.threads.get(any_id)
    request = graph.requests.get(any_id) or (graph.request_of(any_id) if task is not None else None)
    if request is not None:
        main = request.task_id in (None, graph.node(any_id)) or task is None
        return f"{request.method} {request.route}" if main else f"task '{task.name if task else ''}' of {request.method} {request.route}"
    if task is not None:
        return f"task '{task.name}'" if task.name else f"task {any_id}"
    if thread is not None:
        if thread.is_loop:
            return "the event loop's thread"
        served = graph.request_of(thread.serves) if thread.serves else None
        return f"thread '{thread.name}'" + (f" (for {served.method} {served.route})" if served else "")
    return primitive_name(graph.primitives.get(any_id), any_id)


def waiters_name(graph: WaitGraph, ids: Sequence[str]) -> str:
    """``POST /a``; ``3 requests (POST /a)``; ``4 tasks``: the first by name, the rest by number."""
    if not ids:
        return "somebody"
    first = waiter_name(graph, ids[0])
    if len(ids) == 1:
        return first
    requests = {r.id for i in ids if (r := graph.request_of(i)) is not None}
    if len(requests) >= 2:
        return f"{len(requests)} requests ({first} first)"
    return f"{first} and {len(ids) - 1} more"


def waits_sentence(case: Case, waiter_id: str, primitive: Primitive) -> str:
    """``POST /a waits in transfer() (app.py:27) for lock bob since 12.3 s``."""
    graph = case.graph
    since = age_ns(case, waiter_id, primitive.id)
    at = place(innermost(frames_of(graph, waiter_id)))
    words = [waiter_name(graph, waiter_id), "waits", f"in {at}" if at else "", f"for {primitive_name(primitive)}"]
    return " ".join(filter(None, words)) + (f", for {seconds(since)} now" if since is not None else "")


def age_ns(case: Case, waiter_id: str, primitive_id: str) -> int | None:
    """How long this wait has lasted; of its request, where the wait's own beginning is not known."""
    wait = case.graph.wait(waiter_id, primitive_id)
    if wait is not None and wait.since_ns is not None:
        return max(0, case.snapshot.at_ns - wait.since_ns)
    request = case.graph.request_of(waiter_id)
    if request is not None and request.since_ns is not None:
        return max(0, case.snapshot.at_ns - request.since_ns)
    return None


def state_sentence(primitive: Primitive) -> str:
    """``asyncio.Lock bob: locked True, waiting 3``; empty when nothing is known."""
    facts = [f"{key.replace('_', ' ')} {value}" for key, value in primitive.state.items() if value is not None]
    if primitive.capacity is not None:
        facts.append(f"{primitive.in_use if primitive.in_use is not None else '?'} of {primitive.capacity} in use")
    return f"{primitive_name(primitive)}: {', '.join(facts)}" if facts else ""


def path_sentence(graph: WaitGraph, path: Sequence[str]) -> str:
    """``POST /a → lock bob → POST /b → lock alice``."""
    names = [
        waiter_name(graph, node) if node.startswith(("task:", "thread:", "request:")) else primitive_name(graph.primitives.get(node), node)
        for node in path
    ]
    return " → ".join(names)


def because(*lines: str | Iterable[str]) -> tuple[str, ...]:
    """The facts, one a line, without empty ones and repetitions; at most a dozen."""
    flat = [line for item in lines for line in ([item] if isinstance(item, str) else item)]
    return tuple(dict.fromkeys(filter(None, flat)))[:12]


def place_of(frame: Frame | None) -> str:
    """`` in transfer() (app.py:27)``, empty for None."""
    return f" in {place(frame)}" if frame else ""
