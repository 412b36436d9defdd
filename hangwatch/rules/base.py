"""What a rule is given."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from hangwatch.graph import WaitGraph
from hangwatch.records import FOREVER, Evidence, Primitive, Request, Snapshot, Stall
from hangwatch.rules.frames import is_application


@dataclass(frozen=True)
class Case:
    """One stall, what was seen, and (where a second sample could be taken) what was seen a moment before.

    ``earlier`` is an older snapshot of the same process: a contradiction seen in both is proof, in one only a hint.
    """

    stall: Stall
    snapshot: Snapshot
    graph: WaitGraph
    earlier: Snapshot | None = None
    evidence: tuple[Evidence, ...] = ()

    @cached_property
    def stalled(self) -> tuple[str, ...]:
        """Ids of the waiters this case is about: the stall's subject, every request past its limit, and all their tasks.

        From outside, where nobody knows when a request began, every request that did not move between two looks counts.
        """
        requests = [request for request in self.snapshot.requests if self._is_stalled(request)]
        ids = {request.id for request in requests}
        tasks = [r.task_id or r.id for r in requests]
        tasks += [t.id for t in self.snapshot.tasks if (r := self.graph.request_of(t.id)) is not None and r.id in ids]
        if any(r.task_id is None and r.phase != "queued" for r in requests):
            tasks += self._perhaps_theirs()
        subject = self.graph.node(self.stall.subject_id)
        return tuple(dict.fromkeys([subject, *self._of_the_loop(), *tasks]))

    def _perhaps_theirs(self) -> list[str]:
        """Tasks that work for nobody known, in the application's code, at the same place in both samples: a server that we do not
        know, or a request that was handed to a task of another name."""
        return [
            task.id
            for task in self.snapshot.tasks
            if self.graph.request_of(task.id) is None
            and self.stands_still(task.id) is not False
            and any(is_application(frame.file) for frame in task.frames)
        ]

    def _is_stalled(self, request: Request) -> bool:
        if request.id == self.stall.subject_id:
            return True
        if request.since_ns is None:
            return self.snapshot.source != "agent" and self.stands_still(request.task_id or request.id) is not False
        limit = request.limit_ns if request.limit_ns is not None else self.stall.limit_ns if self.stall.kind == "request" else FOREVER
        return self.snapshot.at_ns - request.since_ns >= limit

    def _of_the_loop(self) -> list[str]:
        """A stalled loop's thread; and, when the process starts or stops, every task: it is not known which one the server awaits."""
        if self.stall.kind in ("startup", "shutdown") or self.stall.subject_id.startswith("process:"):
            return [task.id for task in self.snapshot.tasks]
        return [loop.thread_id for loop in self.snapshot.loops if loop.id == self.stall.subject_id and loop.thread_id]

    @cached_property
    def relevant(self) -> frozenset[str]:
        """Every primitive, task and thread that the stalled wait for, directly or through others, with the stalled themselves."""
        return self.graph.ahead(*self.stalled)

    @cached_property
    def ahead_of_subject(self) -> frozenset[str]:
        """As `relevant`, of the stall's own subject and the tasks that work for it alone."""
        known = self.graph.requests.get(self.stall.subject_id)
        theirs = [t.id for t in self.snapshot.tasks if known is not None and self.graph.request_of(t.id) is known]
        return self.graph.ahead(self.graph.node(self.stall.subject_id), *theirs)

    @cached_property
    def _earlier_graph(self) -> WaitGraph | None:
        return WaitGraph(self.earlier) if self.earlier is not None else None

    @cached_property
    def _before(self) -> dict[str, Primitive]:
        return {primitive.id: primitive for primitive in self.earlier.primitives} if self.earlier is not None else {}

    def before(self, primitive_id: str) -> Primitive | None:
        """The same primitive in the earlier sample."""
        return self._before.get(primitive_id)

    def waited_before(self, waiter_id: str, primitive_id: str) -> bool:
        """The earlier sample saw the same waiter wait for the same thing."""
        return self._earlier_graph is not None and primitive_id in self._earlier_graph.waits_of(waiter_id)

    def stands_still(self, waiter_id: str) -> bool | None:
        """The task or thread is at the same lines, waiting for the same thing, in both samples. None: there was one sample only."""
        if self._earlier_graph is None:
            return None
        owner = self.graph.tasks.get(waiter_id) or self.graph.threads.get(waiter_id)
        old = self._earlier_graph.tasks.get(waiter_id) or self._earlier_graph.threads.get(waiter_id)
        if owner is None or old is None:
            return None
        return owner.frames == old.frames and owner.waits_on == old.waits_on

    def waiting_on(self, *kinds: str) -> list[tuple[Primitive, tuple[str, ...]]]:
        """The relevant primitives of these kinds that somebody waits for, with their waiters."""
        found = []
        for primitive in self.snapshot.primitives:
            if primitive.kind in kinds and primitive.id in self.relevant:
                waiters = self.graph.waiters(primitive.id)
                if waiters:
                    found.append((primitive, waiters))
        return found

    def is_patient(self, primitive: Primitive, waiter_id: str) -> bool:
        """This wait may rightly still last: it may last for ever, or its own time limit has not passed."""
        wait = self.graph.wait(waiter_id, primitive.id)
        if wait is not None and wait.deadline_ns is not None:
            return wait.deadline_ns > self.snapshot.at_ns
        if primitive.patience_ns is None:
            return False
        if primitive.patience_ns >= FOREVER or wait is None or wait.since_ns is None:
            return True
        return self.snapshot.at_ns - wait.since_ns < primitive.patience_ns

    def impatient(self, primitive: Primitive) -> tuple[str, ...]:
        """The waiters of a primitive whose wait is no healthy one, the stalled first."""
        waiters = [w for w in self.graph.waiters(primitive.id) if not self.is_patient(primitive, w)]
        return tuple(sorted(waiters, key=lambda w: w not in self.stalled))

    def setters(self, primitive: Primitive) -> tuple[str, ...] | None:
        """Who alive could end the wait; None when nobody looked. A loop's own thread refers to all that its loop has: it does not count."""
        if primitive.setters is None:
            return None
        loops = {loop.thread_id for loop in self.snapshot.loops} | {loop.id for loop in self.snapshot.loops}
        return tuple(setter for setter in primitive.setters if setter not in loops)

    def of_tool(self, tool: str) -> Evidence | None:
        """What this tool said, None when it was not run or could not say."""
        return next((e for e in self.evidence if e.tool == tool and e.error is None), None)
