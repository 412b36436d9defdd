"""concurrent.futures: a job handed to a thread pool, the thread that runs it, the queue it waits in, the pool that owns both.

Nothing in a job's future names its executor, so the way back goes through the worker threads: the frame that runs a job has
the future in its work item, and every worker's outermost frame refers to its executor and its queue.
"""

from __future__ import annotations

from hangwatch.integrations.base import Desk
from hangwatch.reading.view import FrameView, ObjectView, ThreadView, is_a, number, plain
from hangwatch.records import Plain, Primitive

NAME = "concurrent.futures"
_THREAD = "concurrent/futures/thread.py"


def job_primitive(job: ObjectView, desk: Desk, outer: ObjectView | None = None) -> Primitive:
    """A concurrent Future, and whose turn it is to complete it. ``outer`` is the asyncio Future chained to it, if any.

    Running: held by its thread. Queued: by all the threads of its pool, of which any one must come free. Made by
    run_coroutine_threadsafe: by the task that computes it.
    """
    state_name = plain(job, "_state")
    done = state_name in ("FINISHED", "CANCELLED", "CANCELLED_AND_NOTIFIED")
    state: dict[str, Plain] = {"state": state_name}
    if outer is not None:
        state["asyncio future"] = plain(outer, "_state")
    holders: tuple[str, ...] = ()
    label, capacity, in_use = "a job", None, None
    if not done:
        task = _chained_task(job)
        thread = workers(desk).running.get(job.id)
        if task is not None:
            label, holders = "a coroutine given to a loop", (f"task:{task.id:x}",)
        elif thread is not None:
            holders = (f"thread:{thread.native_id}",)
        elif (loop := _promised_by(job, desk)) is not None:
            label, state["queued"] = "a coroutine given to a loop that has not begun it", True
            holders = (f"thread:{loop}",)
        else:
            pool = workers(desk).queued.get(job.id)
            if pool is not None:
                label, holders, capacity, in_use = pool.describe(state)
    return Primitive(desk.id_of("job", job), "job", label, NAME, state, holders=holders, ready=done, capacity=capacity, in_use=in_use)


def _chained_task(job: ObjectView) -> ObjectView | None:
    """The task whose result the job copies (run_coroutine_threadsafe, wrap in the other direction)."""
    listed = job.attr("_done_callbacks")
    for callback in listed.items(20) if listed is not None else []:
        if plain(callback, "__qualname__") != "_chain_future.<locals>._call_check_cancel":
            continue
        source = closed_over(callback, "source")
        if is_a(source, "_asyncio.Task", "asyncio.tasks.Task"):
            return source
    return None


def _promised_by(job: ObjectView, desk: Desk) -> int | None:
    """Native id of the thread of the loop in whose ready queue the job's coroutine still waits to become a task."""
    promised = desk.memo.get(f"{__name__}._promised_by")
    if promised is None:
        promised = desk.memo[f"{__name__}._promised_by"] = {}
        threads = {thread.ident: thread.native_id for thread in desk.reader.threads()}
        for loop in desk.reader.loops():
            for handle in loop.ready() or ():
                future = closed_over(handle.attr("_callback"), "future")
                if future is not None and loop.thread_ident in threads:
                    promised[future.id] = threads[loop.thread_ident]
    found: int | None = promised.get(job.id)
    return found


def closed_over(function: ObjectView | None, name: str) -> ObjectView | None:
    """A free variable of a function, by name."""
    code = function.attr("__code__") if function is not None else None
    cells = function.attr("__closure__") if function is not None else None
    names = code.attr("co_freevars") if code is not None else None
    if names is None or cells is None:
        return None
    for free, cell in zip(names.items(), cells.items(), strict=False):
        if free.value() == name:
            return cell.attr("cell_contents")
    return None


class Pool:
    """One thread pool, as seen from its worker threads. ``dead`` counts workers that do not exist in this process (fork)."""

    def __init__(self, queue: ObjectView) -> None:
        self.queue = queue
        self.executor: ObjectView | None = None
        self.threads: list[ThreadView] = []
        self.busy = 0
        self.dead = 0

    def describe(self, state: dict[str, Plain]) -> tuple[str, tuple[str, ...], int | None, int | None]:
        """Label, holders, capacity and use of a job that waits in this pool's queue; adds facts to ``state``."""
        workers = number(self.executor, "_max_workers")
        state["queued"] = True
        state["queue"] = len(self.queue.items(10_000))
        state["workers"] = workers
        state["idle"] = len(self.threads) - self.busy
        if self.dead:
            state["dead_threads"] = self.dead
        holders = tuple(f"thread:{thread.native_id}" for thread in self.threads)
        prefix = plain(self.executor, "_thread_name_prefix")
        return f"a job queued in {prefix or 'a thread pool'}", holders, workers or len(self.threads) or None, self.busy


class Workers:
    """Which thread runs which job, and which pool each queued job waits in; made once for a snapshot."""

    def __init__(self, desk: Desk) -> None:
        self.running: dict[int, ThreadView] = {}
        self.queued: dict[int, Pool] = {}
        self.pools: dict[int, Pool] = {}
        alive = set()
        for thread in desk.reader.threads():
            alive.add(thread.native_id)
            self._add_worker(thread, thread.frames())
        self._add_remembered(desk, alive)
        for pool in self.pools.values():
            for item in pool.queue.items(10_000):
                future = item.attr("future")
                if future is not None:
                    self.queued[future.id] = pool

    def _add_worker(self, thread: ThreadView, frames: list[FrameView]) -> None:
        worker = next((frame for frame in frames[:5] if frame.name == "_worker" and frame.file.endswith(_THREAD)), None)
        queue = worker.local("work_queue") if worker is not None else None
        if worker is None or queue is None:
            return
        pool = self.pools.setdefault(queue.id, Pool(queue))
        pool.threads.append(thread)
        reference = worker.local("executor_reference")
        pool.executor = pool.executor or (reference.attr("target") if reference is not None else None)
        for frame in frames:
            if frame.name == "run" and frame.file.endswith(_THREAD):
                item = frame.local("self")
                future = item.attr("future") if item is not None else None
                if future is not None:  # 3.14+ has a second frame of that name, the context's
                    pool.busy += 1
                    self.running[future.id] = thread

    def _add_remembered(self, desk: Desk, alive: set[int]) -> None:
        """Pools whose workers are gone: a fork leaves the parent's Thread objects behind, with what they were to run.

        Told apart by native id: the ident of a dead thread is an address, and soon another's.
        """
        module = desk.reader.module("threading")
        threads = module.attr("_dangling") if module is not None else None
        for thread in threads.items(10_000) if threads is not None else []:
            arguments = thread.attr("_args")
            parts = arguments.items(5) if arguments is not None else []
            queue = next((part for part in parts if part.type_name == "_queue.SimpleQueue"), None)
            if queue is None or number(thread, "_native_id") in alive:
                continue
            pool = self.pools.setdefault(queue.id, Pool(queue))
            pool.dead += 1
            pool.executor = pool.executor or parts[0].attr("target")


def busy_in(executor: ObjectView, desk: Desk) -> list[int]:
    """Native ids of the threads of this pool that run a job."""
    pools = [pool for pool in workers(desk).pools.values() if pool.executor is not None and pool.executor.id == executor.id]
    running = {thread.native_id for thread in workers(desk).running.values()}
    return [thread.native_id for pool in pools for thread in pool.threads if thread.native_id in running]


def workers(desk: Desk) -> Workers:
    found = desk.memo.get(__name__)
    if not isinstance(found, Workers):
        found = desk.memo[__name__] = Workers(desk)
    return found
