"""tenacity: a call that is tried again and again sleeps most of the time, and each sleep by itself looks healthy."""

from __future__ import annotations

from hangwatch.integrations.base import Look, Sighting, Spot
from hangwatch.reading.view import number, plain
from hangwatch.records import Plain, Primitive

NAME = "tenacity"
DISTRIBUTION = "tenacity"
TESTED = ">=6,<10"


def _between(look: Look) -> Sighting | None:
    state, function, future = look.frame.local("retry_state"), look.frame.local("fn"), look.awaited
    sleeps = any(frame.name == "sleep" for frame in look.chain[look.index + 1 :])
    if state is None or function is None or future is None or not sleeps:
        return None
    code = function.attr("__code__")
    name = plain(function, "__qualname__") or plain(function, "__name__")
    tried = (number(state, "attempt_number") or 1) - 1  # counted on before it sleeps
    facts: dict[str, Plain] = {
        "attempts": tried,
        "function": name,
        "file": plain(code, "co_filename"),
        "line": number(code, "co_firstlineno"),
    }
    label = f"the next attempt of {name}()" if name else "its next attempt"
    return Sighting(Primitive(look.desk.id_of("timer", future), "timer", label, NAME, facts), "sleep")


WAITS = (
    Spot("/tenacity/asyncio/__init__.py", "__call__", _between, target="tenacity.asyncio:AsyncRetrying.__call__"),
    Spot("/tenacity/_asyncio.py", "__call__", _between),  # up to 8.3
)
