"""What a fork in the middle of the export thread's work must not carry away.

A child forked in the middle of an import keeps that module's lock, taken for ever by a thread it does not have, and half a module; so a
fork waits until the import is through (some 200 ms, once), but never long. What is imported meanwhile must not bring fork hooks in pairs,
of which this fork would run the second only: concurrent.futures does, hence its import here. The same for a courier's start: the lock of
its folder must not live on in a child.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  see above
import contextlib
import os
import threading
import weakref
from typing import Protocol

#: Held while the export thread does what a fork should not cut in two.
WHOLE = threading.Lock()
FORK_WAITS_S = 2.0
_fork_holds: list[bool] = []


class Forked(Protocol):
    def _after_fork(self) -> None: ...


_LIVE: weakref.WeakSet[Forked] = weakref.WeakSet()


def tell(somebody: Forked) -> None:
    """Its ``_after_fork`` is called in every child."""
    _LIVE.add(somebody)


def _before_fork() -> None:
    _fork_holds.append(WHOLE.acquire(timeout=FORK_WAITS_S))


def _after_fork_in_parent() -> None:
    if _fork_holds and _fork_holds.pop():
        WHOLE.release()


def _after_fork_in_child() -> None:
    _after_fork_in_parent()
    for somebody in list(_LIVE):
        with contextlib.suppress(Exception):
            somebody._after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
