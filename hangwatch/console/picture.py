"""What of the wait-for graph a person must see: the way from the stuck to what it finally waits for, and who else stands behind it.

`picture(incident)` chooses and names; `render` draws it in characters, `page` in SVG.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from hangwatch.graph import WaitGraph
from hangwatch.records import Incident, Primitive
from hangwatch.rules.frames import frames_of, innermost, place
from hangwatch.rules.words import primitive_name, seconds, waiter_name

#: More nodes than this nobody takes in at a glance; the rest is counted.
MAX_NODES = 18
#: Waiters drawn beside the one that the picture is about, and holders of one primitive.
MAX_BESIDE = 3

_END = {
    "peer": "the other side does not answer", "client": "the client does not read", "body": "the client has not sent it",
    "disconnect": "the client is still there", "timer": "its time has not come", "loop": "the loop's thread does not come back",
    "process": "that process has not ended", "file": "the system has not answered", "pipe": "nothing comes through it",
}  # fmt: skip
_SETTABLE = ("event", "condition", "future", "other", "thread-event", "queue-get", "thread-queue", "barrier", "job")


@dataclass(frozen=True, slots=True)
class Node:
    """``sort``: ``waiter``, ``primitive`` or ``end`` (words about why it goes no further). ``stuck``: on the way; others stand beside it."""

    id: str
    sort: str
    title: str
    place: str = ""
    note: str = ""
    stuck: bool = True


@dataclass(frozen=True, slots=True)
class Edge:
    """Drawn from the waiting to the waited for. ``back``: closes the circle."""

    start: str
    end: str
    label: str
    back: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """``path``: ids from the stuck on; ``closes``: the id to which its last edge goes back, None when there is no circle.

    ``more``: how many others wait for a primitive (by its id) that are not drawn.
    """

    nodes: dict[str, Node]
    edges: tuple[Edge, ...]
    path: tuple[str, ...]
    closes: str | None = None
    more: dict[str, int] = field(default_factory=dict)


def picture(incident: Incident) -> Picture:
    """Empty when nothing that the incident is about was seen."""
    return _Drawer(incident).draw()


class _Drawer:
    def __init__(self, incident: Incident) -> None:
        self.incident = incident
        self.graph = WaitGraph(incident.snapshot)
        self.nodes: dict[str, Node] = {}
        self.edges: list[Edge] = []
        self.more: dict[str, int] = {}

    def draw(self) -> Picture:
        path, closes = self._path()
        for node_id in path:
            self.nodes[node_id] = self._node(node_id)
        for start, end in itertools.pairwise(path):
            self.edges.append(Edge(start, end, self._label(start, end)))
        if closes is not None:
            self.edges.append(Edge(path[-1], closes, self._label(path[-1], closes), back=True))
        elif path:
            self._end(path[-1])
        for node_id in path:
            self._beside(node_id, path)
        shown = (*path, *(n.id for n in self.nodes.values() if n.sort == "end" and n.stuck))
        return Picture(self.nodes, tuple(self.edges), shown, closes, self.more)

    # The way

    def _path(self) -> tuple[tuple[str, ...], str | None]:
        ways = [self._way(start) for start in self._starts()]
        if not ways:
            return (), None
        subjects = set(self.incident.findings[0].subjects) if self.incident.findings else set()
        return max(ways, key=lambda way: (len(subjects & set(way[0])), way[1] is not None))

    def _starts(self) -> list[str]:
        """The stall's subject first, then what the first finding is about."""
        named = [self.incident.stall.subject_id, *(self.incident.findings[0].subjects[:8] if self.incident.findings else ())]
        loops = {loop.id for loop in self.incident.snapshot.loops}
        known = [self.graph.node(n) for n in named]
        return [n for n in dict.fromkeys(known) if n in loops or self._is_waiter(n)]

    def _way(self, start: str) -> tuple[tuple[str, ...], str | None]:
        loop = next((loop for loop in self.incident.snapshot.loops if loop.id == start), None)
        if loop is not None:
            rest = self.graph.final(loop.thread_id) if loop.thread_id else ()
            path = (start, *(n for n in rest if n != start))
        else:
            path = self.graph.final(start)
        closes = next((h for h in self.graph.live_holders(path[-1]) if h in path), None) if path else None
        return path[:MAX_NODES], closes if len(path) <= MAX_NODES else None

    def _label(self, start: str, end: str) -> str:
        if self._is_waiter(start):
            wait = self.graph.wait(start, end)
            since = wait.since_ns if wait is not None else None
            return "waits for" + (f" ({seconds(max(0, self.incident.snapshot.at_ns - since))})" if since is not None else "")
        primitive = self.graph.primitives.get(start)
        kind = primitive.kind if primitive is not None else start.partition(":")[0]
        return {"task": "is", "thread": "is", "job": "run by", "loop": "run by", "gather": "one of them", "group": "one of them"}.get(
            kind, "held by"
        )

    def _is_waiter(self, node_id: str) -> bool:
        return node_id in self.graph.tasks or node_id in self.graph.threads or node_id in self.graph.requests

    def _node(self, node_id: str, stuck: bool = True) -> Node:
        if self._is_waiter(node_id):
            at = innermost(frames_of(self.graph, node_id))
            return Node(node_id, "waiter", waiter_name(self.graph, node_id), place(at), self._age(node_id), stuck)
        primitive = self.graph.primitives.get(node_id)
        loop = next((loop for loop in self.incident.snapshot.loops if loop.id == node_id), None)
        if loop is not None:
            tasks = sum(task.loop_id == loop.id for task in self.incident.snapshot.tasks)
            note = f"{tasks} task{'s wait' if tasks > 1 else ' waits'} for it" if tasks else ""
            return Node(node_id, "primitive", f"the event loop ({loop.kind})", "", note, stuck)
        return Node(node_id, "primitive", primitive_name(primitive, node_id), "", state_note(primitive), stuck)

    def _age(self, node_id: str) -> str:
        request = self.graph.request_of(node_id)
        if request is None or request.since_ns is None or self.graph.node(request.id) != node_id:
            return ""
        return f"{seconds(max(0, self.incident.snapshot.at_ns - request.since_ns))} old"

    # How it ends

    def _end(self, last: str) -> None:
        words = self._end_words(last)
        if words:
            self.nodes["end"] = Node("end", "end", words)
            self.edges.append(Edge(last, "end", ""))

    def _end_words(self, last: str) -> str:
        if self._is_waiter(last):
            thread = self.graph.threads.get(last)
            if thread is not None:
                return f"sits in {thread.syscall}" if thread.syscall else "runs, and does not come back" if thread.is_loop else "runs"
            task = self.graph.tasks.get(last)
            return {"running": "is running now", "ready": "is about to run", "done": "has ended"}.get(task.state, "") if task else ""
        primitive = self.graph.primitives.get(last)
        if primitive is None:
            return "nobody is known who would end this"
        if primitive.ready:
            return "what it waits for is there already: the wake-up went missing"
        if primitive.kind in _END:
            return _END[primitive.kind]
        if primitive.kind in _SETTABLE:
            return "nobody alive could end this wait" if primitive.setters == () else "nobody ends this wait"
        gone = self.graph.holders(last)
        return "its holder is gone" if gone else "nobody alive holds it"

    # Who else

    def _beside(self, node_id: str, path: tuple[str, ...]) -> None:
        """Others who wait for the same, and other holders, as far as there is room."""
        if self._is_waiter(node_id):
            return
        for others, forth in ((self.graph.waiters(node_id), True), (self.graph.live_holders(node_id), False)):
            rest = [other for other in others if other not in path and other not in self.nodes]
            room = max(0, min(MAX_BESIDE, MAX_NODES - len(self.nodes)))
            for other in rest[:room]:
                self.nodes[other] = self._node(other, stuck=False)
                start, end = (other, node_id) if forth else (node_id, other)
                self.edges.append(Edge(start, end, self._label(start, end)))
            if forth and rest[room:]:
                self.more[node_id] = len(rest[room:])


def state_note(primitive: Primitive | None) -> str:
    """``locked True · 2 of 2 in use``: plain facts about a primitive, empty when none are known."""
    if primitive is None:
        return ""
    facts = [
        f"{key.replace('_', ' ')} {str(value).lower() if isinstance(value, bool) else value}"
        for key, value in primitive.state.items()
        if value is not None
    ]
    if primitive.capacity is not None:
        facts.append(f"{'?' if primitive.in_use is None else primitive.in_use} of {primitive.capacity} in use")
    return " · ".join(facts[:5])
