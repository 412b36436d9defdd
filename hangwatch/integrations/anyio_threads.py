"""anyio's worker threads: which thread runs the job that a task waits for, what was handed to it, and the way back into the loop.

Nothing leads from a job's future to its thread, so the way goes through the threads: the frame that runs a job has its future.
"""

from __future__ import annotations

from hangwatch.integrations.asyncio_tasks import is_pending
from hangwatch.integrations.base import Desk, Look, Sighting
from hangwatch.reading.view import FrameView, ObjectView, is_a, number, plain
from hangwatch.records import FOREVER, Plain, Primitive

NAME = "anyio"
_BACKEND = "/anyio/_backends/_asyncio.py"
_WRAPPINGS_LIMIT = 10


class Workers:
    """By the address of a job's future: the id of the thread that runs it, or in whose queue it lies. Made once for a snapshot."""

    def __init__(self, desk: Desk) -> None:
        self.running: dict[int, str] = {}
        self.queued: dict[int, str] = {}
        for thread in desk.reader.threads():
            frames = thread.frames()[:5]
            at = next((index for index, frame in enumerate(frames) if frame.name == "run" and frame.file.endswith(_BACKEND)), None)
            if at is not None:
                # Up to 4.4 an idle worker still has its last job's future.
                idle = any(frame.file.endswith("/queue.py") for frame in frames[at + 1 : at + 2])
                self._add(f"thread:{thread.native_id}", frames[at], idle)

    def _add(self, thread_id: str, worker: FrameView, idle: bool) -> None:
        future, this = worker.local("future"), worker.local("self")
        if not idle and future is not None and is_pending(future):
            self.running[future.id] = thread_id
        queue = this.attr("queue") if this is not None else None
        waiting = queue.attr("queue") if queue is not None else None
        for item in waiting.items(10) if waiting is not None else []:
            for part in item.items(5):
                if is_a(part, "_asyncio.Future", "asyncio.futures.Future"):
                    self.queued[part.id] = thread_id


def workers(desk: Desk) -> Workers:
    found = desk.memo.get(__name__)
    if not isinstance(found, Workers):
        found = desk.memo[__name__] = Workers(desk)
    return found


def place_of(function: ObjectView | None) -> dict[str, Plain]:
    """File, name and line of what was handed to a thread, past partial objects, bound methods and generator context managers."""
    for _ in range(_WRAPPINGS_LIMIT):
        if function is None:
            break
        owner = function.attr("__self__")
        generator = owner.attr("gen") if owner is not None else None
        code = generator.attr("gi_code") if generator is not None else function.attr("__code__")
        if code is not None:
            return {"file": plain(code, "co_filename"), "function": plain(code, "co_name"), "line": number(code, "co_firstlineno")}
        function = function.attr("func") or function.attr("__func__") or function.attr("__wrapped__")
    return {}


def job(look: Look) -> Sighting | None:
    """``to_thread.run_sync`` after it got its token."""
    future = look.awaited
    if future is None or look.index != len(look.chain) - 1:
        return None
    state: dict[str, Plain] = {"state": plain(future, "_state"), **place_of(look.frame.local("func"))}
    known = workers(look.desk)
    thread, waiting = known.running.get(future.id), known.queued.get(future.id)
    if waiting is not None:
        state["queued"] = True
    elif thread is None and is_pending(future):
        # No thread has it and none is to get it: it ran, and its result went nowhere.
        state["job_done"] = True
    label = f"a job: {state['function']}()" if state.get("function") else "a job"
    holder = thread or waiting
    primitive = Primitive(
        look.desk.id_of("job", future),
        "job",
        label,
        NAME,
        {name: value for name, value in state.items() if value is not None},
        holders=(holder,) if holder else (),
        ready=not is_pending(future),
    )
    return Sighting(primitive, "run_sync")


def idle_worker(look: Look) -> Sighting | None:
    """A worker thread without a job may wait for one for ever."""
    worker = look.frame.local("self")
    inner = look.chain[look.index + 1 :]
    if worker is None or not is_a(worker, "anyio._backends._asyncio.WorkerThread") or not inner or not inner[0].file.endswith("/queue.py"):
        return None
    label = "work for an anyio worker thread"
    return Sighting(Primitive(look.desk.id_of("thread-queue", worker), "thread-queue", label, NAME, patience_ns=FOREVER), "idle")


def call_into_loop(look: Look) -> Sighting | None:
    """``from_thread.run_sync``: the thread waits for the loop to call a plain function."""
    loop = look.frame.local("loop")
    if loop is None:
        return None
    ident = number(loop, "_thread_id")
    holders = tuple(f"thread:{thread.native_id}" for thread in look.desk.reader.threads() if thread.ident == ident)
    state = place_of(look.frame.local("func"))
    return Sighting(Primitive(f"loop:{loop.id:x}", "loop", "the event loop", NAME, state, holders=holders), "run_sync")


def portal_call(look: Look) -> None:
    """A task made by a blocking portal is to complete the future that a thread waits for."""
    future = look.frame.local("future")
    if future is not None and plain(future, "_state") in ("PENDING", "RUNNING"):
        primitive = Primitive(look.desk.id_of("job", future), "job", "a coroutine given to a loop", NAME, holders=(look.waiter_id,))
        look.desk.add_primitive(primitive)


def portal_idle(look: Look) -> Sighting | None:
    portal = look.frame.local("self")
    if portal is None:
        return None
    return Sighting(
        Primitive(look.desk.id_of("other", portal), "other", "a blocking portal to be stopped", NAME, patience_ns=FOREVER), "idle"
    )
