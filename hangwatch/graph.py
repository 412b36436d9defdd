"""Who waits for whom: the wait-for graph of one Snapshot, over tasks, threads, loops, locks, pools and everything else that can be waited on.

Two sorts of nodes, both named by the ids of records: *waiters* (tasks, threads; a request stands for its task) and *primitives*
(what is waited on; a blocked loop counts as one, for every task that it should run). Edges go waiter -> primitive -> holder.

A waiter with several waits needs all of them. A primitive with several holders is freed by any one of them (a pool, a limiter), except for
the kinds in ``NEEDS_ALL`` (gather, a task group), which end only when all have.

Deadlock over such a graph is not simply "a cycle": four tasks that hold four connections and wait for a fifth are one, while a cycle
through a pool that some other task can still give back to is none. `deadlocked` is the greatest set of waiters of which each waits for
something that only members of the set could end (a knot; Holt, "Some Deadlock Properties of Computer Systems", 1972).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from hangwatch.records import Primitive, Request, Snapshot, Task, Thread, Wait

#: Kinds of primitive that end only when every one of their holders has acted.
NEEDS_ALL = frozenset({"gather", "group", "barrier", "queue-join", "server-close"})

#: Kinds that one owner takes as a whole.
EXCLUSIVE = frozenset({"lock", "thread-lock", "import-lock", "condition", "gil"})

MAX_PATH = 64  #: A longer path or cycle is cut: nobody reads it.


class WaitGraph:
    """Built once from a snapshot; every question is answered without looking at the process again."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.tasks: dict[str, Task] = {task.id: task for task in snapshot.tasks}
        self.threads: dict[str, Thread] = {thread.id: thread for thread in snapshot.threads}
        self._owners: tuple[Task | Thread, ...] = (*snapshot.tasks, *snapshot.threads)
        self.primitives: dict[str, Primitive] = {primitive.id: primitive for primitive in snapshot.primitives}
        self.requests: dict[str, Request] = {request.id: request for request in snapshot.requests}
        self._request_of: dict[str, Request] = {r.task_id: r for r in snapshot.requests if r.task_id}
        for task in snapshot.tasks:
            if task.request_id in self.requests:
                self._request_of.setdefault(task.id, self.requests[task.request_id])
        self._waits: dict[str, list[str]] = defaultdict(list)
        self._waiters: dict[str, list[str]] = defaultdict(list)
        self._holders: dict[str, list[str]] = defaultdict(list)
        self._held: dict[str, list[str]] = defaultdict(list)
        self._assumed: set[str] = set()
        self._wait_records: dict[tuple[str, str], Wait] = {}
        self._collect_waits()
        self._collect_blocked_loops()
        self._collect_holders()
        self._deadlocked: frozenset[str] | None = None
        self._knots: list[frozenset[str]] | None = None

    # Building

    def _add_wait(self, waiter: str, primitive: str) -> None:
        waiter = self.node(waiter)
        if primitive not in self._waits[waiter]:
            self._waits[waiter].append(primitive)
            self._waiters[primitive].append(waiter)

    def _collect_waits(self) -> None:
        for wait in self.snapshot.waits:
            self._add_wait(wait.task_id, wait.primitive_id)
            self._wait_records.setdefault((self.node(wait.task_id), wait.primitive_id), wait)
        for waiter in self._owners:
            if waiter.waits_on:
                self._add_wait(waiter.id, waiter.waits_on)
        for primitive in self.snapshot.primitives:
            for waiter_id in primitive.waiters:
                if waiter_id.startswith(("task:", "thread:", "request:")):
                    self._add_wait(waiter_id, primitive.id)

    def _collect_blocked_loops(self) -> None:
        """A loop whose thread waits for something else keeps all its tasks waiting, parked or not."""
        awake = [loop for loop in self.snapshot.loops if not loop.asleep]
        blocked = {loop.id: loop.thread_id for loop in awake if loop.thread_id and self._is_blocked(loop.thread_id)}
        for loop_id, thread_id in blocked.items():
            self._holders[loop_id].append(thread_id)
            self._held[thread_id].append(loop_id)
        for task in self.snapshot.tasks:
            if task.loop_id in blocked and task.state != "done":
                self._add_wait(task.id, task.loop_id)
        if blocked:
            self._assume_jobs_of(list(blocked.values()))

    def _assume_jobs_of(self, thread_ids: list[str]) -> None:
        """A job that no thread runs and no pool has queued was handed to a loop: to one of those that do not come to it. Which one is not
        known; each of them could end it."""
        for thread in self.snapshot.threads:
            for primitive_id in self._waits.get(thread.id, ()):
                job = self.primitives.get(primitive_id)
                if job is not None and job.kind == "job" and not job.holders and job.ready is not True and not job.state.get("queued"):
                    self._holders[primitive_id] += thread_ids
                    for thread_id in thread_ids:
                        self._held[thread_id].append(primitive_id)
                    self._assumed.add(primitive_id)

    def _is_blocked(self, thread_id: str) -> bool:
        """A loop's own sockets do not block: one that is caught while it sends or reads will be through in a moment."""
        kinds = {self.primitives[p].kind for p in self._waits.get(thread_id, ()) if p in self.primitives}
        return bool(kinds - {"peer", "client"})

    def _collect_holders(self) -> None:
        # A reader tells of a ``with`` block only once it is entered: who holds a lock and waits for it has taken it a second time.
        entered: dict[tuple[str, str], None] = {}
        for owner in self._owners:
            for hold in owner.holds:
                entered[owner.id, hold.primitive_id] = None
        for primitive in self.snapshot.primitives:
            for holder in primitive.holders:
                entered[self.node(holder), primitive.id] = None
        for thread in self.snapshot.threads:
            self._serves(thread, entered)
        self._from_the_ring(entered)
        for owner_id, primitive_id in entered:
            if owner_id not in self._holders[primitive_id]:
                self._holders[primitive_id].append(owner_id)
                self._held[owner_id].append(primitive_id)

    def _serves(self, thread: Thread, entered: dict[tuple[str, str], None]) -> None:
        """The thread that runs a job is what the job's waiter waits for, when the job itself does not say so."""
        for primitive_id in self._waits.get(thread.serves or "", ()):
            job = self.primitives.get(primitive_id)
            if job is not None and job.kind in ("job", "future", "other") and not job.holders:
                entered[thread.id, primitive_id] = None

    def _from_the_ring(self, entered: dict[tuple[str, str], None]) -> None:
        """A lock taken without a ``with`` block shows on no stack: its last taker of record, while alive, holds it."""
        seen = {primitive_id for _, primitive_id in entered}
        loop_threads = {loop.thread_id for loop in self.snapshot.loops}
        last = {act.primitive_id: act for act in sorted(self.snapshot.history, key=lambda a: a.at_ns) if act.op in ("acquire", "release")}
        for primitive_id, act in last.items():
            primitive = self.primitives.get(primitive_id)
            # A loop's thread without a task: the task that took it is gone, and its memory with it.
            taker = act.task_id or (act.thread_id if act.thread_id not in loop_threads else None)
            exclusive = primitive is not None and primitive.kind in EXCLUSIVE and primitive_id not in seen
            if act.op == "acquire" and exclusive and taker and self._alive(taker):
                entered[taker, primitive_id] = None

    # Questions

    def node(self, any_id: str) -> str:
        """The waiter that an id stands for: a request's task where it has one, else the id itself."""
        request = self.requests.get(any_id)
        return request.task_id if request is not None and request.task_id else any_id

    def request_of(self, waiter_id: str) -> Request | None:
        """The request that a task works for, directly or as a child of the task that does, or that a thread's job serves."""
        seen: set[str] = set()
        while waiter_id and waiter_id not in seen:
            seen.add(waiter_id)
            if waiter_id in self.requests:
                return self.requests[waiter_id]
            if waiter_id in self._request_of:
                return self._request_of[waiter_id]
            task, thread = self.tasks.get(waiter_id), self.threads.get(waiter_id)
            waiter_id = (task.parent_id if task else thread.serves if thread else None) or ""
        return None

    def waits_of(self, waiter_id: str) -> tuple[str, ...]:
        """Ids of what this task, thread or request waits on, its own wait before its blocked loop."""
        return tuple(self._waits.get(self.node(waiter_id), ()))

    def wait(self, waiter_id: str, primitive_id: str) -> Wait | None:
        """The record of this wait, where the snapshot has one."""
        return self._wait_records.get((self.node(waiter_id), primitive_id))

    def waiters(self, primitive_id: str) -> tuple[str, ...]:
        return tuple(self._waiters.get(primitive_id, ()))

    def holders(self, primitive_id: str) -> tuple[str, ...]:
        """Ids of the tasks and threads that must act before a wait on it can end."""
        return tuple(self._holders.get(primitive_id, ()))

    def live_holders(self, primitive_id: str) -> tuple[str, ...]:
        """`holders` without those that are not in the snapshot any more."""
        return tuple(holder for holder in self.holders(primitive_id) if self._alive(holder))

    def held_by(self, owner_id: str) -> tuple[str, ...]:
        return tuple(self._held.get(self.node(owner_id), ()))

    def _alive(self, waiter_id: str) -> bool:
        if waiter_id in self.tasks:
            return self.tasks[waiter_id].state != "done"
        return not waiter_id.startswith(("task:", "request:")) or waiter_id in self.requests

    def deadlocked(self) -> frozenset[str]:
        """Every waiter that nothing outside this set can ever let go on, whatever its own timeouts."""
        if self._deadlocked is None:
            stuck = {waiter for waiter, waits in self._waits.items() if waits}
            while True:
                shut = {p for p in self._waiters if self._is_shut(p, stuck)}
                rest = {waiter for waiter in stuck if any(p in shut for p in self._waits[waiter])}
                if len(rest) == len(stuck):
                    break
                stuck = rest
            self._deadlocked = frozenset(stuck)
        return self._deadlocked

    def _is_shut(self, primitive_id: str, stuck: set[str]) -> bool:
        holders = self.holders(primitive_id)
        if not holders:
            return False
        primitive = self.primitives.get(primitive_id)
        if primitive is not None and primitive.kind in NEEDS_ALL:
            return any(holder in stuck for holder in holders)
        return all(holder in stuck for holder in holders)

    def fully_known(self, primitive_id: str) -> bool:
        """As many holders are known as the resource says are in use; for what has no such count, False where its holder is an assumption."""
        primitive = self.primitives.get(primitive_id)
        if primitive is None or primitive.in_use is None:
            return primitive_id not in self._assumed
        return len(self.holders(primitive_id)) >= primitive.in_use

    def knots(self) -> list[frozenset[str]]:
        """The deadlocked, apart from those who merely queue behind: groups of waiters each of which waits for all the others."""
        if self._knots is None:
            self._knots = _components(self.deadlocked(), self._next_stuck)
        return self._knots

    def _next_stuck(self, waiter_id: str) -> list[str]:
        deadlocked = self.deadlocked()
        return [h for p in self._waits.get(waiter_id, ()) for h in self._holders.get(p, ()) if h in deadlocked]

    def cycles(self) -> list[tuple[str, ...]]:
        """One cycle for each of `knots`, ids alternating waiter, primitive, waiter, …; the first waiter is not repeated."""
        return [cycle for knot in self.knots() if (cycle := self._cycle_in(knot))]

    def _cycle_in(self, members: frozenset[str]) -> tuple[str, ...]:
        """The cycle of most waiters that a shortest way from some member back to itself gives; in a fixed order, so that two looks agree."""
        ways = [way for start in sorted(members)[:16] if (way := self._shortest_back(start, members))]
        return max(ways, key=len, default=())

    def _shortest_back(self, start: str, members: frozenset[str]) -> tuple[str, ...]:
        paths: list[tuple[str, ...]] = [(start,)]
        seen: set[str] = set()
        for path in paths:
            for primitive_id in self._waits.get(path[-1], ()):
                for holder in self._holders.get(primitive_id, ()):
                    if holder == start:
                        return (*path, primitive_id)
                    if holder in members and holder not in seen:
                        seen.add(holder)
                        paths.append((*path, primitive_id, holder))
        return ()

    def final(self, waiter_id: str) -> tuple[str, ...]:
        """The path from a waiter to what it finally waits for: waiter, primitive, holder, primitive, …

        Ends at a primitive without live holders, at a holder that waits for nothing, or where the path would close.
        Of several holders the one that itself waits is followed: the others do not explain anything.
        """
        path: list[str] = []
        here = self.node(waiter_id)
        while here not in path and len(path) < MAX_PATH:
            path.append(here)
            waits = [p for p in self._waits.get(here, ()) if p not in path]
            if not waits:
                break
            path.append(waits[0])
            holders = self.live_holders(waits[0])
            waiting = [holder for holder in holders if self._waits.get(holder) and holder not in path]
            if not holders:
                break
            here = (waiting or list(holders))[0]
        return tuple(path)

    def behind(self, *node_ids: str) -> frozenset[str]:
        """Waiters that wait, directly or through others, for any of these primitives, tasks or threads."""
        found: set[str] = set()
        queue = [self.node(node_id) for node_id in node_ids]
        seen = set(queue)
        while queue:
            here = queue.pop()
            waiters = self._waiters.get(here, ())
            found.update(waiters)
            for further in (*waiters, *self._held.get(here, ())):
                if further not in seen:
                    seen.add(further)
                    queue.append(further)
        return frozenset(found)

    def ahead(self, *waiter_ids: str) -> frozenset[str]:
        """Every primitive, task and thread that these waiters wait for, directly or through others."""
        queue = [self.node(waiter_id) for waiter_id in waiter_ids]
        seen = set(queue)
        while queue:
            here = queue.pop()
            for further in (*self._waits.get(here, ()), *self._holders.get(here, ())):
                if further not in seen:
                    seen.add(further)
                    queue.append(further)
        return frozenset(seen)

    def frees(self, node_id: str) -> int:
        """How many waiters would go on, at once or in turn, if this primitive, task or thread let go."""
        return len(self.behind(node_id))

    def edges(self) -> list[tuple[str, str, str]]:
        """(from, to, ``waits`` or ``held by``) for drawing; a blocked loop's edges are left out, they would be one per task."""
        loops = {loop.id for loop in self.snapshot.loops}
        waits = [(w, p, "waits") for w, ps in self._waits.items() for p in ps if p not in loops]
        held = [(p, h, "held by") for p, hs in self._holders.items() for h in hs if p not in loops]
        return waits + held


def _components(nodes: Iterable[str], following: Callable[[str], list[str]]) -> list[frozenset[str]]:
    """Strongly connected components that contain a cycle (Tarjan 1972, without recursion), in a fixed order."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    open_nodes: list[str] = []
    is_open: set[str] = set()
    found = []
    for root in sorted(nodes):
        if root in order:
            continue
        work = [(root, iter(following(root)))]
        order[root] = low[root] = len(order)
        open_nodes.append(root)
        is_open.add(root)
        while work:
            here, rest = work[-1]
            for there in rest:
                if there not in order:
                    order[there] = low[there] = len(order)
                    open_nodes.append(there)
                    is_open.add(there)
                    work.append((there, iter(following(there))))
                    break
                if there in is_open:
                    low[here] = min(low[here], order[there])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[here])
                if low[here] == order[here]:
                    at = open_nodes.index(here)
                    members = frozenset(open_nodes[at:])
                    del open_nodes[at:]
                    is_open -= members
                    if len(members) > 1 or here in following(here):
                        found.append(members)
    return found
