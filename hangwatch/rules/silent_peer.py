"""Another process that we asked does not answer, and nothing of ours limits how long we wait."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Finding, Primitive
from hangwatch.rules import endless_retry
from hangwatch.rules.base import Case
from hangwatch.rules.frames import pick, waits_in, where
from hangwatch.rules.words import because, path_sentence, primitive_name, state_sentence, waiter_name, waiters_name, waits_sentence


def check(case: Case) -> Iterator[Finding]:
    for primitive, _ in case.waiting_on("peer", "process"):
        waiters = case.impatient(primitive)
        if not waiters or primitive.ready is True or primitive.state.get("accepted") is True or case.stands_still(waiters[0]) is False:
            continue
        if any(key.endswith(" unread") for key in primitive.state):
            continue  # `full_pipe` knows more of it
        if _is_the_blocked_loop(case, waiters) or _is_only_being_closed(case, waiters):
            continue  # `blocked_loop` and `stuck_shutdown` know more of it
        yield _finding(case, primitive, waiters)
    yield from endless_retry.check(case)


def _is_the_blocked_loop(case: Case, waiters: tuple[str, ...]) -> bool:
    return all(w in case.graph.threads and case.graph.threads[w].is_loop for w in waiters)


def _is_only_being_closed(case: Case, waiters: tuple[str, ...]) -> bool:
    """An idle connection of a server that is being closed: that nothing comes on it is no wonder."""
    held = [case.graph.primitives.get(p) for w in waiters for p in case.graph.held_by(w)]
    return any(p is not None and p.kind == "server-close" for p in held)


def _finding(case: Case, primitive: Primitive, waiters: tuple[str, ...]) -> Finding:
    graph = case.graph
    behind = [w for w in graph.behind(*waiters) if w not in waiters]
    others = f", and {len(behind)} more wait behind it" if behind else ""
    paths = [path for w in case.stalled if len(path := graph.final(w)) > 2 and path[-1] == primitive.id]
    return Finding(
        cause="silent-peer",
        title=f"{waiters_name(graph, waiters)} waits for {primitive_name(primitive)}, which is silent{others}",
        because=because(
            [waits_sentence(case, w, primitive) + "." for w in waiters[:3]],
            state_sentence(primitive),
            f"Its own time limit is {limit} s."
            if (limit := primitive.state.get("limit_s"))
            else "No time limit of its own is set for this wait.",
            f"The longest chain behind it: {path_sentence(graph, max(paths, key=len))}." if paths else "",
        ),
        culprit=pick(where(graph, waiters), where(graph, waiters, depth=3), waits_in(graph, waiters[:1]), where(graph, behind[:4])),
        subjects=(*waiters[:20], primitive.id),
        confidence="suspected" if primitive.kind == "process" else _confidence(case, waiters),
        advice=f"Give this call a time limit, and look at the other side: {waiter_name(graph, waiters[0])} can do nothing but wait.",
        frees=len(graph.behind(primitive.id)),
    )


def _confidence(case: Case, waiters: tuple[str, ...]) -> str:
    """A request over its limit is evidence, and so is whoever waits behind; a background task that waits for a peer may be idle."""
    served = case.stall.kind in ("startup", "shutdown")
    ours = any((w in case.stalled and (served or case.graph.request_of(w))) or case.graph.behind(w) & set(case.stalled) for w in waiters)
    return "likely" if ours else "suspected"
