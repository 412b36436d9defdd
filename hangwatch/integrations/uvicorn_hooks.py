"""What an agent replaces in uvicorn: the begin and end of each request, the server's tick, its start-up and shutdown.

A request begins when its ``run_asgi`` runs and ends when that returns. Kept is only the cycle (or websocket protocol) object and
the time; who asks for what is read from it when something is stuck. The tick that the server does anyway, ten times a second,
is the loop's sign of life.
"""

from __future__ import annotations

import time
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from hangwatch.config import Config
from hangwatch.ledger import Ledger
from hangwatch.patching import Patcher

if TYPE_CHECKING:
    from hangwatch.records import Request

NAME = "uvicorn"
DISTRIBUTION = "uvicorn"
TESTED = ">=0.12.2,<1"

#: Module -> class with ``run_asgi``, and whether that takes the application (HTTP) or not (websockets).
CYCLES: Final = (
    ("uvicorn.protocols.http.h11_impl", "RequestResponseCycle", True),
    ("uvicorn.protocols.http.httptools_impl", "RequestResponseCycle", True),
    ("uvicorn.protocols.http.zttp_impl", "RequestResponseCycle", True),
    ("uvicorn.protocols.http.zttp_h2_impl", "RequestResponseCycle", True),
    ("uvicorn.protocols.websockets.websockets_impl", "WebSocketProtocol", False),
    ("uvicorn.protocols.websockets.websockets_sansio_impl", "WebSocketsSansIOProtocol", False),
    ("uvicorn.protocols.websockets.wsproto_impl", "WSProtocol", False),
)
#: `Server` lives in ``main`` before 0.13 and is re-exported from there since.
SERVERS: Final = ("uvicorn.main", "uvicorn.server")


def install(patcher: Patcher, ledger: Ledger, config: Config) -> None:
    for module, name, takes_app in CYCLES:
        patcher.when_imported(module, _follow_class(name, takes_app, patcher, ledger))
    for module in SERVERS:
        patcher.when_imported(module, lambda loaded: _server(loaded, patcher, ledger))


def _follow_class(name: str, takes_app: bool, patcher: Patcher, ledger: Ledger) -> Any:
    def patch(module: ModuleType) -> None:
        follow = _follow_cycle if takes_app else _follow_websocket
        patcher.wrap(getattr(module, name), "run_asgi", lambda original: follow(original, ledger))

    return patch


def _follow_cycle(original: Any, ledger: Ledger) -> Any:
    begun, ended, now = ledger.begun, ledger.ended, time.monotonic_ns

    async def run_asgi(self: Any, app: Any) -> Any:
        begun[self] = now()
        try:
            return await original(self, app)
        finally:
            try:
                del begun[self]
            except KeyError:  # the watchdog has taken it aside
                ended(self)

    return run_asgi


def _follow_websocket(original: Any, ledger: Ledger) -> Any:
    begun, ended, now = ledger.begun, ledger.ended, time.monotonic_ns

    async def run_asgi(self: Any) -> Any:
        begun[self] = now()
        try:
            return await original(self)
        finally:
            try:
                del begun[self]
            except KeyError:  # the watchdog has taken it aside
                ended(self)

    return run_asgi


def _server(module: ModuleType, patcher: Patcher, ledger: Ledger) -> None:
    server = getattr(module, "Server", None)
    if server is None or server.__module__ != module.__name__:
        return
    patcher.wrap(server, "on_tick", lambda original: _tick(original, ledger))
    patcher.wrap(server, "serve", lambda original: _phase(original, "serve", ledger))
    patcher.wrap(server, "startup", lambda original: _phase(original, "startup", ledger))
    patcher.wrap(server, "shutdown", lambda original: _phase(original, "shutdown", ledger))


def _tick(original: Any, ledger: Ledger) -> Any:
    from asyncio.events import _get_running_loop as running  # not before uvicorn is: install() imports no asyncio

    loops = ledger.loops

    async def on_tick(self: Any, *args: Any, **kwargs: Any) -> Any:
        loop = running()
        mark = loops.get(id(loop))
        if mark is None:  # the agent came after the loop had started
            mark = ledger.loop_started(loop)
        mark.beats += 1
        return await original(self, *args, **kwargs)

    return on_tick


def _phase(original: Any, name: str, ledger: Ledger) -> Any:
    """Start-up lasts from the begin of ``serve`` (which imports the application) to the end of ``startup``; shutdown is ``shutdown``."""
    from asyncio import current_task, get_running_loop

    kind = "shutdown" if name == "shutdown" else "startup"

    async def phase(self: Any, *args: Any, **kwargs: Any) -> Any:
        loop = get_running_loop()
        mark = ledger.loops.get(id(loop)) or ledger.loop_started(loop)
        if mark.phase is None or mark.phase[0] != kind:
            mark.phase, mark.phase_task_id = (kind, time.monotonic_ns()), f"task:{id(current_task()):x}"
        try:
            return await original(self, *args, **kwargs)
        finally:
            mark.phase = mark.phase_task_id = None

    return phase


# What is read from a request's object at the stall, from the watchdog's thread. Plain attributes of uvicorn's own classes.


def path_of(subject: Any) -> str:
    """Its path without the query string, ``""`` where the scope has none."""
    scope = getattr(subject, "scope", None)
    path = scope.get("path", "") if type(scope) is dict else ""
    return path if isinstance(path, str) else ""


def endless(subject: Any) -> bool:
    """A websocket after its handshake may live as long as it likes."""
    if hasattr(subject, "response_complete") and hasattr(subject, "message_event"):
        return False
    event = getattr(subject, "handshake_completed_event", None)
    if event is not None:
        return bool(event._value)
    return bool(getattr(subject, "handshake_complete", False))


def answered(subject: Any) -> bool:
    """The response went out to its end: what still runs is a background task."""
    return bool(getattr(subject, "response_complete", False))


def protocol_of(subject: Any) -> Any:
    """The connection's protocol object; None once uvicorn has let go of it."""
    if hasattr(subject, "ws_server") or hasattr(subject, "handshake_complete"):
        return subject
    return getattr(getattr(subject, "on_response", None), "__self__", None)


def blocks_next(subject: Any) -> bool:
    """Another request of the same connection waits behind this one, which is answered already."""
    protocol = protocol_of(subject)
    if protocol is None:
        return False
    if getattr(protocol, "pipeline", None):
        return True
    connection = getattr(protocol, "conn", None)
    trailing = getattr(connection, "trailing_data", None)
    return bool(trailing and trailing[0])


def subject_id(subject: Any) -> str:
    return f"request:{id(subject):x}"


def request_of(subject: Any, since_ns: int, limit_ns: int | None) -> Request:
    """What the ledger knows of one request, for the snapshot."""
    from hangwatch.records import Request

    scope = getattr(subject, "scope", None)
    facts: dict[str, Any] = scope if type(scope) is dict else {}
    protocol = protocol_of(subject)
    trace_id, span_id, sampled = _trace(facts.get("headers"))
    return Request(
        id=subject_id(subject),
        connection_id=None if protocol is None else f"connection:{id(protocol):x}",
        task_id=None,
        method=str(facts.get("method") or ("WEBSOCKET" if facts.get("type") == "websocket" else "")),
        route=path_of(subject),
        since_ns=since_ns,
        phase=_phase_of(subject),
        trace_id=trace_id,
        span_id=span_id,
        sampled=sampled,
        body_complete=None if not hasattr(subject, "more_body") else not subject.more_body,
        limit_ns=limit_ns,
    )


def _phase_of(subject: Any) -> str:
    if answered(subject):
        return "background"
    return "responding" if getattr(subject, "response_started", False) else "body" if getattr(subject, "more_body", False) else "app"


def _trace(headers: Any) -> tuple[str | None, str | None, bool | None]:
    """Ids from ``traceparent`` (W3C Trace Context, version 00 and later ones that begin alike)."""
    for pair in headers if type(headers) is list else ():
        if len(pair) == 2 and bytes(pair[0]).lower() == b"traceparent":
            parts = bytes(pair[1]).decode("ascii", "replace").strip().split("-")
            if len(parts) >= 4 and len(parts[1]) == 32 and len(parts[2]) == 16:
                return parts[1].lower(), parts[2].lower(), parts[3][-1:] in "13579bdf"
    return None, None, None
