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
    """Stretches the pauses between readings when those cost more than ``share`` of one CPU.

    Only what is reported to `spent` counts: a process that comes or an examination is worth its price, and rare.
    """

    #: Above this, what is saved is no longer worth the delay.
    LONGEST_S = 1.0
    WINDOW_S = 10.0

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.share = share
        self.stretch = 1.0
        self._clock = clock
        self._spent: deque[tuple[float, float]] = deque()
        self._sum_s = 0.0
        self._begun = self._judged = clock()

    def spent(self, cpu_s: float) -> None:
        now = self._clock()
        self._spent.append((now, cpu_s))
        self._sum_s += cpu_s
        while self._spent and now - self._spent[0][0] > self.WINDOW_S:
            self._sum_s -= self._spent.popleft()[1]

    def used(self) -> float:
        """Share of one CPU over the last ten seconds; 0 until some of them have passed."""
        passed = min(self._clock() - self._begun, self.WINDOW_S)
        return self._sum_s / passed if passed >= self.WINDOW_S / 4 else 0.0

    def pause_s(self, wanted_s: float) -> float:
        """The pause to make where ``wanted_s`` would be right."""
        now = self._clock()
        if now - self._judged >= 1.0:
            self._judged = now
            used = self.used()
            if used > self.share:
                self.stretch = min(self.stretch * 1.5, 20.0)
            elif used < self.share * 0.6:
                self.stretch = max(self.stretch / 1.5, 1.0)
        return max(wanted_s, min(wanted_s * self.stretch, self.LONGEST_S))
