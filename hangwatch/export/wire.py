"""What sending has in common for spans, log records and metrics: the session, the resource, silence in the log.

Everything here runs on the export thread, where OpenTelemetry is imported at the first thing there is to send.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from hangwatch.config import Config
from hangwatch.export.specs import Value

#: Answers that a later try may turn into a success; 401 to 404 are a receiver that is not (yet) set up.
LATER = frozenset((401, 403, 404, 405, 407, 408, 409, 425, 429)) | frozenset(range(500, 600))
#: Resources seen lately; a worker sends for itself and, after a crash, for its predecessor.
MAX_PROVIDERS = 8
#: Libraries that log while we send. Their records of the export thread go nowhere: a handler's lock may be held by a stuck thread.
NOISY = ("opentelemetry", "urllib3", "requests", "charset_normalizer", "chardet", "google", "backoff", "grpc")

#: Twenty spans cost 2 ms of nobody's time.
BREATH_S = 0.0001

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Outcome:
    """``sent``: the receiver has it. ``again``: keep it and try later; neither: the receiver will never take it."""

    sent: bool
    again: bool = False
    reason: str = ""


class Answered(Exception):
    """Carries the receiver's answer past the exporter's own retries: how long to wait is decided in one place, ours."""


def session() -> Any:
    """A requests.Session that notes the last answer as ``last_status`` / ``last_error`` and never has the exporter wait and retry."""
    import encodings.idna  # what the first request would import: nothing is imported while a request is out  # noqa: F401

    import requests

    class OneTry(requests.Session):
        last_status: int | None = None
        last_error: str = ""

        def request(self, *args: Any, **settings: Any) -> Any:
            self.last_status, self.last_error = None, ""
            if isinstance(self.verify, str):
                # What OTEL_EXPORTER_OTLP_CERTIFICATE says of this receiver; requests lets REQUESTS_CA_BUNDLE, which is for all, win over it.
                settings.setdefault("verify", self.verify)
            try:
                response = super().request(*args, **settings)
            except Exception as error:
                self.last_error = type(error).__name__
                raise Answered(self.last_error) from None
            finally:
                self.close()  # the pool's connections; it makes new ones
            self.last_status = response.status_code
            if response.status_code >= 300:
                raise Answered(str(response.status_code))
            return response

    made = OneTry()
    # Stalls are rare: an idle connection kept open would be closed by the receiver before the next one, and that try lost.
    made.headers["Connection"] = "close"
    return made


def endpoint(config: Config, signal: str) -> str:
    """Where ``signal`` (traces, logs, metrics) goes. A signal's own OTEL variable is used as it is, unless HANGWATCH_OTLP or code say otherwise."""
    specific = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    base = (config.otlp or "").rstrip("/")
    if specific and not os.environ.get("HANGWATCH_OTLP"):
        from_env = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or ""
        if base == from_env.rstrip("/").removesuffix("/v1/traces"):
            return specific
    return f"{base}/v1/{signal}"


def switched_off(signal: str) -> bool:
    """The standard variables can silence a signal, or everything."""
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return disabled or os.environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip().lower() == "none"


def breathe() -> None:
    """Lets the service's threads have the interpreter between two pieces of work, rather than after the 5 ms that they would have to wait
    for it otherwise. Really sleeps: who only lets go of the GIL mostly has it back before anybody wakes up."""
    if BREATH_S:  # 0 in a process of our own
        time.sleep(BREATH_S)


def outcome(success: bool, answered: Any) -> Outcome:
    """What the receiver's answer means for what was sent."""
    if success:
        return Outcome(True)
    status = getattr(answered, "last_status", None)
    reason = str(status or getattr(answered, "last_error", "") or "failed")
    return Outcome(False, status is None or status in LATER, reason)


class Providers:
    """One SDK provider for each resource, made when first needed, a bounded number of them."""

    def __init__(self, make: Callable[[Any], Made]) -> None:
        self._make = make
        self._made: dict[tuple[tuple[str, Value], ...], Any] = {}

    def of(self, attributes: dict[str, Value]) -> Any:
        key = tuple(sorted(attributes.items()))
        if key not in self._made:
            from opentelemetry.sdk.resources import Resource

            if len(self._made) >= MAX_PROVIDERS:
                self._made.pop(next(iter(self._made)))
            self._made[key] = self._make(Resource.create(dict(attributes)))
        return self._made[key]


@contextlib.contextmanager
def unobserved() -> Iterator[None]:
    """While inside, instrumentations of HTTP clients make no spans of what this thread sends."""
    from opentelemetry import context

    keys = [getattr(context, name, None) for name in ("_SUPPRESS_INSTRUMENTATION_KEY", "_SUPPRESS_HTTP_INSTRUMENTATION_KEY")]
    quiet = context.get_current()
    for key in filter(None, [*keys, "suppress_instrumentation"]):
        quiet = context.set_value(key, True, quiet)
    token = context.attach(quiet)
    try:
        yield
    finally:
        context.detach(token)


class Hush(logging.Filter):
    """Drops the records of one thread before any handler, and so any handler's lock, is reached."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()
        self._on: list[logging.Logger] = []

    def filter(self, record: logging.LogRecord) -> bool:
        return threading.get_ident() != self.thread

    def spread(self) -> None:
        """Onto every noisy logger that exists by now. A logger's filter sees only its own records, not its children's."""
        for name, logger in list(logging.root.manager.loggerDict.items()):
            if isinstance(logger, logging.Logger) and name.partition(".")[0] in NOISY and self not in logger.filters:
                logger.filters.append(self)
                self._on.append(logger)

    def lift(self) -> None:
        for logger in self._on:
            with contextlib.suppress(ValueError):
                logger.filters.remove(self)
        self._on.clear()
