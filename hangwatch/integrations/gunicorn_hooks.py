"""What an agent replaces in gunicorn's ASGI worker: the head of a response, as nothing of it is left once it was sent.

Kept is only a response that has neither ``Content-Length`` nor ``Transfer-Encoding`` (25.0.0 sends such): its client reads on until
the connection ends.
"""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any

from hangwatch.config import Config
from hangwatch.ledger import Ledger
from hangwatch.patching import Patcher

NAME = "gunicorn"
DISTRIBUTION = "gunicorn"
TESTED = ">=25,<28"

_FRAMING = ("content-length", "transfer-encoding")


def install(patcher: Patcher, ledger: Ledger, config: Config) -> None:
    patcher.when_imported("gunicorn.asgi.protocol", lambda module: _protocol(module, patcher, ledger))


def _protocol(module: ModuleType, patcher: Patcher, ledger: Ledger) -> None:
    endless = ledger.endless

    def look(self: Any, status: int, headers: Any, request: Any, *_: Any, **__: Any) -> None:
        if status < 200:
            return
        if is_framed(status, headers, request):
            if endless:
                endless.pop(self, None)
        else:
            endless[self] = (request.method, request.path, time.monotonic_ns())

    patcher.before(module.ASGIProtocol, "_send_response_start", look)


def is_framed(status: int, headers: Any, request: Any) -> bool:
    """The client can see the end of the response, or knows that its end is that of the connection."""
    if status in (204, 304) or request.method == "HEAD" or request.version < (1, 1):
        return True
    if type(headers) not in (list, tuple):  # what can be read but once is not ours to read
        return True
    for name, value in headers:
        word = (name.decode("latin-1") if isinstance(name, bytes) else name).lower()
        if word in _FRAMING or (
            word == "connection" and b"close" in (value if isinstance(value, bytes) else value.encode("latin-1")).lower()
        ):
            return True
    return False
