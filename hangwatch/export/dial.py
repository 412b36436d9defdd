"""The exporter of one signal over the protocol that was chosen: OTLP/HTTP, or gRPC where its package is installed."""

from __future__ import annotations

import importlib
import os
from typing import Any
from urllib.parse import urlsplit

from hangwatch.config import Config
from hangwatch.errors import HangwatchError
from hangwatch.export.wire import Answered, endpoint, session

GRPC_PACKAGE = "opentelemetry-exporter-otlp-proto-grpc"
_CLASSES = {
    "traces": ("trace_exporter", "OTLPSpanExporter"),
    "logs": ("_log_exporter", "OTLPLogExporter"),
    "metrics": ("metric_exporter", "OTLPMetricExporter"),
}
#: gRPC's codes as the HTTP statuses that mean the same to us; those that are not here are worth another try.
_STATUS_OF_CODE = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 400,
    "UNIMPLEMENTED": 404,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
}


def make_exporter(signal: str, config: Config, timeout_s: float) -> tuple[Any, Any]:
    """An exporter and who notes its last answer (None where a credential provider brings its own session).

    Raises HangwatchError when gRPC is wanted and its package is missing.
    """
    if config.otlp_protocol == "grpc":
        return _grpc(signal, config, timeout_s)
    settings: dict[str, Any] = {"endpoint": endpoint(config, signal), "timeout": timeout_s}
    own = None
    if not any(os.environ.get(name) for name in _credential_providers(signal)):
        settings["session"] = own = session()
    return _class_of(signal, "http")(**settings), own


def _credential_providers(signal: str) -> tuple[str, str]:
    start = "OTEL_PYTHON_EXPORTER_OTLP_HTTP"
    return f"{start}_CREDENTIAL_PROVIDER", f"{start}_{signal.upper()}_CREDENTIAL_PROVIDER"


def _class_of(signal: str, transport: str) -> Any:
    module, name = _CLASSES[signal]
    return getattr(importlib.import_module(f"opentelemetry.exporter.otlp.proto.{transport}.{module}"), name)


def _grpc(signal: str, config: Config, timeout_s: float) -> tuple[Any, Any]:
    try:
        made = _class_of(signal, "grpc")
    except ImportError as error:
        raise HangwatchError(f"OTLP over gRPC is not installed ({error})", f"pip install {GRPC_PACKAGE}") from None
    target = endpoint(config, signal).removesuffix(f"/v1/{signal}")
    # Older releases take whole seconds only.
    exporter = made(endpoint=target, insecure=urlsplit(target).scheme == "http", timeout=max(1, int(timeout_s)))
    answer = GrpcAnswer()
    if hasattr(getattr(exporter, "_client", None), "Export"):
        exporter._client = _Noting(exporter._client, answer)
    return exporter, answer


class GrpcAnswer:
    """The last answer, as HTTP would have put it."""

    def __init__(self) -> None:
        self.last_status: int | None = None
        self.last_error = ""


class _Noting:
    """Stands before a gRPC stub: notes the answer, and brings it past the exporter's own retries."""

    def __init__(self, stub: Any, answer: GrpcAnswer) -> None:
        self._stub = stub
        self._answer = answer

    def Export(self, *args: Any, **settings: Any) -> Any:
        import grpc

        self._answer.last_status, self._answer.last_error = None, ""
        try:
            return self._stub.Export(*args, **settings)
        except grpc.RpcError as error:
            code = error.code().name if hasattr(error, "code") else type(error).__name__
            self._answer.last_status, self._answer.last_error = _STATUS_OF_CODE.get(code), code
            raise Answered(code) from None
