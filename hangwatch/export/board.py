"""What is measured, and the families it makes. Written by the watchdog (`tick`) and the reporter (`opened`, `closed`), read by whoever exports.

Nothing is measured on a loop's thread: numbers are read off the ledger when somebody asks, and the watchdog's own beat is the only clock,
so all of it can be read while the loop is blocked.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hangwatch import names
from hangwatch.config import Config
from hangwatch.export.families import Exemplar, Family, Histogram, Labels, Point
from hangwatch.integrations import uvicorn_hooks
from hangwatch.ledger import Follow, Ledger
from hangwatch.records import Incident

#: Silence of a loop in seconds: from what a tick can tell apart to what people call an outage.
LAG_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
STALL_BOUNDS = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
#: Distinct routes; paths with ids in them would make a new series for every request.
MAX_ROUTES = 50
OTHER_ROUTE = "_other"
_ID = re.compile(r"/(?:\d+|[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|[0-9a-fA-F]{16,}|[^/]{40,})(?=/|$)")
OWN_THREADS = "hangwatch-"


@dataclass(slots=True)
class _Open:
    cause: str
    parked: int
    pools: tuple[tuple[str, int, int], ...]
    exemplar: Exemplar | None
    opened_at: float


class Board:
    """``silences`` gives, for each loop's id, ns since its last sign of life; ``export_counts`` what the exporters sent and dropped."""

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        silences: Callable[[], Mapping[str, int]] = dict,
        export_counts: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        #: When counting began, ns since the epoch.
        self.began_ns = time.time_ns()
        self._config = config
        self._ledger = ledger
        self._silences = silences
        self._export_counts = export_counts
        self._lag: dict[str, Histogram] = {}
        self._gil = Histogram(LAG_BOUNDS)
        self._durations: dict[str, Histogram] = {}
        self._incidents: Counter[str] = Counter()
        self._latest: dict[str, Exemplar] = {}
        self._open: dict[str, _Open] = {}
        self._routes: set[str] = set()
        self._cpu: dict[str, tuple[int, int]] = {}
        self._utilization: dict[str, float] = {}
        self._last_ns = 0
        self._gc_seen_ns = 0
        self._gc_ns = 0

    # written

    def tick(self, now_ns: int, period_s: float) -> None:
        """After each of the watchdog's beats. What it is late beyond its period, it waited for the GIL or a CPU."""
        if self._last_ns:
            self._gil.observe(max(0.0, (now_ns - self._last_ns) / 1e9 - period_s))
        self._last_ns = now_ns
        for loop_id, silence_ns in self._silences().items():
            self._lag.setdefault(loop_id, Histogram(LAG_BOUNDS)).observe(silence_ns / 1e9)
        for ended_ns, took_ns in list(self._ledger.pauses):
            if ended_ns > self._gc_seen_ns:
                self._gc_seen_ns, self._gc_ns = ended_ns, self._gc_ns + took_ns
        self._look_at_cpu(now_ns)

    def _look_at_cpu(self, now_ns: int) -> None:
        """CPU time of each loop's thread, over a second at least."""
        alive = {mark.id: mark.ident for mark in list(self._ledger.loops.values())}
        for loop_id in [loop_id for loop_id in self._lag if loop_id not in alive]:
            del self._lag[loop_id]
            self._cpu.pop(loop_id, None)
            self._utilization.pop(loop_id, None)
        for loop_id, ident in alive.items():
            then_ns, then_cpu_ns = self._cpu.get(loop_id, (0, 0))
            if now_ns - then_ns >= 1_000_000_000:
                cpu_ns = thread_cpu_ns(ident)
                if then_ns:
                    self._utilization[loop_id] = min(1.0, max(0, cpu_ns - then_cpu_ns) / (now_ns - then_ns))
                self._cpu[loop_id] = (now_ns, cpu_ns)

    def opened(self, incident: Incident, exemplar: Exemplar | None) -> None:
        finding = incident.findings[0] if incident.findings else None
        cause = finding.cause if finding else "unknown"
        self._incidents[cause] += 1
        if exemplar is not None:
            self._latest[cause] = exemplar
        pools = tuple(
            (p.label or p.kind, p.in_use, p.capacity) for p in incident.snapshot.primitives if p.in_use is not None and p.capacity
        )
        parked = max(1, finding.frees if finding else 1, incident.count)
        self._open[incident.id] = _Open(cause, parked, pools[:20], exemplar, incident.opened_at)
        while len(self._open) > 200:
            self._open.pop(next(iter(self._open)))

    def closed(self, incident: Incident) -> None:
        known = self._open.pop(incident.id, None)
        if known is None or incident.closed_at is None:
            return
        lasted_s = max(0.0, incident.closed_at - incident.opened_at)
        exemplar = known.exemplar and Exemplar(lasted_s, known.exemplar.at_ns, known.exemplar.trace_id, known.exemplar.span_id)
        self._durations.setdefault(known.cause, Histogram(STALL_BOUNDS)).observe(lasted_s, exemplar)

    # read

    def families(self, now_ns: int | None = None) -> list[Family]:
        """All of it, now. Callable from any thread."""
        now_ns = time.monotonic_ns() if now_ns is None else now_ns
        return [*self._of_loops(), *self._of_requests(now_ns), *self._of_incidents(), *self._of_process()]

    def _of_loops(self) -> list[Family]:
        numbers = {mark.id: str(n) for n, mark in enumerate(sorted(self._ledger.loops.values(), key=lambda m: m.started_ns))}
        lags = tuple(h.state(((names.LOOP, numbers.get(loop_id, "?")),)) for loop_id, h in list(self._lag.items()))
        silences = tuple(Point(((names.LOOP, numbers.get(loop_id, "?")),), ns / 1e9) for loop_id, ns in self._silences().items())
        shares = tuple(Point(((names.LOOP, numbers.get(loop_id, "?")),), share) for loop_id, share in list(self._utilization.items()))
        lag_help = "Age of the loop's last sign of life, as each beat of the watchdog found it."
        return [
            Family(names.METRIC_LOOP_LAG, "histogram", "s", lag_help, distributions=lags),
            Family(names.METRIC_LOOP_SILENCE, "gauge", "s", "Age of the loop's last sign of life now.", silences),
            Family(names.METRIC_LOOP_UTILIZATION, "gauge", "1", "Share of a CPU that the loop's thread used.", shares),
        ]

    def _of_requests(self, now_ns: int) -> list[Family]:
        in_flight: Counter[str] = Counter()
        stalled: Counter[str] = Counter()
        oldest_ns = now_ns
        for subject, since_ns in list(self._ledger.begun.items()):
            in_flight[self._route(subject)] += 1
            oldest_ns = min(oldest_ns, since_ns)
        for subject, follow in list(self._ledger.followed.items()):
            route = self._route(subject)
            in_flight[route] += 1
            stalled[route] += _stalled(follow, now_ns)
            if follow.limit_ns is not None:
                oldest_ns = min(oldest_ns, follow.since_ns)
        return [
            Family(
                names.METRIC_REQUESTS_IN_FLIGHT, "gauge", "{request}", "Requests begun and not ended.", _points(names.HTTP_ROUTE, in_flight)
            ),
            Family(names.METRIC_REQUESTS_STALLED, "gauge", "{request}", "Requests past their limit.", _points(names.HTTP_ROUTE, stalled)),
            Family(
                names.METRIC_REQUEST_OLDEST,
                "gauge",
                "s",
                "Age of the oldest request that has a limit.",
                (Point((), (now_ns - oldest_ns) / 1e9),),
            ),
        ]

    def _route(self, subject: Any) -> str:
        path = ""
        with contextlib.suppress(Exception):
            path = uvicorn_hooks.path_of(subject)
        route = self._config.route_of(path) or _ID.sub("/{id}", path)
        if route not in self._routes:
            if len(self._routes) >= MAX_ROUTES:
                return OTHER_ROUTE
            self._routes.add(route)
        return route

    def _of_incidents(self) -> list[Family]:
        opened = list(self._open.values())
        parked: Counter[str] = Counter()
        for known in opened:
            parked[known.cause] += known.parked
        pools = {label: (in_use, capacity) for known in opened for label, in_use, capacity in known.pools}
        counted = tuple(Point(((names.CAUSE, cause),), n, self._latest.get(cause)) for cause, n in list(self._incidents.items()))
        durations = tuple(h.state(((names.CAUSE, cause),)) for cause, h in list(self._durations.items()))
        in_use = tuple(Point(((names.POOL, label),), n) for label, (n, _) in pools.items())
        capacity = tuple(Point(((names.POOL, label),), n) for label, (_, n) in pools.items())
        open_now = _points(names.CAUSE, Counter(known.cause for known in opened))
        oldest = {known.cause: min(o.opened_at for o in opened if o.cause == known.cause) for known in opened}
        ages = tuple(Point(((names.CAUSE, cause),), max(0.0, time.time() - since)) for cause, since in sorted(oldest.items()))
        return [
            Family(names.METRIC_INCIDENT_OLDEST, "gauge", "s", "Age of the oldest incident that has not ended.", ages),
            Family(names.METRIC_INCIDENTS, "counter", "{incident}", "Incidents by cause.", counted),
            Family(names.METRIC_INCIDENTS_OPEN, "gauge", "{incident}", "Incidents that have not ended.", open_now),
            Family(names.METRIC_PARKED, "gauge", "{task}", "Waiters that open incidents hold up.", _points(names.CAUSE, parked)),
            Family(names.METRIC_STALL_DURATION, "histogram", "s", "How long stalls lasted.", distributions=durations),
            Family(names.METRIC_POOL_IN_USE, "gauge", "{resource}", "In use when an open incident was seen.", in_use),
            Family(names.METRIC_POOL_CAPACITY, "gauge", "{resource}", "Capacity of the same.", capacity),
        ]

    def _of_process(self) -> list[Family]:
        dropped = Counter(dict(self._ledger.dropped))
        exported: Counter[str] = Counter()
        for name, n in self._export_counts().items():
            if not name.endswith(("_waiting", "_started")):
                (exported if name.endswith("_sent") else dropped)[name] += n
        return [
            Family(
                names.METRIC_GIL_WAIT,
                "histogram",
                "s",
                "How late the watchdog's beat was: waits for the GIL or a CPU.",
                (),
                (self._gil.state(()),),
            ),
            Family(
                names.METRIC_GC_PAUSE, "counter", "s", "Time in garbage collections of 20 ms and more.", (Point((), self._gc_ns / 1e9),)
            ),
            Family(names.METRIC_OWN_CPU, "counter", "s", "CPU time of hangwatch's own threads.", (Point((), own_cpu_s()),)),
            Family(names.METRIC_DROPPED, "counter", "{item}", "What hangwatch left out, by what it was.", _points(names.WHAT, dropped)),
            Family(names.METRIC_EXPORTED, "counter", "{item}", "What was sent.", _points(names.WHAT, exported)),
        ]


def _stalled(follow: Follow, now_ns: int) -> bool:
    return follow.limit_ns is not None and follow.ended_ns is None and now_ns - follow.since_ns >= follow.limit_ns


def _points(label: str, counts: Counter[str]) -> tuple[Point, ...]:
    labels: list[tuple[Labels, int]] = [(((label, word),), n) for word, n in sorted(counts.items())]
    return tuple(Point(of, n) for of, n in labels)


def thread_cpu_ns(ident: int) -> int:
    """CPU time of a live thread of this process; 0 when it cannot be told."""
    with contextlib.suppress(Exception):
        return time.clock_gettime_ns(time.pthread_getcpuclockid(ident))
    return 0


def own_cpu_s() -> float:
    """CPU time of our threads. From the interpreter's own table: ``threading.enumerate`` takes a lock."""
    threads = list(getattr(threading, "_active", {}).items())
    return sum(thread_cpu_ns(ident) for ident, thread in threads if thread.name.startswith(OWN_THREADS)) / 1e9
