"""One file per kind of cause: ``check(case) -> Iterator[Finding]``, listed in one tuple. Standard library only; a rule reads records, never a live object.

To add a cause: a module here, one row in ``RULES``, one program that really hangs under ``tests/hangs``.
"""

from __future__ import annotations

from types import ModuleType

from hangwatch.rules import (
    blocked_loop_cpu,
    blocked_loop_io,
    blocked_loop_lock,
    cancel_swallowed,
    cpu_starved,
    deadlock,
    foreign_thread,
    gc_pause,
    gil_held,
    holder_stuck,
    lock_leaked,
    lost_wakeup,
    never_set,
    pool_exhausted,
    shared_event,
    silent_peer,
    slow_client,
    stuck_shutdown,
    stuck_startup,
    task_lost,
    threadpool_exhausted,
)

__all__ = ["RULES"]

#: Of two findings that would free as many, the earlier rule's is told first: the more it knows of a case, the further up.
RULES: tuple[ModuleType, ...] = (
    stuck_startup, stuck_shutdown, deadlock, foreign_thread, cancel_swallowed, shared_event, task_lost, lost_wakeup,
    gc_pause, gil_held, cpu_starved, blocked_loop_lock, blocked_loop_io, blocked_loop_cpu,
    lock_leaked, slow_client, silent_peer, pool_exhausted, threadpool_exhausted, never_set, holder_stuck,
)  # fmt: skip
