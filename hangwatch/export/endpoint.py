"""``GET /metrics`` for Prometheus, from a thread of its own: it answers while the loop is blocked.

One request at a time, each with a deadline, nothing but this one page. No logging.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from hangwatch.export import exposition
from hangwatch.export.families import Family

THREAD_NAME = "hangwatch-metrics"
#: A scraper that sends or reads slower than this is cut off; the next waits so long at most.
DEADLINE_S = 5.0
#: Workers of one service on one host take the ports after the first.
MAX_WORKERS = 64


class Endpoint:
    """``start`` binds ``port`` or the first free one after it (0: any); ``port`` is the one bound, None when there was none."""

    def __init__(self, host: str, port: int, families: Callable[[], list[Family]]) -> None:
        self.port: int | None = None
        self._host = host
        self._first = port
        self._families = families
        self._server: HTTPServer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Never raises; without a port it stays silent."""
        handler = _handler(self._families)
        for port in [self._first] if self._first == 0 else range(self._first, min(65536, self._first + MAX_WORKERS)):
            with contextlib.suppress(OSError):
                self._server = _Server((self._host, port), handler)
                break
        if self._server is not None:
            self.port = self._server.server_address[1]
            self._thread = threading.Thread(target=self._server.serve_forever, args=(0.5,), name=THREAD_NAME, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(2.0)
        self._server = self._thread = self.port = None

    def after_fork_in_child(self) -> bool:
        """The thread stayed with the parent; the listening socket must not stay open here. True: it can be started again."""
        if self._server is not None:
            self._server.socket.close()
        self._server = self._thread = self.port = None
        return True


class _Server(HTTPServer):
    # Two workers on one port would each see some of the scrapes.
    allow_reuse_address = False
    allow_reuse_port = False
    request_queue_size = 16

    def server_bind(self) -> None:
        # A restarted worker gets its port back although old connections linger (TIME_WAIT); a listening one keeps it all the same.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        # The base class asks DNS for the host's full name here, which can take long.
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that went away is nobody's trouble."""


def _handler(families: Callable[[], list[Family]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = DEADLINE_S

        def do_GET(self) -> None:
            if self.path.partition("?")[0] not in ("/metrics", "/"):
                self.send_error(404)
                return
            openmetrics = "application/openmetrics-text" in self.headers.get("accept", "")
            body = exposition.render(families(), openmetrics).encode()
            self.send_response(200)
            self.send_header("content-type", exposition.OPENMETRICS if openmetrics else exposition.TEXT)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: a handler's lock may be held by a stuck thread."""

        def version_string(self) -> str:
            return "hangwatch"

    return Handler
