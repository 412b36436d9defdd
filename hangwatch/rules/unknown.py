"""Nothing of what is known fits: everything that was seen, for a person to judge. Asked only when no other rule found anything."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Finding
from hangwatch.rules.base import Case
from hangwatch.rules.frames import frames_of, pick, waits_in, where
from hangwatch.rules.words import because, path_sentence, seconds, state_sentence, waiter_name, waits_sentence


def check(case: Case) -> Iterator[Finding]:
    graph = case.graph
    ids = [i for i in case.stalled if frames_of(graph, i)][:10]
    subject = graph.node(case.stall.subject_id)
    waits = [(i, graph.primitives[p]) for i in ids for p in graph.waits_of(i) if p in graph.primitives]
    healthy = bool(waits) and all(case.is_patient(primitive, waiter) for waiter, primitive in waits)
    ago = seconds(max(0, case.snapshot.at_ns - case.stall.since_ns))
    yield Finding(
        cause="unknown",
        title=f"{waiter_name(graph, case.stall.subject_id)} has not ended after {ago}, and no known cause fits"
        + ("; what it waits for may rightly last" if healthy else ""),
        because=because(
            [waits_sentence(case, waiter, primitive) + "." for waiter, primitive in waits[:4]],
            [state_sentence(primitive) for _, primitive in waits[:4]],
            [f"The chain: {path_sentence(graph, path)}." for i in ids[:3] if len(path := graph.final(i)) > 2],
            [f"Not readable: {gap}" for gap in case.snapshot.gaps[:3]],
        ),
        culprit=pick(where(graph, ids), waits_in(graph, ids[:3]), where(graph, ids, depth=3)),
        subjects=tuple(dict.fromkeys([subject, *ids])),
        confidence="suspected",
        advice="Look at the frames and the chain; a route that may rightly take long can be given a limit of its own (HANGWATCH_ROUTES).",
        frees=1,
    )
