"""One frozen Config: every setting, its unit, its default and why that default."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hangwatch.errors import ConfigError


def default_spool() -> Path:
    """``$XDG_STATE_HOME/hangwatch`` or ``~/.local/state/hangwatch``; a folder in /tmp for users without a home."""
    state = os.environ.get("XDG_STATE_HOME")
    home = os.path.expanduser("~")
    if state:
        return Path(state) / "hangwatch"
    if os.path.isdir(home) and os.access(home, os.W_OK):
        return Path(home) / ".local" / "state" / "hangwatch"
    import tempfile  # costs more than all else here, and `hangwatch attach` is waited for

    return Path(tempfile.gettempdir()) / f"hangwatch-{os.getuid()}"


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of the agent. Seconds unless the name says otherwise. Build one with ``Config.make(**settings)``."""

    #: A request older than this is stalled. 10 s: beyond what a person waits for, well before the 30 s at which
    #: gunicorn kills the worker and the evidence with it.
    stall_after: float = 10.0
    #: A loop that gave no sign of life for this long is blocked. 0.5 s: far above GC and scheduling noise.
    loop_after: float = 0.5
    #: Limits by route pattern (``*`` matches within the path), seconds or None for never; the first match wins.
    routes: tuple[tuple[str, float | None], ...] = ()
    #: Time the lifespan start-up may take. 60 s: migrations and model loading are normal at start-up. 4 x stall_after where only
    #: that is given and less.
    startup_after: float | None = 60.0
    #: Time from the stop signal to the end. 20 s: under Kubernetes' 30 s grace, so that it is seen before SIGKILL.
    #: 2 x stall_after where only that is given and less.
    shutdown_after: float | None = 20.0
    #: Where incidents are kept.
    spool: Path = dataclasses.field(default_factory=default_spool)
    #: The spool keeps at most this much and this long; the oldest goes first.
    spool_max_mb: float = 200.0
    spool_max_days: float = 14.0
    #: ``service.name`` of what is exported and stored.
    service: str = ""
    #: Base URL of an OTLP/HTTP receiver; None exports nothing.
    otlp: str | None = None
    #: Stall reports as span events, as log records, or both (back-ends are moving from the first to the second).
    events: str = "both"
    #: A port for Prometheus to scrape, from a thread of its own (so it answers while the loop is blocked); None: no endpoint. Several
    #: workers take this port and those after it. Loopback: metrics name routes.
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    #: Send metrics to ``otlp`` as well. Off: it would import OpenTelemetry (some 15 MB) in workers where nothing ever stalls.
    metrics_otlp: bool = False
    #: How ``otlp`` is spoken: http/protobuf, or grpc where opentelemetry-exporter-otlp-proto-grpc is installed (24 MB more, and gRPC's
    #: own trouble with forks).
    otlp_protocol: str = "http/protobuf"
    #: In a flood (more than some thirty incidents at once), export from a short-lived process at the lowest priority rather than from
    #: a thread that shares the service's interpreter. It needs some 50 MB for some seconds; where those are not to be had, switch it off.
    courier: bool = True
    #: POST a JSON message to this URL when something hangs; once for each fingerprint in ``webhook_every`` seconds, however many
    #: workers of this spool see it. An hour: who was called knows.
    webhook: str | None = None
    webhook_every: float = 3600.0
    #: Run py-spy at a stall. It stops the process for some 5 ms, so at most ``pyspy_per_hour`` times.
    pyspy: bool = True
    pyspy_native: bool = False
    pyspy_per_hour: int = 12
    #: Re-arm faulthandler's timer at each beat, so that stacks are on disk even while native code holds the GIL. It fires after 2 s of
    #: silence at the earliest; where processes are suspended or starved for longer while Python runs in them, switch it off: it reads
    #: stacks without the GIL, and CPython can crash when they change meanwhile.
    faulthandler: bool = True
    #: Ring of set/clear/notify/acquire/release entries kept for lost wake-ups; 0 switches the recording off.
    ring: int = 4096
    #: Requests followed at once; what comes beyond is counted as dropped, not followed.
    max_requests: int = 10_000
    #: The same fingerprint is stored again at most this often; in between its count goes up.
    again_after: float = 60.0
    #: A socket for `hangwatch attach` (0600, same uid only).
    control: bool = True
    #: aiomonitor's console on loopback, over telnet at ``console_port`` or the first free port after it (other workers).
    console: bool = False
    console_port: int = 20101
    #: What the console may do beyond looking: any of cancel (a task), repl (Python in this process), signal. Whoever reaches the port
    #: may, as it asks nobody who they are.
    console_allows: tuple[str, ...] = ()
    #: Store the source lines' paths, never values: query strings only when asked for.
    query_strings: bool = False

    @classmethod
    def make(cls, environ: Mapping[str, str] | None = None, **settings: Any) -> Config:
        """The environment's settings, overridden by ``settings``. Raises ConfigError with what would be right."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise ConfigError(f"unknown setting {', '.join(unknown)}", f"Known settings: {', '.join(sorted(known))}.")
        merged = {**from_env(os.environ if environ is None else environ), **settings}
        if "stall_after" in merged:
            _follow_stall_after(merged)
        return cls(**{name: _checked(name, value) for name, value in merged.items()})

    def limit_for(self, path: str) -> float | None:
        """Seconds a request to this path may take, None for no limit."""
        for pattern, limit in self.routes:
            if _matches(pattern, path):
                return limit
        return self.stall_after

    def route_of(self, path: str) -> str | None:
        """The first route pattern that this path matches."""
        return next((pattern for pattern, _ in self.routes if _matches(pattern, path)), None)


def _matches(pattern: str, path: str) -> bool:
    """``/reports/*`` matches below /reports, ``/users/{id}`` one segment; without either, the exact path."""
    if not any(c in pattern for c in "*{"):
        return path == pattern
    parts = re.split(r"(\*|\{[^}]*\})", pattern)
    regex = "".join(".*" if p == "*" else "[^/]+" if p.startswith("{") else re.escape(p) for p in parts)
    return re.fullmatch(regex, path) is not None


def from_env(environ: Mapping[str, str]) -> dict[str, Any]:
    """The settings that HANGWATCH_* (and OTEL_*) variables give. Raises ConfigError on a value of the wrong form."""
    found: dict[str, Any] = {}
    names = {
        "HANGWATCH_SPOOL": "spool",
        "HANGWATCH_STALL_AFTER": "stall_after",
        "HANGWATCH_LOOP_AFTER": "loop_after",
        "HANGWATCH_ROUTES": "routes",
        "HANGWATCH_SERVICE": "service",
        "HANGWATCH_STARTUP_AFTER": "startup_after",
        "HANGWATCH_SHUTDOWN_AFTER": "shutdown_after",
        "HANGWATCH_PYSPY": "pyspy",
        "HANGWATCH_PYSPY_NATIVE": "pyspy_native",
        "HANGWATCH_FAULTHANDLER": "faulthandler",
        "HANGWATCH_RING": "ring",
        "HANGWATCH_EVENTS": "events",
        "HANGWATCH_CONSOLE": "console",
        "HANGWATCH_CONSOLE_PORT": "console_port",
        "HANGWATCH_CONSOLE_ALLOWS": "console_allows",
        "HANGWATCH_OTLP": "otlp",
        "HANGWATCH_METRICS_PORT": "metrics_port",
        "HANGWATCH_METRICS_HOST": "metrics_host",
        "HANGWATCH_METRICS_OTLP": "metrics_otlp",
        "HANGWATCH_OTLP_PROTOCOL": "otlp_protocol",
        "HANGWATCH_COURIER": "courier",
        "HANGWATCH_WEBHOOK": "webhook",
        "HANGWATCH_WEBHOOK_EVERY": "webhook_every",
    }
    for variable, name in names.items():
        if environ.get(variable):
            found[name] = environ[variable]
    traces = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if "otlp" not in found and (traces or base):
        found["otlp"] = base or traces
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    # Others (http/json) are for SDKs that have them; what we can is sent as we can.
    if "otlp_protocol" not in found and protocol in PROTOCOLS:
        found["otlp_protocol"] = protocol
    if "service" not in found and environ.get("OTEL_SERVICE_NAME"):
        found["service"] = environ["OTEL_SERVICE_NAME"]
    return found


PROTOCOLS = ("http/protobuf", "grpc")
CONSOLE_WORDS = frozenset({"cancel", "repl", "signal"})
_SECONDS = {"stall_after", "loop_after", "startup_after", "shutdown_after", "again_after", "webhook_every"}
_OPTIONAL_SECONDS = {"startup_after", "shutdown_after"}
_FLAGS = {"pyspy", "pyspy_native", "faulthandler", "control", "console", "query_strings", "metrics_otlp", "courier"}
_COUNTS = {"ring", "max_requests", "pyspy_per_hour"}
_SIZES = {"spool_max_mb", "spool_max_days"}


def _follow_stall_after(merged: dict[str, Any]) -> None:
    """Who wants to hear early of stalls wants to hear early of a start and an end that stall, unless they say otherwise."""
    stall_after = _number("stall_after", merged["stall_after"])
    if stall_after < 10.0:
        merged.setdefault("startup_after", 4 * stall_after)
        merged.setdefault("shutdown_after", 2 * stall_after)


def _checked(name: str, value: Any) -> Any:
    """The value in its right type. Every branch names the setting, the value and what would be accepted."""
    if name in _OPTIONAL_SECONDS and (value is None or str(value).lower() == "none"):
        return None
    if name in _SECONDS or name in _SIZES:
        return _number(name, value)
    if name in _FLAGS:
        return _flag(name, value)
    if name in _COUNTS:
        number = _number(name, value, zero=True)
        return int(number)
    if name == "metrics_port":
        return _port(value)
    if name == "console_port":
        return _port(value) or 0
    if name == "console_allows":
        return _allowed(value)
    if name == "spool":
        return Path(value).expanduser()
    if name == "routes":
        return _routes(value)
    if name == "otlp":
        return _url(value)
    if name == "otlp_protocol" and value not in PROTOCOLS:
        raise ConfigError(f"otlp_protocol is {' or '.join(PROTOCOLS)}, not {value!r}")
    if name == "webhook":
        return _webhook(value)
    if name == "events" and value not in ("span", "logs", "both"):
        raise ConfigError(f"events is span, logs or both, not {value!r}")
    return value


def _number(name: str, value: Any, zero: bool = False) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} is a number, not {value!r}") from None
    if not (0 <= number < 1e9) or (number == 0 and not zero):
        raise ConfigError(f"{name} must be above 0, not {value!r}")
    return number


def _allowed(value: Any) -> tuple[str, ...]:
    """From ``cancel,repl`` or a sequence."""
    words = tuple(word.strip() for word in (value.split(",") if isinstance(value, str) else value))
    unknown = sorted(set(words) - CONSOLE_WORDS)
    if unknown:
        raise ConfigError(f"console_allows has {', '.join(sorted(CONSOLE_WORDS))}, not {', '.join(unknown)}")
    return words


def _port(value: Any) -> int | None:
    """0 takes any free port (the endpoint says which)."""
    if value is None or str(value).strip().lower() == "none":
        return None
    try:
        port = int(value)
    except (TypeError, ValueError):
        raise ConfigError(f"a port is a number, not {value!r}") from None
    if not 0 <= port <= 65535:
        raise ConfigError(f"a port is between 0 and 65535, not {value!r}")
    return port


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ConfigError(f"{name} is true or false, not {value!r}")


def _routes(value: Any) -> tuple[tuple[str, float | None], ...]:
    """From ``/reports/yearly=60,/events=none``, a mapping, or pairs."""
    if isinstance(value, str):
        pairs: list[Any] = [item.rpartition("=")[::2] for item in value.split(",") if item.strip()]
    elif isinstance(value, Mapping):
        pairs = list(value.items())
    else:
        pairs = list(value)
    checked = []
    for pair in pairs:
        try:
            pattern, limit = pair
            pattern = pattern.strip()
        except (TypeError, ValueError, AttributeError):
            raise ConfigError(f"a route limit is a pattern and seconds, not {pair!r}") from None
        if not pattern.startswith("/"):
            raise ConfigError(f"a route pattern begins with '/', not {pattern!r}", "Example: /reports/yearly=60,/events=none")
        never = limit is None or str(limit).strip().lower() == "none"
        checked.append((pattern, None if never else _number(f"limit of {pattern}", limit)))
    return tuple(checked)


def _url(value: Any) -> str | None:
    if value is None:
        return None
    parts = urlsplit(str(value))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{value!r} is not an OTLP/HTTP address", "It looks like http://collector:4318 (the /v1/traces path is added).")
    return str(value).rstrip("/").removesuffix("/v1/traces")


def _webhook(value: Any) -> str | None:
    """The value is not repeated in the error: webhooks carry their secret in the address."""
    if value is None:
        return None
    try:
        parts = urlsplit(str(value))
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError("webhook is not an http(s) address", "It looks like https://chat.example.org/hooks/abc.")
    return str(value)
