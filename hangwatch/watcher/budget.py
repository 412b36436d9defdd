"""How much of the machine the watcher may take, and how often it may speak."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_MINUTE_S = 60.0


class RateLimit:
    """At most ``per_minute`` in any minute; ``refused`` counts the others. 0 is no limit."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self.refused = 0
        self._taken: deque[float] = deque()

    def take(self, now_s: float) -> bool:
        while self._taken and now_s - self._taken[0] >= _MINUTE_S:
            self._taken.popleft()
        if self.per_minute and len(self._taken) >= self.per_minute:
            self.refused += 1
            return False
        self._taken.append(now_s)
        return True


class CpuBudget:
    """Stretches the pauses between readings when they cost more than ``share`` of one CPU.

    Only the calling thread's CPU time counts: an examination is somebody's answer and limited by `RateLimit`.
    """

    #: A stall is still told while it lasts when a reading comes this late; more than that is not saved.
    LONGEST_S = 1.0

    def __init__(
        self, share: float, clock: Callable[[], float] = time.monotonic, cpu_clock: Callable[[], float] = time.thread_time
    ) -> None:
        self.share = share
        self.stretch = 1.0
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._window: deque[tuple[float, float]] = deque()

    def used(self) -> float:
        """Share of one CPU over the last ten seconds or so."""
        if len(self._window) < 2:
            return 0.0
        (first, cpu), (last, cpu_now) = self._window[0], self._window[-1]
        return (cpu_now - cpu) / (last - first) if last > first else 0.0

    def pause_s(self, wanted_s: float) -> float:
        """The pause to make where ``wanted_s`` would be right."""
        now = self._clock()
        if not self._window or now - self._window[-1][0] >= 1.0:
            self._window.append((now, self._cpu_clock()))
            while len(self._window) > 11:
                self._window.popleft()
            used = self.used()
            if used > self.share:
                self.stretch = min(self.stretch * 1.5, 20.0)
            elif used < self.share * 0.6:
                self.stretch = max(self.stretch / 1.5, 1.0)
        return max(wanted_s, min(wanted_s * self.stretch, self.LONGEST_S))
