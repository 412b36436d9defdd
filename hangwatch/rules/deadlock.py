"""A circle of waiters through tasks, threads, locks, pools, tokens, loops: none can ever go on."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.graph import WaitGraph
from hangwatch.records import Finding, Primitive
from hangwatch.rules import full_pipe, head_of_line
from hangwatch.rules.base import Case
from hangwatch.rules.frames import pick, taken_at, waits_in, where
from hangwatch.rules.words import because, primitive_name, waiter_name, waits_sentence

#: A knot of more waiters than this is told by its cycle and its size.
MAX_TOLD = 6


def check(case: Case) -> Iterator[Finding]:
    for cycle in case.graph.cycles():
        # A stack in motion is read from different moments: who was at other lines before is in no deadlock.
        if not any(node in case.graph.threads and case.stands_still(node) is False for node in cycle):
            yield _finding(case, cycle)
    yield from head_of_line.check(case)
    yield from full_pipe.check(case)


def _finding(case: Case, cycle: tuple[str, ...]) -> Finding:
    graph = case.graph
    knot = sorted(next(k for k in graph.knots() if cycle[0] in k))
    members = list(dict.fromkeys([*cycle[::2], *knot]))
    told = members[:MAX_TOLD]
    primitives = [p for p in dict.fromkeys(w for m in members for w in graph.waits_of(m)) if set(graph.holders(p)) & set(members)]
    known = all(graph.fully_known(p) for p in primitives)
    facts = [f for m in told for p in graph.waits_of(m) if p in primitives for f in _facts(case, m, p)]
    held = [frame for p in primitives[:MAX_TOLD] for frame in taken_at(graph, told, p)]
    return Finding(
        cause="deadlock",
        title=_title(graph, cycle, len(members)),
        because=because(facts, "" if known else "Not every holder could be seen: one of those could still let go."),
        culprit=pick(where(graph, members), held, where(graph, told, depth=2), waits_in(graph, told)),
        subjects=(*cycle, *(m for m in members if m not in cycle)),
        confidence="proved" if known else "likely",
        advice=_advice([graph.primitives[p] for p in primitives if p in graph.primitives], cycle),
        frees=len(graph.behind(*primitives) | set(members)),
    )


def _title(graph: WaitGraph, cycle: tuple[str, ...], size: int) -> str:
    """The circle in words: each waits for what the next holds, and the last for the first's."""
    if len(cycle) == 2:
        name, thing = waiter_name(graph, cycle[0]), primitive_name(graph.primitives.get(cycle[1]), cycle[1])
        alone = f"{name} waits for {thing}, which only itself could end"
        return alone if size == 1 else f"All {size} holders of {thing} wait for one more of it ({name} first): none can ever let go"
    first = waiter_name(graph, cycle[0])
    hops = [f"{first} waits for {primitive_name(graph.primitives.get(cycle[1]), cycle[1])}"]
    for at in range(2, min(len(cycle), 2 * MAX_TOLD), 2):
        thing = primitive_name(graph.primitives.get(cycle[at + 1]), cycle[at + 1])
        hops.append(f"which {waiter_name(graph, cycle[at])} must end, which waits for {thing}")
    return "Deadlock: " + ", ".join(hops) + f", which {first} must end"


def _facts(case: Case, waiter_id: str, primitive_id: str) -> list[str]:
    graph = case.graph
    primitive = graph.primitives.get(primitive_id)
    if primitive is None:
        return [f"{waiter_name(graph, waiter_id)} needs the event loop, and its thread is blocked."]
    holders = graph.holders(primitive_id)
    names = ", ".join(dict.fromkeys(waiter_name(graph, holder) for holder in holders[:MAX_TOLD]))
    more = f" and {len(holders) - MAX_TOLD} more" if len(holders) > MAX_TOLD else ""
    return [waits_sentence(case, waiter_id, primitive) + ".", f"{primitive_name(primitive)} can only be ended by {names}{more}."]


def _advice(primitives: list[Primitive], cycle: tuple[str, ...]) -> str:
    kinds = {primitive.kind for primitive in primitives}
    if len(cycle) == 2 and kinds & {"lock", "thread-lock"}:
        return "This lock cannot be taken a second time by who has it: take it once, and let the inner function expect that it is held."
    if any(node.startswith("loop:") for node in cycle) or ({"thread-lock", "thread-queue", "thread-event"} & kinds and "loop" in kinds):
        return "Never block the event loop's thread on something that needs the loop: await it, or move the blocking call to a thread."
    if kinds & {"limiter", "executor", "job"}:
        return "A thread of the pool must not wait for work that needs the same pool: do it in the thread itself, or give it a pool of its own."
    if "pool" in kinds or "semaphore" in kinds:
        return (
            "Take one of it for each request and pass it down, instead of taking a second while holding the first; give acquire a timeout."
        )
    if kinds <= {"task", "gather", "group", "future"}:
        return "Break the circle of tasks that await each other: carry what was visited, or do not share unfinished tasks."
    return "Take these in one fixed order everywhere, or use one lock for both."
