"""asyncio's tasks and futures: what is parked on a task, on several, on a timer, on a job in a thread, or on a bare future."""

from __future__ import annotations

from dataclasses import replace

from hangwatch.integrations import executors
from hangwatch.integrations.base import Desk, Look, Sighting, Spot
from hangwatch.reading.view import ObjectView, is_a, length, plain
from hangwatch.records import FOREVER, Plain, Primitive

NAME = "asyncio"
_TASKS = "asyncio/tasks.py"
#: Children that one gather or group lists. More are counted, not named.
_CHILDREN_LIMIT = 1000

_FUTURES = ("_asyncio.Future", "asyncio.futures.Future")
_TASK = ("_asyncio.Task", "asyncio.tasks.Task")


def is_task(obj: ObjectView | None) -> bool:
    return is_a(obj, *_TASK)


def is_pending(future: ObjectView) -> bool:
    return plain(future, "_state") == "PENDING"


def task_id(task: ObjectView) -> str:
    return f"task:{task.id:x}"


def deadline_of(handle: ObjectView | None) -> int | None:
    """When a TimerHandle fires (loop time is the monotonic clock in seconds); None for uvloop's, which does not tell."""
    when = plain(handle, "_when")
    return int(when * 1e9) if isinstance(when, (int, float)) else None


def task_primitive(task: ObjectView, desk: Desk) -> Primitive:
    """Another task's result. Its id begins with ``future:``, so that it is not taken for the task itself."""
    name = plain(task, "_name")
    return Primitive(
        id=desk.id_of("future", task),
        kind="task",
        label=f"task {name}" if name else "a task",
        library=NAME,
        state={"state": plain(task, "_state")},
        holders=(task_id(task),) if is_pending(task) else (),
        ready=not is_pending(task),
    )


def gather_primitive(future: ObjectView, desk: Desk) -> Primitive:
    children = future.attr("_children")
    return _several(desk.id_of("gather", future), "gather", "asyncio.gather", children.items(_CHILDREN_LIMIT) if children else [], future)


def _several(primitive_id: str, kind: str, label: str, futures: list[ObjectView], own: ObjectView | None = None) -> Primitive:
    pending = [future for future in futures if is_pending(future)]
    state: dict[str, Plain] = {"of": len(futures), "pending": len(pending)}
    done = not pending if futures else None
    if own is not None:
        done = not is_pending(own)
    holders = tuple(task_id(child) for child in pending if is_task(child))
    return Primitive(primitive_id, kind, label, NAME, state, holders=holders, ready=done)


def awaited(future: ObjectView, desk: Desk) -> Sighting:
    """What a task is parked on when no frame says more than the future itself."""
    if is_task(future):
        return Sighting(task_primitive(future, desk), "await")
    if is_a(future, "asyncio.tasks._GatheringFuture"):
        return Sighting(gather_primitive(future, desk), "gather")
    for callback in callbacks(future):
        name = plain(callback, "__qualname__")
        if not isinstance(name, str):
            continue
        if name.startswith("shield.<locals>"):
            inner = executors.closed_over(callback, "inner")
            if inner is not None:
                return Sighting(awaited(inner, desk).primitive, "shield")
        if name.startswith("_chain_future.<locals>"):
            source = executors.closed_over(callback, "source")
            if source is not None and not is_a(source, *_FUTURES):
                return Sighting(executors.job_primitive(source, desk, future), "result")
    return Sighting(future_primitive(future, desk), "await")


def future_primitive(future: ObjectView, desk: Desk) -> Primitive:
    done = not is_pending(future)
    return Primitive(desk.id_of("future", future), "future", "a bare future", NAME, {"state": plain(future, "_state")}, ready=done)


def callbacks(future: ObjectView) -> list[ObjectView]:
    """The functions to be called when the future is done, unwrapped from ``(function, context)`` and ``partial``."""
    listed = future.attr("_callbacks")
    found = []
    for entry in listed.items(50) if listed is not None else []:
        pair = entry.items(2)
        function = pair[0] if pair else entry
        inner = function.attr("func") if function.type_name == "functools.partial" else None
        found.append(inner or function)
    return found


def _sleep(look: Look) -> Sighting | None:
    future = look.awaited or look.frame.local("future")
    if future is None:
        return None
    deadline = deadline_of(look.frame.local("h"))
    delay = plain_local(look, "delay")
    limit = int(delay * 1e9) if isinstance(delay, (int, float)) and delay < 1e9 else FOREVER
    patience = limit if deadline is None else max(deadline - look.desk.now_ns, 0)
    primitive = Primitive(
        look.desk.id_of("timer", future),
        "timer",
        "asyncio.sleep",
        NAME,
        {"delay": delay},
        patience_ns=patience,
        ready=not is_pending(future),
    )
    return Sighting(primitive, "sleep", deadline_ns=deadline)


def plain_local(look: Look, name: str) -> Plain:
    found = look.frame.local(name)
    value = found.value() if found is not None else None
    return value if isinstance(value, (bool, int, float, str)) else None


def _wait_for(look: Look) -> Sighting | None:
    """Up to 3.11 it parks on a future of its own while a task of its own runs what was to be awaited."""
    inner = look.frame.local("fut")
    waiter = look.frame.local("waiter")
    if inner is None or waiter is None or look.awaited is None or look.index != len(look.chain) - 1:
        return None
    sighting = awaited(inner, look.desk)
    return Sighting(sighting.primitive, "wait_for", deadline_ns=deadline_of(look.frame.local("timeout_handle")))


def _wait(look: Look) -> Sighting | None:
    futures, waiter = look.frame.local("fs"), look.frame.local("waiter")
    if futures is None or waiter is None:
        return None
    every = plain_local(look, "return_when") != "FIRST_COMPLETED"
    listed = futures.items(_CHILDREN_LIMIT)
    primitive = _several(look.desk.id_of("gather", waiter), "gather" if every else "task", "asyncio.wait", listed, waiter)
    return Sighting(primitive, "wait", deadline_ns=deadline_of(look.frame.local("timeout_handle")))


def _cancel_and_wait(look: Look) -> Sighting | None:
    """``wait_for`` has timed out and waits for the task that it cancelled to notice."""
    inner = look.frame.local("fut")
    if inner is None or look.index != len(look.chain) - 1:
        return None
    return Sighting(awaited(inner, look.desk).primitive, "cancel and wait")


def _task_group(look: Look) -> Sighting | None:
    group = look.frame.local("self")
    if group is None or not is_a(group, "asyncio.taskgroups.TaskGroup"):
        return None
    children = group.attr("_tasks")
    listed = children.items(_CHILDREN_LIMIT) if children is not None else []
    primitive = _several(look.desk.id_of("group", group), "group", "asyncio.TaskGroup", listed)
    if children is not None and not listed:
        primitive = replace(primitive, ready=True)
    return Sighting(primitive, "exit")


def _as_completed(look: Look) -> Sighting | None:
    """3.13+ keeps what is still to come in an object; before, a queue that every future's callback fills."""
    iterator = look.frame.local("self")
    todo = iterator.attr("_todo") if iterator is not None else None
    queue = look.frame.local("done")
    if iterator is not None and todo is not None:
        listed, queue, owner = todo.items(_CHILDREN_LIMIT), iterator.attr("_done"), iterator
        deadline = deadline_of(iterator.attr("_timeout_handle"))
    elif queue is not None:
        listed, owner, deadline = _filling(look.desk).get(queue.id, []), queue, None
    else:
        return None
    primitive = _several(look.desk.id_of("gather", owner), "task", "asyncio.as_completed", listed)
    return Sighting(replace(primitive, ready=bool(length(queue, "_queue"))), "as_completed", deadline_ns=deadline)


def _filling(desk: Desk) -> dict[int, list[ObjectView]]:
    """Tasks by the address of the queue that as_completed's callback on them fills; looked up once for a snapshot."""
    found: dict[int, list[ObjectView]] | None = desk.memo.get(f"{__name__}._filling")
    if found is None:
        found = desk.memo[f"{__name__}._filling"] = {}
        for task in desk.reader.tasks():
            for callback in callbacks(task.object()):
                if plain(callback, "__qualname__") == "as_completed.<locals>._on_completion":
                    queue = executors.closed_over(callback, "done")
                    if queue is not None:
                        found.setdefault(queue.id, []).append(task.object())
    return found


def _timeout(timeout: ObjectView) -> int | None:
    return deadline_of(timeout)


def _wrapped_future(look: Look) -> Sighting | None:
    """A Future written in Python yields itself from ``__await__``."""
    return awaited(look.awaited, look.desk) if look.awaited is not None else None


WAITS = (
    Spot(_TASKS, "sleep", _sleep, target="asyncio.tasks:sleep"),
    Spot(_TASKS, "wait_for", _wait_for, target="asyncio.tasks:wait_for"),
    Spot(_TASKS, "_wait", _wait, target="asyncio.tasks:_wait"),
    Spot(_TASKS, "_cancel_and_wait", _cancel_and_wait, target="asyncio.tasks:_cancel_and_wait"),
    Spot(_TASKS, "_wait_for_one", _as_completed, target="asyncio.tasks:_AsCompletedIterator._wait_for_one", since="3.13"),
    Spot("asyncio/taskgroups.py", "__aexit__", _task_group, target="asyncio.taskgroups:TaskGroup.__aexit__", since="3.11"),
    Spot("asyncio/taskgroups.py", "_aexit", _task_group, target="asyncio.taskgroups:TaskGroup._aexit", since="3.13.1"),
    Spot("asyncio/futures.py", "__await__", _wrapped_future, target="asyncio.futures:_PyFuture.__await__"),
)

DEADLINES = {
    "asyncio.timeouts.Timeout": _timeout,
    "async_timeout.Timeout": _timeout,
}
