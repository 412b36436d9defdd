"""What is tried again and again fails each time, and nothing ends the trying: the request waits for as long as the other side is away."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Finding, Primitive
from hangwatch.rules.base import Case
from hangwatch.rules.frames import pick, waits_in, where
from hangwatch.rules.never_set import submitted
from hangwatch.rules.words import because, primitive_name, waiters_name, waits_sentence

#: Fewer failed attempts are what retries are for.
ATTEMPTS = 3


def check(case: Case) -> Iterator[Finding]:
    for primitive, waiters in case.waiting_on("timer"):
        tried = primitive.state.get("attempts")
        if isinstance(tried, int) and tried >= ATTEMPTS:
            yield _finding(case, primitive, waiters, tried)


def _finding(case: Case, primitive: Primitive, waiters: tuple[str, ...], tried: int) -> Finding:
    graph = case.graph
    asked = any(graph.request_of(w) for w in waiters)
    return Finding(
        cause="silent-peer",
        title=f"{waiters_name(graph, waiters)} sleeps until {primitive_name(primitive).removeprefix('the timer ')}: {tried} have failed",
        because=because(
            [waits_sentence(case, w, primitive) + "." for w in waiters[:3]],
            f"{tried} attempts were made and every one failed.",
            "Whoever waits for this waits until one succeeds, or until the retrying is told to stop.",
        ),
        culprit=pick([submitted(primitive)], where(graph, waiters), waits_in(graph, waiters[:1]), where(graph, waiters, depth=2)),
        subjects=(*waiters[:20], primitive.id),
        confidence="likely" if asked else "suspected",
        advice="Give the retrying an end (stop=stop_after_delay(...)), shorter than what its caller waits, and look at why each attempt fails.",
        frees=graph.frees(primitive.id),
    )
