"""Starlette (and FastAPI, which is made of it): what stands between a server and an endpoint.

Child tasks of a middleware or a streamed response find their request through anyio's task groups; threads of synchronous endpoints
and dependencies through the job that the request's task waits for. Here are the waits that need more than that.
"""

from __future__ import annotations

from hangwatch.integrations.anyio import child_tasks
from hangwatch.integrations.asyncio_tasks import task_id
from hangwatch.integrations.base import Look, Sighting, Spot
from hangwatch.reading.view import ObjectView, length, plain
from hangwatch.records import FOREVER, Plain, Primitive

NAME = "starlette"
DISTRIBUTION = "starlette"
TESTED = ">=0.15,<2"

_BASE = "/starlette/middleware/base.py"
_MIDDLEWARE = "starlette.middleware.base:BaseHTTPMiddleware.__call__"


def _from_application(look: Look) -> Sighting | None:
    """A BaseHTTPMiddleware waits for messages of the application below it, which runs in a task of its own."""
    group = _group_of(look)
    stream = _stream_of(look)
    if group is None or stream is None:
        return None
    below = tuple(task_id(task) for task in child_tasks(group) if task_id(task) != look.waiter_id and not _is_watcher(task))
    size = length(stream, "buffer")
    state: dict[str, Plain] = {"size": size, "open senders": plain(stream, "open_send_channels")}
    label = (
        "a task: the application below a middleware to answer"
        if look.frame.name == "call_next"
        else "a task: the application below a middleware"
    )
    primitive = Primitive(look.desk.id_of("stream", stream), "task", label, NAME, state, holders=below, ready=bool(size) or None)
    return Sighting(primitive, look.frame.name)


def _is_watcher(task: ObjectView) -> bool:
    """Up to 0.46 a second task of the group waits for the end of the response, to close the stream. anyio names tasks by their function."""
    return "close_recv_stream" in str(plain(task, "_name"))


def _group_of(look: Look) -> ObjectView | None:
    own = look.frame.local("task_group")
    if own is not None:
        return own
    outer = (frame for frame in reversed(look.chain[: look.index]) if frame.name == "__call__" and frame.file.endswith(_BASE))
    return next((group for frame in outer if (group := frame.local("task_group")) is not None), None)


def _stream_of(look: Look) -> ObjectView | None:
    """The state of the memory object stream; None when what is awaited is something else."""
    for frame in look.chain[look.index + 1 :]:
        if frame.name == "receive" and frame.file.endswith("/anyio/streams/memory.py"):
            stream = frame.local("self")
            return stream.attr("_state") if stream is not None else None
    return None


def _answered(look: Look) -> Sighting | None:
    """Beside a ``receive`` a task watches for the end of the response: it may take as long as that does."""
    inner = look.chain[look.index + 1 :]
    if not inner or inner[0].name != "wait":
        return None
    event = inner[0].local("self")
    if event is None:
        return None
    label = "the event that the response was sent"
    return Sighting(Primitive(look.desk.id_of("event", event), "event", label, NAME, patience_ns=FOREVER), "wait")


WAITS = (
    Spot(_BASE, "call_next", _from_application, target=f"{_MIDDLEWARE}.call_next"),
    Spot(_BASE, "body_stream", _from_application, target=f"{_MIDDLEWARE}.call_next.body_stream"),
    Spot(_BASE, "wrap", _answered, target=f"{_MIDDLEWARE}.call_next.receive_or_disconnect.wrap"),
    Spot(_BASE, "close_recv_stream_on_response_sent", _answered),  # up to 0.46
    Spot(_BASE, "send_no_error", _answered, target=f"{_MIDDLEWARE}.call_next.send_no_error"),
)
