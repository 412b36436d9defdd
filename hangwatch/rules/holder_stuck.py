"""The holder lives and is itself stuck: the finding names what it waits for, at the end of the chain."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Finding, Primitive
from hangwatch.rules.base import Case
from hangwatch.rules.frames import pick, taken_at, waits_in, where
from hangwatch.rules.words import because, path_sentence, primitive_name, waiter_name, waiters_name, waits_sentence

_KINDS = (
    "lock",
    "thread-lock",
    "semaphore",
    "condition",
    "import-lock",
    "job",
    "thread",
    "process",
    "pipe",
    "barrier",
    "gather",
    "group",
    "task",
)
_LOCKS = ("lock", "thread-lock", "semaphore", "condition", "import-lock")
#: Waits whose end anybody may bring who comes later: that a child task is in one proves nothing (a stream of events lives so).
_OPEN_ENDED = (
    "event",
    "queue-get",
    "future",
    "other",
    "condition",
    "stream",
    "thread-event",
    "thread-queue",
    "disconnect",
    "timer",
    "file",
    "group",
    "gather",
    "task",
)


def check(case: Case) -> Iterator[Finding]:
    deadlocked = case.graph.deadlocked()
    for primitive, _ in case.waiting_on(*_KINDS):
        waiters = case.impatient(primitive)
        holders = [h for h in case.graph.live_holders(primitive.id) if h not in deadlocked and case.graph.waits_of(h)]
        holders = [h for h in holders if h not in waiters]
        if not waiters or not holders or primitive.ready is True:
            continue
        yield _finding(case, primitive, waiters, holders)


def _finding(case: Case, primitive: Primitive, waiters: tuple[str, ...], holders: list[str]) -> Finding:
    graph = case.graph
    holder = holders[0]
    path = graph.final(holder)
    end = graph.primitives.get(path[-1]) if len(path) % 2 == 0 else None
    name = waiter_name(graph, holder)
    finally_for = f"waits for {primitive_name(end)}" if end is not None else f"waits behind {waiter_name(graph, path[-1])}"
    healthy = end is not None and case.is_patient(end, path[-2])
    moved = any(case.stands_still(node) is False for node in path[::2])
    verb = "has" if primitive.kind in _LOCKS else "must end"
    unsure = healthy or moved or end is None or (end.kind in _OPEN_ENDED and primitive.kind not in _LOCKS)
    return Finding(
        cause="holder-stuck",
        title=f"{waiters_name(graph, waiters)} {'wait' if len(waiters) > 1 else 'waits'} for {primitive_name(primitive)}, which {name} {verb}; that itself {finally_for}",
        because=because(
            [waits_sentence(case, w, primitive) + "." for w in waiters[:3]],
            f"{name} {verb} {primitive_name(primitive)}.",
            f"The chain: {path_sentence(graph, (waiters[0], primitive.id, *path))}.",
            waits_sentence(case, path[-2], end) + "." if end is not None and len(path) > 1 else "",
            "It moved between the two looks: it may only be slow." if moved else "",
        ),
        culprit=pick(
            where(graph, path[::2][::-1]), taken_at(graph, holders, primitive.id), where(graph, waiters), waits_in(graph, path[::2][::-1])
        ),
        subjects=(*waiters[:20], primitive.id, *path),
        confidence="suspected" if unsure else "likely",
        advice=_advice(primitive, end, name),
        frees=graph.frees(primitive.id),
    )


def _advice(primitive: Primitive, end: Primitive | None, holder: str) -> str:
    if end is None:
        return "Open the holder's frames: it is what everybody waits for."
    if primitive.kind in ("group", "gather", "task") and end.kind in ("timer", "event", "queue-get"):
        return f"If {holder} is one that never ends by itself (a heartbeat, a watcher), cancel it when the work is done: whoever waits for all waits for it too."
    return f"Do not wait for {primitive_name(end)} without a time limit while others wait for {primitive_name(primitive)}."
