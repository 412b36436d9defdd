"""From what the kernel told to an incident: a look into the process as `attach` takes it, joined with the kernel's facts.

The kernel knows since when, in which system call and on whose bytes; the process' memory knows which task, which request, which line.
Both name threads by their id and connections by their addresses.
"""

from __future__ import annotations

import dataclasses
import socket
import time

from hangwatch import attach, evidence
from hangwatch.attach import garbage
from hangwatch.attach.between import Between
from hangwatch.attach.stalled import stall_between
from hangwatch.config import Config
from hangwatch.errors import HangwatchError
from hangwatch.evidence.base import Target
from hangwatch.investigate import investigate
from hangwatch.kernel import procfs
from hangwatch.kernel.cgroups import Throttling
from hangwatch.records import SCHEMA, Connection, Evidence, Incident, Loop, Request, Snapshot, Stall, Thread
from hangwatch.snapshot import take
from hangwatch.watcher.facts import connection_evidence, loop_evidence
from hangwatch.watcher.loops import LoopStall
from hangwatch.watcher.states import PENDING, ConnectionStall
from hangwatch.watcher.workers import Worker

#: Between the two looks. The kernel has told already that nothing moved: short, for somebody waits for the line.
APART_S = 0.1
#: Captures that need no tool and stop nothing.
CAPTURES = ("process", "sockets")
CAPTURES_DEADLINE_S = 1.5


class NoStall(Exception):
    """The look into the process says that nothing is wrong. The message says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Looks:
    """Two looks at one process, and what was collected between them."""

    earlier: Snapshot
    now: Snapshot
    loop_tids: tuple[int, ...]
    turned: frozenset[str]
    gil: tuple[Evidence, ...]
    collected: tuple[Evidence, ...]


def two_looks(pid: int, tids: tuple[int, ...] = (), native: bool = False) -> Looks:
    """``tids``: the threads with loops, as far as they are known before. Raises CannotLook."""
    wanted = (*CAPTURES, "py-spy") if native else CAPTURES
    collection = evidence.Collection(Target(pid, native=native, loop_native_ids=tids), wanted, CAPTURES_DEADLINE_S)
    reader = attach.open_reader(pid)
    began = time.monotonic()
    earlier, gil, turns = attach.settled(take(reader), reader), reader.gil(), reader.turns()
    between = Between(reader, earlier)
    between.rest(APART_S - (time.monotonic() - began))
    reader.refresh()
    now = attach.settled(take(reader), reader)
    kept = garbage.evidence(reader, between.flags) or attach.gil_evidence(reader, gil, (now.at_ns - earlier.at_ns) / 1e6)
    return Looks(
        earlier, now, reader.loop_native_ids(), attach.went_on(reader, turns, kept), kept, (*collection.gather(), *between.samples)
    )


def of_loop(worker: Worker, stall: LoopStall, limit_ns: int, throttled: Throttling | None = None, native: bool = False) -> Incident:
    """A blocked loop. Raises NoStall when that thread runs no event loop, or goes on."""
    facts = loop_evidence(stall, throttled)
    if worker.blind:
        return _blind(worker, stall, limit_ns, facts)
    try:
        looks = two_looks(worker.pid, (stall.tid,), native)
    except HangwatchError as error:
        return _blind(dataclasses.replace(worker, blind=str(error)), stall, limit_ns, facts)
    if stall.tid not in looks.loop_tids:
        if looks.loop_tids:
            worker.not_loops.add(stall.tid)
            raise NoStall(f"thread {stall.tid} runs no event loop")
        return _blind(dataclasses.replace(worker, blind="no event loop was found in its memory"), stall, limit_ns, facts)
    loop = next((loop for loop in looks.now.loops if loop.thread_id == f"thread:{stall.tid}"), None)
    if loop is None:
        raise NoStall(f"the loop of thread {stall.tid} has ended")
    if not stall.certain and (loop.id in looks.turned or loop.asleep):
        raise NoStall("it is busy, and goes from callback to callback")
    told = Stall("loop", loop.id, stall.since_ns, limit_ns)
    for seen in (_during(looks, loop), _told_by_the_kernel(looks, loop, facts)):
        now = _with_lag(seen.now, loop, stall)
        earlier = now if seen.earlier is seen.now else seen.earlier
        incident = conclude(worker, told, dataclasses.replace(seen, earlier=earlier, now=now), facts)
        if incident.findings and {loop.id, loop.thread_id, loop.running_task_id} & set(incident.findings[0].subjects):
            break
    return incident


def _during(looks: Looks, loop: Loop) -> Looks:
    """The looks at the block; where it was over before the second, the first alone."""
    before = next((other for other in looks.earlier.loops if other.id == loop.id), None)
    if not loop.asleep or before is None or before.asleep is not False:
        return looks
    return dataclasses.replace(looks, now=looks.earlier)


def _told_by_the_kernel(looks: Looks, loop: Loop, facts: Evidence) -> Looks:
    """Where the looks came too late: what the loop's thread did is the kernel's word, what else the process waits for by now is not why."""
    (seen,) = facts.data["threads"]
    now = dataclasses.replace(
        looks.now,
        loops=tuple(dataclasses.replace(other, asleep=False) if other.id == loop.id else other for other in looks.now.loops),
        threads=tuple(
            dataclasses.replace(thread, syscall=seen["what"] or seen["call"] or None, frames=(), waits_on=None)
            for thread in looks.now.threads
            if thread.id == loop.thread_id
        ),
        tasks=(),
        waits=(),
        primitives=(),
        requests=(),
        gaps=(*looks.now.gaps, "It was over when the process' memory was read: where it happened is not known."),
    )
    return dataclasses.replace(looks, earlier=now, now=now)


def of_connections(
    worker: Worker, stalls: list[ConnectionStall], upstreams: list[ConnectionStall], config: Config
) -> tuple[list[Incident], list[ConnectionStall]]:
    """Connections without progress; one incident for each place at which requests are stuck, the oldest first. And those connections on which
    nothing is owed, or not yet.

    Raises NoStall when that is so of all.
    """
    if worker.blind:
        return [_blind_connections(worker, stalls, upstreams, config)], []
    try:
        looks = two_looks(worker.pid)
    except HangwatchError as error:
        return [_blind_connections(dataclasses.replace(worker, blind=str(error)), stalls, upstreams, config)], []
    by_peer = {stall.peer: stall for stall in stalls}
    known = {c.id: by_peer[peer] for c in looks.now.connections if (peer := _plain_peer(c.client)) in by_peer}
    dated = [_dated(request, known[request.connection_id], config) for request in looks.now.requests if request.connection_id in known]
    owed = [request for request in dated if request is not None]
    facts = connection_evidence(stalls, upstreams, {known[request.connection_id or ""].fd: request for request in owed})
    if owed:
        changed = {request.id: request for request in owed}
        now = dataclasses.replace(looks.now, requests=tuple(changed.get(request.id, request) for request in looks.now.requests))
        looks = dataclasses.replace(looks, now=now)
        told = {known[request.connection_id or ""].peer for request in owed}
        early = [stall for stall in stalls if stall.peer not in told]
        return [_of_group(worker, group, looks, facts) for group in _groups(owed, looks.now)], early
    if known:
        raise NoStall("its connections owe no answer")
    between = stall_between(looks.earlier, looks.now, looks.turned, bool(looks.gil))
    if between is None:
        raise NoStall("nothing stands still in it")
    return [conclude(worker, dataclasses.replace(between, since_ns=min(stall.since_ns for stall in stalls)), looks, facts)], []


#: Incidents made of one pair of looks; the requests at further places count towards the last.
MAX_GROUPS = 5


def _groups(owed: list[Request], snapshot: Snapshot) -> list[list[Request]]:
    """Requests by the place they are stuck at."""
    tasks = {task.id: task for task in snapshot.tasks}
    groups: dict[object, list[Request]] = {}
    for request in sorted(owed, key=lambda request: request.since_ns or 0):
        task = tasks.get(request.task_id or "")
        place: object = tuple((frame.file, frame.line) for frame in task.frames[-8:]) if task is not None else None
        if place not in groups and len(groups) >= MAX_GROUPS:
            place = next(reversed(groups))
        groups.setdefault(place, []).append(request)
    return list(groups.values())


def _of_group(worker: Worker, group: list[Request], looks: Looks, facts: Evidence) -> Incident:
    """One incident about these requests; the others are there, but nobody's limit."""
    ids = {request.id for request in group}
    others = tuple(
        request if request.id in ids else dataclasses.replace(request, since_ns=looks.now.at_ns) for request in looks.now.requests
    )
    now = dataclasses.replace(looks.now, requests=others)
    stall = Stall("request", group[0].id, group[0].since_ns or 0, group[0].limit_ns or 0)
    incident = conclude(worker, stall, dataclasses.replace(looks, now=now), facts)
    return dataclasses.replace(incident, count=len(group), snapshot=dataclasses.replace(incident.snapshot, requests=looks.now.requests))


def _dated(request: Request, stall: ConnectionStall, config: Config) -> Request | None:
    """The request with its begin and its limit, None when it may take longer still, was answered, or the client has not sent all of it.

    A message on a websocket asks for no answer.
    """
    if request.method == "WEBSOCKET" and stall.state == PENDING:
        return None
    limit_s = config.limit_for(request.route)
    if limit_s is None or request.phase in ("background", "body") or request.body_complete is False:
        return None
    limit_ns = int(limit_s * 1e9)
    return dataclasses.replace(request, since_ns=stall.since_ns, limit_ns=limit_ns) if stall.at_ns - stall.since_ns >= limit_ns else None


def _plain_peer(client: str | None) -> str:
    """An address as the kernel's tables are printed here: of a v4 client on a v6 socket the v4 address."""
    return (client or "").replace("[::ffff:", "").replace("::ffff:", "").replace("]:", ":") if "::ffff:" in (client or "") else client or ""


def _blind_connections(worker: Worker, stalls: list[ConnectionStall], upstreams: list[ConnectionStall], config: Config) -> Incident:
    first = min(stalls, key=lambda stall: stall.since_ns)
    now_ns, limit_ns = time.monotonic_ns(), int(config.stall_after * 1e9)
    requests = []
    for stall in stalls:
        method, _, route = stall.request.partition(" ")
        requests.append(
            Request(f"request:{stall.fd:x}", f"connection:{stall.fd:x}", None, method, route, stall.since_ns, "app", limit_ns=limit_ns)
        )
    snapshot = Snapshot(
        schema=SCHEMA,
        taken_at=time.time(),
        at_ns=now_ns,
        pid=worker.pid,
        source="kernel",
        connections=tuple(
            Connection(f"connection:{stall.fd:x}", "tls" if stall.tls else "http", stall.peer, tls=stall.tls) for stall in stalls
        ),
        requests=tuple(requests),
        gaps=(f"The process' memory was not read: {worker.blind}. What is told comes from the kernel.",),
    )
    facts = connection_evidence(stalls, upstreams, {})
    looks = Looks(snapshot, snapshot, (), frozenset(), (), ())
    incident = conclude(worker, Stall("request", f"request:{first.fd:x}", first.since_ns, limit_ns), looks, facts)
    return dataclasses.replace(incident, count=len(stalls))


def conclude(worker: Worker, stall: Stall, looks: Looks, facts: Evidence) -> Incident:
    """Both looks and the kernel's facts, judged."""
    return investigate(
        stall,
        looks.now,
        evidence=(facts, *looks.collected, *looks.gil),
        earlier=looks.earlier if looks.earlier is not looks.now else None,
        service=worker.service,
        host=socket.gethostname(),
        opened_at=_epoch(stall.since_ns),
    )


def _with_lag(snapshot: Snapshot, loop: Loop, stall: LoopStall) -> Snapshot:
    """How long the loop has been away: from outside only the kernel knows."""
    lag = snapshot.at_ns - stall.since_ns
    return dataclasses.replace(
        snapshot, loops=tuple(dataclasses.replace(other, lag_ns=lag) if other.id == loop.id else other for other in snapshot.loops)
    )


def _blind(worker: Worker, stall: LoopStall, limit_ns: int, facts: Evidence) -> Incident:
    """What is left when the process' memory cannot be read: the kernel's facts."""
    thread_id, loop_id = f"thread:{stall.tid}", f"loop:{stall.tid:x}"
    call = procfs.thread_syscall(stall.pid, stall.tid) or stall.call or None
    snapshot = Snapshot(
        schema=SCHEMA,
        taken_at=time.time(),
        at_ns=time.monotonic_ns(),
        pid=stall.pid,
        source="kernel",
        loops=(Loop(loop_id, "unknown", thread_id, lag_ns=time.monotonic_ns() - stall.since_ns, asleep=False),),
        threads=(
            Thread(
                thread_id, procfs.name(stall.pid), stall.tid, is_loop=True, syscall=call, cpu_ns=procfs.thread_cpu_ns(stall.pid, stall.tid)
            ),
        ),
        gaps=(f"The process' memory was not read: {worker.blind}. What is told comes from the kernel.",),
    )
    collected = evidence.collect(Target(stall.pid, loop_native_ids=(stall.tid,)), CAPTURES, CAPTURES_DEADLINE_S)
    return investigate(
        Stall("loop", loop_id, stall.since_ns, limit_ns),
        snapshot,
        evidence=(facts, *collected),
        service=worker.service,
        host=socket.gethostname(),
        opened_at=_epoch(stall.since_ns),
    )


def _epoch(since_ns: int) -> float:
    return time.time() - (time.monotonic_ns() - since_ns) / 1e9
