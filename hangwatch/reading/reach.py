"""Can anything that may still run reach an object? The idea of Go's goroutine-leak profile, on CPython's own references.

Start from what can run: modules, running threads, loops with their queued callbacks and selectors, tasks that are not
parked. Follow what the garbage collector would follow. A parked task is a closed door: its frames count only once the future it waits on
has been reached, because then somebody may complete it. What is never reached, nobody can ever set.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from hangwatch.reading.live_frames import current_frames, owned_frame, suspended, thread_frames
from hangwatch.reading.live_objects import field, read_attribute, referents

#: Objects looked at, and time spent, before the answer is "not known".
OBJECT_LIMIT: Final = 3_000_000
TIME_LIMIT_NS: Final = 2_000_000_000
_BATCH: Final = 512


def reaches(
    target: object, parked: list[Any], others: list[Any], loops: list[Any], skipped: frozenset[int], pause: Callable[[], None]
) -> bool | None:
    """True, False, or None when over budget. ``parked``: tasks whose frames do not count until what they await is reached."""
    doors = {id(field(task, "_fut_waiter")): task for task in parked if field(task, "_fut_waiter") is not None}
    closed = set()
    for task in parked:
        coroutine = field(task, "_coro")
        closed |= {id(task), id(coroutine), id(owned_frame(coroutine))}
        closed |= {id(item) for frame in suspended(coroutine) for item in (frame.owner, frame.frame)}
    work = [*_roots(skipped), *loops, *others]
    # What belongs to this search refers to everything it looks at.
    seen = {id(work), id(doors), id(closed), id(parked), id(others), id(loops)}
    began = time.perf_counter_ns()
    while work:
        batch = []
        for item in work[-_BATCH:]:
            if id(item) in seen or id(item) in closed:
                continue
            if item is target:
                return True
            seen.add(id(item))
            task = doors.pop(id(item), None)
            if task is not None:
                work_of_task = [field(task, "_coro")]
                closed -= {id(work_of_task[0])} | {id(x) for f in suspended(work_of_task[0]) for x in (f.owner, f.frame)}
                batch += work_of_task
            batch.append(item)
        del work[-_BATCH:]
        if len(seen) > OBJECT_LIMIT or time.perf_counter_ns() - began > TIME_LIMIT_NS:
            return None
        for item in batch:
            work += _followed(item)
        pause()
    return False


def _followed(item: Any) -> list[Any]:
    found = referents(item)
    if type(item).__name__ == "coroutine":
        found += [frame for frame in (owned_frame(item),) if frame is not None]
    return found


def _roots(skipped: frozenset[int]) -> Iterable[Any]:
    ours = __name__.partition(".")[0]
    for name, module in list(sys.modules.items()):
        if module is not None and name != ours and not name.startswith(ours + "."):
            yield module
    here = threading.get_ident()
    for ident, frame in current_frames().items():
        if ident in skipped or ident == here:
            continue
        for view in thread_frames(frame):
            yield from (held.object for held in view.references())
            yield view.frame.f_globals
    try:
        yield from dict(read_attribute(threading, "_active")).values()
    except Exception:
        return
