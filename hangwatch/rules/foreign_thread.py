"""Done from another thread without waking the loop: the wake-up lies in the loop's queue while the loop sleeps in its selector."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.records import Act, Finding, Frame, Loop, Snapshot, Task
from hangwatch.rules.base import Case
from hangwatch.rules.frames import pick, waits_in, where
from hangwatch.rules.words import because, place_of, waiter_name, waiters_name

_OPS = ("set", "clear", "notify", "release", "put", "get", "cancel")


def check(case: Case) -> Iterator[Finding]:
    for loop in case.snapshot.loops:
        sleepers = [task for task in case.snapshot.tasks if task.loop_id == loop.id and _is_woken(case, task)]
        acts = _foreign_acts(case, loop)
        if loop.asleep and (loop.ready or sleepers) and (sleepers or acts):
            yield _finding(case, loop, sleepers, acts)


def _is_woken(case: Case, task: Task) -> bool:
    """Its wake-up is queued, or what it awaits is done."""
    if task.state == "ready":
        return True
    primitive = case.graph.primitives.get(task.waits_on or "")
    return primitive is not None and primitive.kind in ("future", "other", "job", "queue-get", "event", "task") and primitive.ready is True


def _foreign_acts(case: Case, loop: Loop) -> list[Act]:
    """What other threads did to primitives that tasks of this loop wait on or were waiting on."""
    ours = {p for t in case.snapshot.tasks if t.loop_id == loop.id for p in case.graph.waits_of(t.id)}
    acts = [a for a in case.snapshot.history if a.primitive_id in ours and a.op in _OPS and a.thread_id and a.thread_id != loop.thread_id]
    return sorted(acts, key=lambda act: -act.at_ns)


def _slept_before(earlier: Snapshot | None, loop: Loop) -> bool:
    old = next((o for o in earlier.loops if o.id == loop.id), None) if earlier else None
    return old is not None and bool(old.asleep) and bool(old.ready)


def _finding(case: Case, loop: Loop, sleepers: list[Task], acts: list[Act]) -> Finding:
    graph = case.graph
    ids = [task.id for task in sleepers]
    twice = _slept_before(case.earlier, loop)
    stalled = [w for w in case.stalled if w not in ids and w in graph.tasks]
    does: list[Frame | None] = [act.frame for act in acts[:2]]
    of_whom = waiters_name(graph, ids) if ids else "a task"
    return Finding(
        cause="foreign-thread",
        title=f"The event loop of {_thread(case, loop)} sleeps although the wake-up of {of_whom} is queued: it was given from another thread, which does not wake the loop",
        because=because(
            f"{loop.ready if loop.ready is not None else 'Some'} callbacks are ready in that loop, and its thread sits in the selector"
            + (", in two looks one after the other." if twice else "."),
            [
                f"{act.op} by thread {waiter_name(graph, act.thread_id or '')}{place_of(act.frame)}, which is not the loop's."
                for act in acts[:3]
            ],
            [f"{waiter_name(graph, task.id)} would go on as soon as the loop turns." for task in sleepers[:3]],
        ),
        culprit=pick(does, where(graph, stalled[:3], depth=2), where(graph, ids), waits_in(graph, ids[:1])),
        subjects=(*stalled[:10], *ids[:20], loop.id),
        confidence="proved" if twice else "likely" if case.earlier is None else "suspected",
        advice="Hand it over with loop.call_soon_threadsafe(...) or asyncio.run_coroutine_threadsafe(...): asyncio's objects are not to be touched from other threads.",
        frees=max(1, len(graph.behind(*ids)) + len(stalled)),
    )


def _thread(case: Case, loop: Loop) -> str:
    thread = case.graph.threads.get(loop.thread_id or "")
    return f"thread '{thread.name}'" if thread is not None else "another thread"
