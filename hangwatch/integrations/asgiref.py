"""asgiref (Django, and others that mix synchronous and asynchronous code): which thread must run what, and who blocks that thread.

``async_to_sync`` blocks its thread until a coroutine has ended, and meanwhile runs there what ``sync_to_async`` submits to it. Thread-sensitive
code has one thread in which it may run; when that is the one blocked above, and the call was queued elsewhere, both wait for each other.
"""

from __future__ import annotations

from hangwatch.integrations import executors
from hangwatch.integrations.asyncio_tasks import callbacks
from hangwatch.integrations.base import Desk, Look, Sighting, Spot
from hangwatch.reading.view import ObjectView, is_a, length, number, plain
from hangwatch.records import Plain, Primitive

NAME = "asgiref"
DISTRIBUTION = "asgiref"
TESTED = ">=3.3,<4"

_SYNC = "/asgiref/sync.py"
_EXECUTOR = "/asgiref/current_thread_executor.py"


def _submitted(desk: Desk) -> dict[int, str]:
    """The thread by the address of each job that lies in the queue of a thread which blocks in ``async_to_sync``."""
    found: dict[int, str] | None = desk.memo.get(__name__)
    if found is None:
        found = desk.memo[__name__] = {}
        for thread in desk.reader.threads():
            for frame in thread.frames():
                executor = frame.local("self") if frame.name == "run_until_future" and frame.file.endswith(_EXECUTOR) else None
                if executor is not None:
                    _add_queue(found, executor, f"thread:{thread.native_id}")
    return found


def _add_queue(found: dict[int, str], executor: ObjectView, thread_id: str) -> None:
    """Every work item in the thread's own queue waits for that thread; 3.8.1 and earlier keep a queue.Queue."""
    items = executor.attr("_work_items")
    queue = executor.attr("_work_queue")
    if items is None and queue is not None:
        items = queue.attr("queue")
    for item in items.items() if items is not None else []:
        future = item.attr("future")
        if future is not None:
            found[future.id] = thread_id


def _source(future: ObjectView | None) -> ObjectView | None:
    """The concurrent future that an asyncio one (or the inner of a shield) copies."""
    for callback in callbacks(future) if future is not None else []:
        name = plain(callback, "__qualname__")
        if not isinstance(name, str):
            continue
        if name.startswith("shield.<locals>"):
            return _source(executors.closed_over(callback, "inner"))
        if name.startswith("_chain_future.<locals>"):
            source = executors.closed_over(callback, "source")
            return source if source is not None and not is_a(source, "_asyncio.Future", "asyncio.futures.Future") else None
    return None


def _sync_to_async(look: Look) -> Sighting | None:
    caller = look.frame.local("self")
    if caller is None or not is_a(caller, "asgiref.sync.SyncToAsync"):
        return None
    executed = look.frame.local("exec_coro")
    job = _source(executed) or _source(look.awaited)
    if job is None:
        return None
    made = executors.job_primitive(job, look.desk)
    state: dict[str, Plain] = {**made.state, "thread_sensitive": plain(caller, "_thread_sensitive"), **_function(caller)}
    state = {name: value for name, value in state.items() if value is not None}
    holders, thread = made.holders, _submitted(look.desk).get(job.id)
    if thread is not None:
        state["queued"], holders = True, (thread,)
    name = state.get("function")
    label = f"a job: {name}()" if name else "a job of sync_to_async"
    return Sighting(
        Primitive(made.id, "job", label, NAME, state, holders=holders, ready=made.ready, capacity=made.capacity, in_use=made.in_use),
        "sync_to_async",
    )


def _function(caller: ObjectView) -> dict[str, Plain]:
    function = caller.attr("func")
    code = function.attr("__code__") if function is not None else None
    if code is None:
        return {}
    return {"file": plain(code, "co_filename"), "function": plain(code, "co_name"), "line": number(code, "co_firstlineno")}


def _async_to_sync(look: Look) -> Sighting | None:
    """The thread runs what is submitted to it until its coroutine has ended; with nothing to run it waits for that coroutine."""
    executor, future = look.frame.local("self"), look.frame.local("future")
    if executor is None or future is None or not is_a(executor, "asgiref.current_thread_executor.CurrentThreadExecutor"):
        return None
    if any(frame.name == "run" and frame.file.endswith(_EXECUTOR) for frame in look.chain[look.index + 1 :]):
        return None  # it runs one of the submitted functions
    # The coroutine's own future tells which task computes it; the one waited for may be that of a whole loop in another thread.
    outer = look.chain[look.index - 1].local("call_result") if look.index else None
    job = executors.job_primitive(outer if outer is not None else future, look.desk)
    size = length(executor, "_work_items")
    state: dict[str, Plain] = {**job.state, "submitted": size}
    state = {name: value for name, value in state.items() if value is not None}
    return Sighting(
        Primitive(job.id, "job", "a coroutine of async_to_sync", NAME, state, holders=job.holders, ready=job.ready), "async_to_sync"
    )


def _result(look: Look) -> Sighting | None:
    """Releases that first submit the coroutine to a thread of its own wait for that with ``result()`` too."""
    future = look.frame.local("call_result")
    inner = look.chain[look.index + 1 :]
    if future is None or not inner or inner[0].name != "result":
        return None
    job = executors.job_primitive(future, look.desk)
    return Sighting(
        Primitive(job.id, "job", "a coroutine of async_to_sync", NAME, job.state, holders=job.holders, ready=job.ready), "async_to_sync"
    )


def _call(look: Look) -> Sighting | None:
    return _sync_to_async(look) or _result(look)


def _main_wrap(look: Look) -> None:
    """The task that computes what a thread waits for in ``async_to_sync``."""
    future = look.frame.local("call_result")
    if future is not None and plain(future, "_state") in ("PENDING", "RUNNING"):
        job_id = look.desk.id_of("job", future)
        look.desk.add_primitive(Primitive(job_id, "job", "a coroutine of async_to_sync", NAME, holders=(look.waiter_id,)))


WAITS = (
    Spot(_SYNC, "__call__", _call, target="asgiref.sync:SyncToAsync.__call__"),
    Spot(_EXECUTOR, "run_until_future", _async_to_sync, target="asgiref.current_thread_executor:CurrentThreadExecutor.run_until_future"),
)

REQUESTS = (Spot(_SYNC, "main_wrap", _main_wrap, target="asgiref.sync:AsyncToSync.main_wrap"),)
