"""Every data type that hangwatch passes around or writes down: frozen, slotted, plain values.

Whoever looks at a process makes these; whoever thinks, stores, shows or exports reads only these.
Nothing here keeps a live object of the watched program alive.

Times are nanoseconds of the watched process' monotonic clock unless the name ends in ``_at``
(seconds since the epoch). Ids are strings, unique across kinds within one process: ``task:7f10…``,
``thread:4242`` (native id), ``loop:7f10…``, ``lock:7f10…``; the part after the colon is the object's
address in hex, so that two samples of one process name the same object alike.

``to_json`` gives plain JSON values; ``from_json`` reads them back and ignores keys it does not know, so that
an older hangwatch can show what a newer one stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Union

from hangwatch.jsonable import from_json as from_json
from hangwatch.jsonable import to_json as to_json

SCHEMA = 1

#: ``Primitive.patience_ns`` of a wait that may rightly last for ever (idle keep-alive, accept, idle consumer).
FOREVER = 2**63 - 1

Plain = Union[None, bool, int, float, str]
Source = Literal["agent", "attach", "core", "faulthandler", "kernel"]
StallKind = Literal["loop", "request", "task", "startup", "shutdown"]
Confidence = Literal["proved", "likely", "suspected"]

#: The closed list of causes. Tools outside rely on these words.
CAUSES = (
    "blocked-loop-cpu", "blocked-loop-io", "blocked-loop-lock", "gil-held", "gc-pause", "cpu-starved",
    "deadlock", "lock-leaked", "holder-stuck", "lost-wakeup", "shared-event", "never-set", "foreign-thread",
    "task-lost", "cancel-swallowed", "pool-exhausted", "threadpool-exhausted", "silent-peer", "slow-client",
    "stuck-startup", "stuck-shutdown", "unknown",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Frame:
    """One place in source code. ``function`` is the qualified name where the interpreter knows it (3.11+)."""

    file: str
    line: int
    function: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Something a task or thread has entered and not left, and the frame that entered it."""

    primitive_id: str
    frame: Frame | None = None
    since_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """One waiter (a task, or a thread: ``task_id`` holds either id) parked in one operation of one primitive.

    ``frame`` is the innermost frame of the application that made the call, where there is one. ``deadline_ns`` is when a
    timeout of the waiter's own ends this wait (monotonic), None when there is none or it cannot be read.
    """

    task_id: str
    primitive_id: str
    op: str
    since_ns: int | None = None
    frame: Frame | None = None
    deadline_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Primitive:
    """Anything that can be waited on: a lock, an event, a pool, a peer's bytes, another task, a timer.

    ``kind`` is one of the words in ``KINDS``. ``state`` holds plain facts for a reader (``{"locked": True}``).
    ``ready`` is True when the state says that a waiter should already have gone on (event set, lock free, queue
    not empty, future done, body complete), False when it rightly waits, None when that cannot be told.
    ``holders`` are ids of tasks, threads or requests that must act before the wait can end.
    ``setters`` are ids of live tasks or threads that could end it (they refer to it), None when nobody looked.
    ``patience_ns`` says how long a wait on it may last and still be healthy: FOREVER for idle waits, a number for
    a wait under its own deadline, None for no opinion (then the request's limit decides).
    """

    id: str
    kind: str
    label: str
    library: str
    state: dict[str, Plain] = field(default_factory=dict)
    waiters: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    patience_ns: int | None = None
    ready: bool | None = None
    setters: tuple[str, ...] | None = None
    capacity: int | None = None
    in_use: int | None = None


#: What a Primitive may be. ``peer``: bytes from another process; ``client``: the client must read what we send;
#: ``body``: the client's request body; ``job``: work handed to a thread or process; ``other``: a bare future.
KINDS = (
    "event", "lock", "condition", "semaphore", "barrier", "queue-get", "queue-put", "queue-join", "future", "task",
    "gather", "group", "timer", "peer", "client", "body", "disconnect", "pool", "limiter", "job", "thread",
    "thread-lock", "thread-event", "thread-queue", "loop", "gil", "process", "pipe", "file", "server-close", "stream",
    "import-lock", "executor", "other",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Task:
    """One asyncio task with its whole await chain, outermost frame first.

    ``state``: ``parked`` (waits), ``running`` (is on its loop's thread now), ``ready`` (its wake-up is queued),
    ``done``. ``waits_on`` is a Primitive's id. ``cancelling`` counts cancel requests not yet honoured (3.11+, else 0).
    """

    id: str
    name: str
    loop_id: str
    state: str
    frames: tuple[Frame, ...] = ()
    waits_on: str | None = None
    holds: tuple[Hold, ...] = ()
    parent_id: str | None = None
    request_id: str | None = None
    cancelling: int = 0


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread, outermost frame first. ``serves`` is the task that waits for the job it runs, where known.

    ``syscall`` is the system call it sits in (name, plus what its descriptor is), ``cpu_ns`` its CPU time so far.
    """

    id: str
    name: str
    native_id: int
    frames: tuple[Frame, ...] = ()
    is_loop: bool = False
    waits_on: str | None = None
    holds: tuple[Hold, ...] = ()
    serves: str | None = None
    syscall: str | None = None
    cpu_ns: int | None = None
    idle: bool | None = None


@dataclass(frozen=True, slots=True)
class Loop:
    """One event loop. ``lag_ns`` is the age of its last sign of life when the snapshot was taken."""

    id: str
    kind: str
    thread_id: str | None
    running_task_id: str | None = None
    lag_ns: int | None = None
    ready: int | None = None
    scheduled: int | None = None
    asleep: bool | None = None


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection that a server accepted. ``queued`` counts requests parsed but not begun (pipelined)."""

    id: str
    protocol: str
    client: str | None = None
    tls: bool = False
    read_paused: bool = False
    write_paused: bool = False
    disconnected: bool = False
    unsent_bytes: int | None = None
    queued: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One request that was begun and not yet answered to its end.

    ``route`` is the path without its query string (or the framework's pattern when that is known). ``phase``:
    ``queued`` (no task yet), ``body`` (its body is still arriving), ``app`` (the application has it), ``responding``
    (response began), ``background`` (answered, the application still runs). ``trace_id``/``span_id``: lower hex, from
    the request's own ``traceparent`` header, ``sampled`` its flag (None: not known).
    """

    id: str
    connection_id: str | None
    task_id: str | None
    method: str
    route: str
    since_ns: int | None
    phase: str
    trace_id: str | None = None
    span_id: str | None = None
    body_complete: bool | None = None
    limit_ns: int | None = None
    sampled: bool | None = None


@dataclass(frozen=True, slots=True)
class Act:
    """One entry of the ring: somebody did ``op`` (set, clear, notify, acquire, release, put, get, cancel) to a primitive."""

    at_ns: int
    op: str
    primitive_id: str
    task_id: str | None
    thread_id: str | None
    frame: Frame | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one look at a process found. ``gaps`` says, in sentences, what could not be read and why."""

    schema: int
    taken_at: float
    at_ns: int
    pid: int
    source: str
    loops: tuple[Loop, ...] = ()
    tasks: tuple[Task, ...] = ()
    threads: tuple[Thread, ...] = ()
    primitives: tuple[Primitive, ...] = ()
    waits: tuple[Wait, ...] = ()
    connections: tuple[Connection, ...] = ()
    requests: tuple[Request, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    gaps: tuple[str, ...] = ()
    history: tuple[Act, ...] = ()
    took_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Stall:
    """Something past its limit. ``subject_id`` is a loop's, request's or task's id."""

    kind: str
    subject_id: str
    since_ns: int
    limit_ns: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one tool said. ``error`` and ``hint`` instead of an exception when it could not."""

    tool: str
    text: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    took_ms: float = 0.0
    error: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """A known bug that was recognised: what it is, which versions carry it, what ends it.

    ``affected`` and ``fixed_in`` are version specifiers of ``project`` (``<0.12.3``, ``0.12.3``).
    """

    id: str
    project: str
    title: str
    installed: str | None
    affected: str
    fixed_in: str | None
    issue: str
    fix: str | None
    mechanism: str = ""
    trigger: str = ""
    workaround: str = ""
    verify: str = ""
    not_when: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause, in words a tired person understands, with the facts to check it by.

    ``title`` is one sentence for this very case; ``because`` the facts, one a line; ``culprit`` the frames to open in
    an editor, most telling first; ``subjects`` the ids it is about, the stuck first; ``frees`` how many waiters would
    go on if this cause were gone (findings are ranked by it).
    """

    cause: str
    title: str
    because: tuple[str, ...] = ()
    culprit: tuple[Frame, ...] = ()
    subjects: tuple[str, ...] = ()
    confidence: str = "suspected"
    advice: str = ""
    signature: Signature | None = None
    frees: int = 0


@dataclass(frozen=True, slots=True)
class Incident:
    """One thing that hung, however many requests it took with it. ``opened_at``/``closed_at``: seconds since the epoch."""

    id: str
    fingerprint: str
    service: str
    stall: Stall
    snapshot: Snapshot
    evidence: tuple[Evidence, ...] = ()
    findings: tuple[Finding, ...] = ()
    count: int = 1
    opened_at: float = 0.0
    closed_at: float | None = None
    host: str = ""
    schema: int = SCHEMA
