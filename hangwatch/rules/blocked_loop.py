"""The event loop's thread does not come back: computing, waiting for bytes, for a lock, for the GIL, for the collector, for a CPU."""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.graph import WaitGraph
from hangwatch.records import Finding, Frame, Primitive
from hangwatch.rules.base import Case
from hangwatch.rules.frames import application, is_application, is_standard, library_wait, pick, place, spinning, taken_at, where
from hangwatch.rules.loop_thread import Doing, blocked_loops, samples
from hangwatch.rules.source import is_repeated, line_of
from hangwatch.rules.words import because, path_sentence, primitive_name, seconds, state_sentence, waiter_name

_ADVICE = {
    "blocked-loop-cpu": "Move the computation to a process or thread, split it and await in between, or do less of it per request.",
    "blocked-loop-io": "Use the library's asynchronous counterpart, or asyncio.to_thread(); a blocking call on the loop's thread stops every request.",
    "blocked-loop-lock": "Never wait for a thread's lock, queue or future on the loop's thread: await it, or wait in a thread.",
    "gil-held": "Have the native code release the GIL (ctypes.CDLL instead of PyDLL, a linear regular expression, a fixed release), or run it in a process of its own.",
    "gc-pause": "Do not call gc.collect() on the loop; gc.freeze() after start-up, fewer container objects, or a higher threshold.",
    "cpu-starved": "Raise the CPU quota, or give the process fewer busy neighbours and threads; its own code is not what is slow.",
}


def findings(case: Case, cause: str, *whats: str) -> Iterator[Finding]:
    """What one rule makes of the loops whose threads do one of these."""
    for doing in blocked_loops(case):
        if doing.what in whats:
            yield _finding(case, doing, cause)


def _finding(case: Case, doing: Doing, cause: str) -> Finding:
    graph = case.graph
    own = _own(case, doing)
    tasks = [t for t in case.snapshot.tasks if t.loop_id == doing.loop.id]
    runs = next((t.id for t in tasks if t.id == doing.loop.running_task_id or t.state == "running"), None)
    names = [waiter_name(graph, runs)] if runs else []
    holders = graph.holders(doing.primitive.id) if doing.primitive else ()
    ago = case.snapshot.at_ns - case.stall.since_ns if case.stall.kind == "loop" else doing.loop.lag_ns
    return Finding(
        cause=cause,
        title=_title(doing, cause, own, names) + (f", for {seconds(ago)} now" if ago and ago > 0 else ""),
        because=because(
            f"It runs {names[0]}." if names else "",
            f"{place(own[0])}: {line_of(own[0])}" if own and line_of(own[0]) else "",
            doing.facts,
            state_sentence(doing.primitive) if doing.primitive else "",
            [_held_by(graph, doing.primitive, h) for h in holders[:3]] if doing.primitive else [],
            f"{len(tasks)} tasks of this loop wait for it.",
        ),
        culprit=_culprit(case, doing, own, holders),
        subjects=tuple(
            filter(
                None,
                (
                    doing.loop.id,
                    doing.thread.id if doing.thread else None,
                    runs,
                    doing.primitive.id if doing.primitive else None,
                    *holders[:10],
                ),
            )
        ),
        confidence="likely" if doing.sure else "suspected",
        advice=_ADVICE[cause],
        frees=max(len(tasks), len(graph.behind(doing.loop.id)), 1),
    )


def _own(case: Case, doing: Doing) -> list[Frame]:
    """The application's frames of the block, innermost first; where none is on the stack, the library's function that does not return."""
    own = application(doing.frames)
    if doing.what == "cpu" and not (own and is_application(own[0].file)):
        return _spins(samples(case, doing))[:1] or own
    return own


def _spins(stacks: list[tuple[Frame, ...]]) -> list[Frame]:
    """The frames that stay, innermost first, and before them the one that goes round: below it samples may look alike by chance, for a thread
    is seen where it gives the GIL away (an endless stream that logs at each step is always in the logger). For libraries only: an
    application's own loop may rightly go round for ever, and what it called is what does not return."""
    stay = [frame for frame in spinning(stacks) if not is_standard(frame.file)]
    round_and_round = next(([frame] for frame in stay if is_repeated(frame)), [])
    return [*round_and_round, *(frame for frame in stay if frame not in round_and_round)]


def _held_by(graph: WaitGraph, primitive: Primitive, holder: str) -> str:
    """Who keeps it, and what keeps that one: the loop's thread is only the last of a queue."""
    path = graph.final(holder)
    further = f", which waits in turn: {path_sentence(graph, path)}" if len(path) > 1 else ""
    return f"{primitive_name(primitive)} is held by {waiter_name(graph, holder)}{further}."


def _culprit(case: Case, doing: Doing, own: list[Frame], holders: tuple[str, ...]) -> tuple[Frame, ...]:
    """The application's innermost frames; of a call into a library also the library's own, for a known bug sits there."""
    taken = taken_at(case.graph, holders, doing.primitive.id) if doing.primitive else []
    if doing.what == "gil" or doing.other:
        return pick(application(doing.other)[:3], doing.other[::-1][:1], own[:1])
    stacks = samples(case, doing)
    seen = [frame for stack in stacks for frame in application(stack)[:2] if is_application(frame.file)]
    if own and is_application(own[0].file):
        stays = [frame for frame in spinning(stacks) if not is_standard(frame.file)]
        first = [frame for frame in stays if is_application(frame.file)][:2] if doing.what == "cpu" else []
        return pick(first, own[:2], where(case.graph, holders[:2]), taken, seen, stays[:1], doing.frames[::-1][:2], own[2:])
    return pick(seen, _spins(stacks)[:3], library_wait(doing.frames), doing.frames[::-1][:2])


def _title(doing: Doing, cause: str, own: list[Frame], names: list[str]) -> str:
    at = f" in {place(own[0])}" if own else ""
    of = f" while it serves {names[0]}" if names else ""
    if cause == "blocked-loop-io":
        what = f"waits for {primitive_name(doing.primitive)}" if doing.primitive else "waits in a blocking call"
        itself = ", a call to this very process, which only this loop could answer" if _calls_itself(doing) else ""
        return f"The event loop's thread {what}{at}{of}{itself}"
    if cause == "blocked-loop-lock":
        return f"The event loop's thread waits for {primitive_name(doing.primitive) if doing.primitive else 'another thread'}{at}{of}"
    if cause == "gil-held" and doing.what == "gil":
        other = application(doing.other)
        called = f" called in {place(other[0])}" if other else " called by another thread" if doing.frames else ""
        return f"Native code{called} keeps the GIL: no Python code in the process can run"
    if cause == "gc-pause" and doing.other:
        other = application(doing.other)
        return f"The garbage collector, run{f' in {place(other[0])}' if other else ''} by another thread, stops the event loop's"
    words = {
        "blocked-loop-cpu": "computes",
        "gil-held": "is inside native code that keeps the GIL",
        "gc-pause": "is stopped by the garbage collector",
        "cpu-starved": "is ready to run and gets no CPU",
    }
    return f"The event loop's thread {words[cause]}{at}{of}"


def _calls_itself(doing: Doing) -> bool:
    state = doing.primitive.state if doing.primitive else {}
    syscall = (doing.thread.syscall if doing.thread else None) or ""
    return bool(state.get("own_port")) or "itself" in syscall or "own port" in syscall
