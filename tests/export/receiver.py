"""A real OTLP/HTTP receiver on loopback: it decodes the protobuf that arrives, and it can have bad days."""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

REQUESTS = {"/v1/traces": ExportTraceServiceRequest, "/v1/logs": ExportLogsServiceRequest, "/v1/metrics": ExportMetricsServiceRequest}


class Receiver:
    """``with Receiver() as receiver``: ``receiver.url``; what arrived is in ``requests`` as (path, decoded message, headers).

    ``answers`` is what to do with the next requests, by path or for all (``"*"``): a status code, ``"silent"`` (accepts, reads, never
    answers) or ``"cut"`` (half of an answer, then the connection stays open and dead). Its last entry stays. Only 200 stores.
    """

    def __init__(self, port: int = 0, answers: dict[str, list[int | str]] | None = None):
        self.answers = answers or {}
        self.requests: list[tuple[str, object, dict[str, str]]] = []
        self.tries: list[str] = []
        self._stop = threading.Event()
        self._changed = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                outer._handle(self, body)

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, request, client_address):
                pass

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def _handle(self, handler, body):
        with self._changed:
            self.tries.append(handler.path)
            plan = self.answers.get(handler.path) or self.answers.get("*") or [200]
            answer = plan.pop(0) if len(plan) > 1 else plan[0]
            self._changed.notify_all()
        if answer == "silent":
            self._stop.wait()
            return
        if answer == "cut":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-le")
            handler.wfile.flush()
            self._stop.wait()
            return
        if answer == 200:
            if handler.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            path = "/v1/" + handler.path.rpartition("/v1/")[2]
            message = REQUESTS[path].FromString(body)
            with self._changed:
                self.requests.append((path, message, dict(handler.headers)))
                self._changed.notify_all()
        handler.send_response(answer)
        handler.send_header("content-length", "0")
        handler.end_headers()

    def wait(self, ready, timeout=20.0):
        """Until ``ready(self)`` is true; fails the test when it does not come."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not ready(self):
                left = deadline - time.monotonic()
                assert left > 0, f"did not arrive; tries {self.tries}, spans {[s.name for s in self.spans()]}"
                self._changed.wait(min(left, 0.2))

    def _of(self, path):
        return [message for p, message, _ in list(self.requests) if p == path]

    def spans(self):
        """All spans in the order of arrival."""
        return [span for message in self._of("/v1/traces") for rs in message.resource_spans for ss in rs.scope_spans for span in ss.spans]

    def resources(self):
        return [values(rs.resource.attributes) for message in self._of("/v1/traces") for rs in message.resource_spans]

    def logs(self):
        return [
            record for message in self._of("/v1/logs") for rl in message.resource_logs for sl in rl.scope_logs for record in sl.log_records
        ]

    def metrics(self):
        return [
            metric
            for message in self._of("/v1/metrics")
            for rm in message.resource_metrics
            for sm in rm.scope_metrics
            for metric in sm.metrics
        ]


def values(attributes):
    """KeyValues as a dict of Python values, in their order."""
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in attributes}


@contextlib.contextmanager
def free_port():
    """A port where nothing listens."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    port = server.server_address[1]
    server.server_close()
    yield port
