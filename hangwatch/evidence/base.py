"""What a capture is given."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

_HOUR_S = 3600.0

#: Threads of the agent itself are called so; what looks at its own process leaves them out.
OWN_THREADS = "hangwatch"


class Budget:
    """At most ``per_hour`` runs in any hour. Its owner (the agent) keeps it over many captures; not shared by threads.

    ``skipped`` counts the runs that were not granted.
    """

    def __init__(self, per_hour: int) -> None:
        self.per_hour = per_hour
        self.skipped = 0
        self._runs: deque[float] = deque(maxlen=max(per_hour, 1))

    def take(self, now_s: float) -> bool:
        """Grants one run at ``now_s`` (any clock in seconds that does not go back) or counts it as skipped."""
        while self._runs and now_s - self._runs[0] >= _HOUR_S:
            self._runs.popleft()
        if len(self._runs) >= self.per_hour:
            self.skipped += 1
            return False
        self._runs.append(now_s)
        return True


@dataclass(frozen=True, slots=True)
class Target:
    """The process to look at. ``deadline_s`` bounds one capture; ``faulthandler_file`` is the file its C timer writes to.

    ``pyspy_budget`` limits how often py-spy may stop the process; None: whenever asked (a person did).
    """

    pid: int
    deadline_s: float = 5.0
    native: bool = False
    faulthandler_file: Path | None = None
    loop_native_ids: tuple[int, ...] = ()
    pyspy_budget: Budget | None = None
