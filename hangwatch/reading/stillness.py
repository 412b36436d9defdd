"""No garbage collection while a snapshot is taken.

A snapshot of ten thousand tasks makes some fifty thousand small objects, enough to set off full collections, and each of those walks the
service's whole heap: 100 ms and more in which its loop stands still. Whoever had switched the collector off finds it off afterwards.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator

_held = 0


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    global _held
    if not gc.isenabled() and not _held:
        yield
        return
    _held += 1
    gc.disable()
    try:
        yield
    finally:
        _held -= 1
        if not _held:
            gc.enable()


def _in_child() -> None:
    """A fork meanwhile: the thread that would switch it on again does not exist in the child."""
    global _held
    if _held:
        _held = 0
        gc.enable()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
