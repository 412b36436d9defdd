"""One file per tool: ``capture(target) -> Evidence``.

Each has a deadline and never raises; a tool that is missing or refused is an Evidence with a hint.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterable
from types import ModuleType

from hangwatch.evidence import ebpf, faulthandler, process, pyspy, sockets
from hangwatch.evidence.base import Budget, Target
from hangwatch.records import Evidence

__all__ = ["CAPTURES", "Budget", "Collection", "Target", "collect", "prepare"]

#: Every module has NAME and capture(target). The order is the order in which an incident shows them.
CAPTURES: tuple[ModuleType, ...] = (faulthandler, pyspy, process, sockets, ebpf)

#: A reader that looks at this process leaves out threads of this name.
THREAD_NAME = "hangwatch-evidence"


def prepare() -> None:
    """Imports what the captures will need, so that none has to at the stall, when the application may hold the import lock."""
    for module in CAPTURES:
        try:
            getattr(module, "prepare", _nothing)()
        except Exception:  # the capture itself will say what is missing
            continue


def _nothing() -> None: ...


class Collection:
    """Captures that are under way, each in a thread of its own. ``gather`` waits for them, once."""

    def __init__(self, target: Target, which: Iterable[str] | None = None, deadline_s: float = 5.0) -> None:
        """Starts the captures named in ``which`` (all by default); their time begins now. Never raises."""
        names = None if which is None else set(which)
        self._chosen = [module for module in CAPTURES if names is None or module.NAME in names]
        self._deadline_s = deadline_s
        self._until_s = time.monotonic() + deadline_s
        self._answers: queue.SimpleQueue[Evidence] = queue.SimpleQueue()
        # A capture that knows its end comes back with a reason in time; the last tenth is for that.
        target = dataclasses.replace(target, deadline_s=min(target.deadline_s, deadline_s * 0.9))
        for module in self._chosen:
            _start(module, target, self._answers)

    def gather(self) -> tuple[Evidence, ...]:
        """One Evidence for each capture in the order of ``CAPTURES``, at the latest when the deadline has passed.

        One that has not answered by then is an Evidence that says so, and its thread is left to end by itself. Never raises.
        """
        found = _gather(self._answers, len(self._chosen), self._until_s)
        late = f"gave no answer within {self._deadline_s:g} s"
        return tuple(found.get(module.NAME) or Evidence(module.NAME, took_ms=self._deadline_s * 1e3, error=late) for module in self._chosen)


def collect(target: Target, which: Iterable[str] | None = None, deadline_s: float = 5.0) -> tuple[Evidence, ...]:
    """All at once, and waits for them: ``Collection(…).gather()``. Who has something else to do meanwhile keeps the Collection."""
    return Collection(target, which, deadline_s).gather()


def _start(module: ModuleType, target: Target, answers: queue.SimpleQueue[Evidence]) -> None:
    thread = threading.Thread(
        target=lambda: answers.put(timed(module.NAME, module.capture, target)), name=f"{THREAD_NAME}-{module.NAME}", daemon=True
    )
    try:
        thread.start()
    except RuntimeError as error:
        # No more threads for this process, or the interpreter is on its way out.
        answers.put(Evidence(module.NAME, error=f"not run: {error}"))


def _gather(answers: queue.SimpleQueue[Evidence], count: int, until_s: float) -> dict[str, Evidence]:
    found: dict[str, Evidence] = {}
    while len(found) < count:
        try:
            evidence = answers.get(timeout=max(0.0, until_s - time.monotonic()))
        except queue.Empty:
            break
        found[evidence.tool] = evidence
    return found


def timed(name: str, capture: Callable[[Target], Evidence], target: Target) -> Evidence:
    """Runs one capture here and now; what it raises becomes its ``error``, the time it took is filled in."""
    begun = time.perf_counter()
    try:
        evidence = capture(target)
    except Exception as error:  # a capture of ours must not end a capture of another
        evidence = Evidence(name, error=f"{type(error).__name__}: {error}", hint="This is a defect of hangwatch; please report it.")
    return dataclasses.replace(evidence, took_ms=round((time.perf_counter() - begun) * 1e3, 3))
