"""Nobody is left who could end this wait: no setter lives, the work is done and its result went nowhere, the counter cannot reach zero."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Finding, Frame, Primitive
from hangwatch.rules.base import Case
from hangwatch.rules.events import loop_runs, told, wakeup_lies_there
from hangwatch.rules.frames import is_installed, is_standard, pick, place, waits_in, where
from hangwatch.rules.source import bare_nexts
from hangwatch.rules.words import because, primitive_name, state_sentence, waiters_name, waits_sentence

_KINDS = (
    "event", "future", "other", "job", "condition", "barrier", "queue-get", "queue-put", "queue-join", "stream", "body", "thread-event", "thread-queue",
)  # fmt: skip
#: State that says by itself that the wait can have no end, with the words for it.
_DEAD_ENDS = {
    "unreachable": "Nothing that can still run refers to it.",
    "job_done": "The work is done, but its result was never handed to the one who waits.",
    "dead_threads": "The threads that should do the work do not live in this process.",
    "unparsed_bytes": "What arrived lies unread in the parser, which waits for more.",
}


def check(case: Case) -> Iterator[Finding]:
    for primitive, _ in case.waiting_on(*_KINDS):
        waiters = tuple(w for w in case.impatient(primitive) if not wakeup_lies_there(case, w) and loop_runs(case, w))
        if not waiters or case.graph.live_holders(primitive.id):
            continue
        dead_ends = _dead_ends(primitive)
        if primitive.ready is True and not dead_ends:
            continue
        if primitive.kind == "body" and not dead_ends:
            continue  # the client's turn
        yield _finding(case, primitive, waiters, dead_ends)


def _dead_ends(primitive: Primitive) -> list[str]:
    found = [words for key, words in _DEAD_ENDS.items() if primitive.state.get(key)]
    if primitive.state.get("response_framed") is False:
        found.append(
            "The response was sent without a length and not in chunks, on a connection that stays open: its client cannot see its end."
        )
    if primitive.kind == "job" and primitive.ready is True:
        found.append(_DEAD_ENDS["job_done"])
    if primitive.kind == "queue-join" and primitive.state.get("size") == 0:
        found.append(f"The queue is empty, yet {primitive.state.get('unfinished', 'some')} of its items were never reported done.")
    return list(dict.fromkeys(found))


def submitted(primitive: Primitive) -> Frame | None:
    """The function that was handed to a thread, where the snapshot knows it: it is on no stack any more."""
    file, function, line = (primitive.state.get(key) for key in ("file", "function", "line"))
    if not isinstance(file, str) or not isinstance(function, str):
        return None
    if is_standard(file) or is_installed(file):
        return None
    return Frame(file, line if isinstance(line, int) else 0, function)


def _finding(case: Case, primitive: Primitive, waiters: tuple[str, ...], dead_ends: list[str]) -> Finding:
    graph = case.graph
    nobody = case.setters(primitive) == ()
    job = submitted(primitive)
    escapes = bare_nexts(job) if job is not None and dead_ends and primitive.kind == "job" else []
    why = "that nobody is left to end" if nobody or not dead_ends else "that will not come"
    return Finding(
        cause="never-set",
        title=f"{waiters_name(graph, waiters)} {'wait' if len(waiters) > 1 else 'waits'} for {primitive_name(primitive)}, {why}",
        because=because(
            [waits_sentence(case, w, primitive) + "." for w in waiters[:4]],
            state_sentence(primitive),
            dead_ends,
            [f"{place(frame)} calls next() without a default: a StopIteration cannot be handed over." for frame in escapes[:2]],
            "No live task or thread refers to it but those who wait." if nobody else "",
            told(case, primitive),
        ),
        culprit=pick(escapes[:2], [job], where(graph, waiters), waits_in(graph, waiters[:2]), where(graph, waiters, depth=3)),
        subjects=(*waiters[:20], primitive.id),
        confidence=_confidence(case, primitive, waiters, dead_ends),
        advice=_advice(primitive),
        frees=graph.frees(primitive.id),
    )


def _confidence(case: Case, primitive: Primitive, waiters: tuple[str, ...], dead_ends: list[str]) -> str:
    """That no live task refers to it is no proof: a request that is yet to come may (a long poll, a stream of events)."""
    if case.stands_still(waiters[0]) is False:
        return "suspected"
    if primitive.state.get("unreachable") is True:
        return "proved"
    return "likely" if dead_ends else "suspected"


def _advice(primitive: Primitive) -> str:
    if primitive.kind == "job":
        return "See the log for 'Exception in callback': the result could not be delivered (StopIteration cannot be), or the pool's threads are gone (made before fork)."
    if primitive.kind == "queue-join":
        return "Call task_done() in `finally`, once for each get()."
    if primitive.kind == "body":
        return "Limit how long a request body may take, and look at what the client sent."
    return (
        "Find who was to set it and why that one ended: set it in `finally`, keep a reference to the task, and give the wait a time limit."
    )
