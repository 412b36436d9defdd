"""What an integration is: a module that says how to recognise one library's waits, holds, requests and resources.

Nothing is registered by import side effects: `integrations/__init__.py` lists the modules in a tuple. A module may have

    NAME           the word shown to people ("asyncio", "httpcore")
    DISTRIBUTION   its name on PyPI, None for the standard library
    TESTED         version specifier it was tested with, as ">=0.12.2,<1"
    WAITS          tuple[Spot]: frames of tasks or threads that mean "parked on this"
    HOLDS          dict[type_name, HeldLook]: objects found open on a value stack that are worth naming as held;
                   ``look(obj, desk)`` gives the Primitive it stands for, or None
    DEADLINES      dict[type_name, DeadlineLook]: open context managers that end what happens inside them at some time;
                   ``look(obj)`` gives that time (monotonic ns), or None
    REQUESTS       tuple[Spot]: frames that tell which request a task works for; ``look(look)`` gives a Request (added and
                   bound to the task), a request's id (bound), or None
    census         (reader, desk) -> None: what no frame shows (pools, connections, queued requests, server state)
    install        (patcher, ledger, config) -> None: the few attributes that are replaced in an agent

A `Spot` names a frame by the end of its file's path and its function's plain name; its ``look`` reads the frame
through the view and tells the desk. Where a spot's frame can be of another class's method of the same name,
``look`` must check ``self``'s type and return None.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from hangwatch.reading.view import FrameView, ObjectView, Reader, TaskView
from hangwatch.records import Connection, Frame, Plain, Primitive, Request


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a frame that waits says: the primitive (without waiters; with what the library itself knows of holders).

    ``releases``: ids of primitives that are let go for the time of this wait although their ``with`` block is open
    (the lock of a condition).
    """

    primitive: Primitive
    op: str
    since_ns: int | None = None
    deadline_ns: int | None = None
    releases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Spot:
    """One recognised frame. ``transparent``: a wrapper (wait_for, timeout) that only adds a deadline to what it wraps."""

    file: str
    function: str
    look: Callable[..., Any]
    transparent: bool = False
    #: module and qualified name that must exist upstream: "asyncio.locks:Event.wait"; None where it is not importable
    target: str | None = None
    since: str = ""


class Desk(Protocol):
    """Where integrations report to while a snapshot is made. All methods are cheap and never raise."""

    now_ns: int
    reader: Reader
    #: What an integration wants to work out only once for a snapshot, by its module's name.
    memo: dict[str, Any]

    def id_of(self, kind: str, obj: ObjectView) -> str:
        """The id of a primitive, task or request made of this object: ``kind`` + ":" + its address in hex."""

    def known(self, kind: str, obj: ObjectView) -> Primitive | None:
        """The primitive that was already made of this object in this snapshot: a lock with a thousand waiters is read once."""

    def add_primitive(self, primitive: Primitive) -> None:
        """Adds or merges: states are merged, holders and waiters united."""

    def add_connection(self, connection: Connection) -> None: ...

    def add_request(self, request: Request) -> None:
        """Adds or completes: known fields win over None."""

    def known_requests(self) -> list[Request]:
        """What the ledger and frames have told so far."""

    def bind(self, task_id: str, request_id: str) -> None:
        """This task works for this request."""

    def parent(self, child_id: str, parent_id: str) -> None:
        """The task ``parent_id`` made the task ``child_id``."""

    def hold(self, owner_id: str, primitive_id: str, frame: Frame | None = None, since_ns: int | None = None) -> None:
        """This task, thread or request holds this primitive."""

    def wait(self, waiter_id: str, primitive_id: str, op: str, since_ns: int | None = None, frame: Frame | None = None) -> None: ...

    def lend(self, primitive_id: str, obj: ObjectView, through: tuple[str, ...]) -> None:
        """A pool has given this object out: whoever refers to it, directly or through objects whose type names begin so, holds some of it."""

    def serve(self, thread_id: str, task_id: str) -> None:
        """This thread runs the job that this task waits for."""

    def gap(self, sentence: str) -> None: ...


#: What ``HOLDS`` maps a class's name to.
HeldLook = Callable[[ObjectView, Desk], "Primitive | None"]
#: What ``DEADLINES`` maps a class's name to.
DeadlineLook = Callable[[ObjectView], "int | None"]


@dataclass(frozen=True, slots=True)
class Look:
    """What a Spot's ``look(look)`` is given: the frame, its neighbours in the chain, the waiter, the desk."""

    frame: FrameView
    chain: list[FrameView]
    index: int
    desk: Desk
    waiter_id: str
    task: TaskView | None = None
    awaited: ObjectView | None = None
    extra: dict[str, Plain] = field(default_factory=dict)
