"""What an agent replaces in asyncio: `Event.wait`, the acts that lost wake-ups are explained by, and the start of a loop.

What can be read when something is stuck is not recorded while things go well. Recorded are only: since when a task waits on an
event (a local variable in the frame of our ``wait``: it lives and dies with the wait), who cleared an event, who took and gave back a lock or semaphore by hand (``async with`` shows on the stack), who notified a condition.

Not recorded: `Event.set` (servers set events several times a request, to nobody; it alone cost 2 % of a hello world), queues' put and
get (would cost more than the act itself), Future and Task (C types).
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from functools import partial
from types import CodeType, CoroutineType, FrameType, ModuleType
from typing import Any

from hangwatch.config import Config
from hangwatch.ledger import Ledger
from hangwatch.patching import Patcher

NAME = "asyncio"
DISTRIBUTION = None


def install(patcher: Patcher, ledger: Ledger, config: Config) -> None:
    """Patches asyncio's locks and loops when they are imported, now if they are."""
    patcher.when_imported("asyncio.locks", lambda module: _locks(module, patcher, ledger, config))
    patcher.when_imported("asyncio.base_events", lambda module: follow_loops(module.BaseEventLoop, patcher, ledger))
    patcher.when_imported("uvloop", lambda module: follow_loops(module.Loop, patcher, ledger))


def follow_loops(loop_class: type, patcher: Patcher, ledger: Ledger) -> None:
    """Loops of this class are remembered from the start of ``run_forever`` to its end."""

    def make(original: Any) -> Any:
        def run_forever(self: Any) -> Any:
            try:
                ledger.loop_started(self)
            except Exception as error:
                patcher.unplug(loop_class, "run_forever", error)
            try:
                return original(self)
            finally:
                ledger.loop_stopped(self)

        return run_forever

    patcher.wrap(loop_class, "run_forever", make)
    patcher.before(loop_class, "call_exception_handler", partial(_note_lost, ledger))


def _note_lost(ledger: Ledger, loop: Any, context: dict[str, Any]) -> None:
    """A task that is collected while it is pending tells so here, as the last thing it does: what it was to do is not done."""
    task = context.get("task")
    if task is None or "destroyed but it is pending" not in str(context.get("message")):
        return
    at = task.get_coro()
    while type(inner := getattr(at, "cr_await", None)) is CoroutineType:
        at = inner
    code, frame = getattr(at, "cr_code", None), getattr(at, "cr_frame", None)
    if code is not None:
        line = frame.f_lineno if frame is not None else code.co_firstlineno
        ledger.lost.append((time.monotonic_ns(), f"task:{id(task):x}", code.co_filename, line, getattr(code, "co_qualname", code.co_name)))


def _locks(module: ModuleType, patcher: Patcher, ledger: Ledger, config: Config) -> None:
    patcher.wrap(module.Event, "wait", _timed_wait)
    if config.ring <= 0:
        return
    record = _recorder(ledger)
    by_context = _codes_of_async_with(module)
    patcher.wrap(module.Event, "clear", lambda original: _clear(original, record, patcher, module.Event))
    patcher.wrap(module.Condition, "notify", lambda original: _notify(original, record, patcher, module.Condition))
    for owner in (module.Lock, module.Semaphore):
        patcher.wrap(owner, "acquire", partial(_acquire, record=record, patcher=patcher, owner=owner, by_context=by_context))
        patcher.wrap(owner, "release", partial(_release, record=record, patcher=patcher, owner=owner, by_context=by_context))


def _timed_wait(original: Any) -> Any:
    now = time.monotonic_ns
    code: CodeType | None = getattr(original, "__code__", None)
    if code is None or not code.co_filename.endswith("asyncio/locks.py"):
        # Somebody else's wait: it may do more than asyncio's, so it is always called.
        async def wait(self: Any) -> Any:
            since_ns = now()  # noqa: F841 (read from outside, off this frame)
            return await original(self)

        return wait

    async def wait(self: Any) -> Any:  # type: ignore[no-redef]
        if self._value:
            return True
        since_ns = now()  # noqa: F841
        return await original(self)

    return wait


def _recorder(ledger: Ledger) -> Any:
    append, now, ident, ref = ledger.ring.append, time.monotonic_ns, threading.get_ident, weakref.ref
    tasks = sys.modules.get("_asyncio")
    current_task = getattr(tasks, "current_task", None)

    def record(op: str, subject: Any, frame: FrameType | None) -> None:
        nonlocal current_task
        if current_task is None:  # no C accelerator: asyncio.tasks is imported after asyncio.locks
            current_task = sys.modules["asyncio.tasks"].current_task
        try:
            task = current_task()
        except RuntimeError:  # another thread than a loop's
            task = None
        doer = None if task is None else ref(task)
        if frame is None:
            append((now(), op, ref(subject), ident(), None, -1, doer))
        else:
            append((now(), op, ref(subject), ident(), frame.f_code, frame.f_lasti, doer))

    return record


def _codes_of_async_with(module: ModuleType) -> frozenset[CodeType]:
    """Code of the ``__aenter__`` and ``__aexit__`` that locks and semaphores share."""
    methods = [vars(base).get(name) for base in module.Lock.__mro__ for name in ("__aenter__", "__aexit__")]
    return frozenset(method.__code__ for method in methods if method is not None)


def _clear(original: Any, record: Any, patcher: Patcher, owner: type) -> Any:
    caller = sys._getframe

    def clear(self: Any) -> None:
        try:
            if self._value:
                record("clear", self, caller(1))
        except Exception as error:
            patcher.unplug(owner, "clear", error)
        original(self)

    return clear


def _notify(original: Any, record: Any, patcher: Patcher, owner: type) -> Any:
    caller = sys._getframe

    def notify(self: Any, n: int = 1) -> None:
        try:
            record("notify", self, _outside(caller(1)))
        except Exception as error:
            patcher.unplug(owner, "notify", error)
        original(self, n)

    return notify


def _acquire(original: Any, record: Any, patcher: Patcher, owner: type, by_context: frozenset[CodeType]) -> Any:
    caller = sys._getframe

    async def acquire(self: Any) -> Any:
        got = await original(self)
        try:
            frame = caller(1)
            if frame.f_code not in by_context:
                record("acquire", self, _outside(frame))
        except Exception as error:
            patcher.unplug(owner, "acquire", error)
        return got

    return acquire


def _release(original: Any, record: Any, patcher: Patcher, owner: type, by_context: frozenset[CodeType]) -> Any:
    caller = sys._getframe

    def release(self: Any) -> None:
        try:
            frame = caller(1)
            if self._waiters or frame.f_code not in by_context:
                record("release", self, _outside(frame))
        except Exception as error:
            patcher.unplug(owner, "release", error)
        original(self)

    return release


def _outside(frame: FrameType | None) -> FrameType | None:
    """The first frame that is not asyncio's own: ``notify_all`` and ``Condition.wait`` act for their caller."""
    while frame is not None and frame.f_code.co_filename.endswith("asyncio/locks.py"):
        frame = frame.f_back
    return frame
