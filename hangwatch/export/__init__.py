"""Incidents -> OpenTelemetry, from a thread of its own. OpenTelemetry is imported there, on first use, never before.

The thread that detects a stall calls `Exporters.offer`: it makes plain values, writes one small file to the spool's outbox, and appends to
a deque. It never calls the SDK or logging (a stuck main thread may hold a handler's lock) and never waits for the network. In a flood it
makes notes instead, which a process of its own sends (see `handover`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from hangwatch import names
from hangwatch.config import Config
from hangwatch.export import forks, notes
from hangwatch.export.families import Exemplar
from hangwatch.export.handover import GATHER_S as GATHER_NOTES_S
from hangwatch.export.handover import Handover, unfold
from hangwatch.export.lanes import BATCH, MAX_QUEUED, lanes_to
from hangwatch.export.outbox import Outbox
from hangwatch.export.specs import Parcel, Value, clean
from hangwatch.export.webhook import Notifier
from hangwatch.export.wire import Hush, switched_off
from hangwatch.records import Incident

if TYPE_CHECKING:
    from hangwatch.export.board import Board
    from hangwatch.export.metrics import MetricSender

__all__ = ["THREAD_NAME", "Exporters"]

THREAD_NAME = "hangwatch-export"
#: One try at one request. The receiver is a collector nearby; one that needs longer is in trouble, and the spool keeps what it misses.
SEND_TIMEOUT_S = 5.0
#: Now and then, what a worker that was killed meanwhile left is taken over.
TAKE_OVER_EVERY_S = 300.0
#: After a request, what comes within this long goes together: in a flood, one request for many incidents costs the service less.
GATHER_S = 0.25
#: A courier at work is looked after so often.
COURIER_EVERY_S = 0.5
#: An incident offered again (its count went up) is told once; this many ids are remembered.
MAX_TOLD = 2000


def metrics_every_s() -> float:
    """The standard variable gives milliseconds; 60 s where it does not."""
    try:
        return max(1.0, float(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", "")) / 1000)
    except ValueError:
        return 60.0


class Exporters:
    """All exporters of one process. Inert without ``config.otlp`` and ``config.webhook``.

    ``store`` is not needed to send: what is sent is kept in the outbox beside it. ``resource``: attributes added to every resource.
    ``board`` is told of every incident; with ``config.metrics_otlp`` its metrics are sent too.
    Safe across fork: the child starts empty, with a folder and a thread of its own at its first offer.
    """

    def __init__(self, config: Config, store: Any = None, resource: dict[str, Value] | None = None, board: Board | None = None) -> None:
        self.config = config
        self.board = board
        self.resource = dict(resource or {})
        self.store = store
        self.failed = 0
        self.notifier = Notifier(config)
        self._told: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._closing = False
        self._fresh()
        forks.tell(self)

    def _fresh(self) -> None:
        self._outbox = Outbox(self.config.spool)
        self._lanes = lanes_to(self.config, self._outbox, SEND_TIMEOUT_S)
        self._flood = notes.Flood()
        self._handover = Handover(self.config, self._outbox, self.resource)
        self._noted_at = float("inf")  # monotonic, of the oldest note that waits
        self.notes_dropped = 0
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None
        self._flush_until: float | None = None
        self._metrics: MetricSender | None = None
        self.metrics_sent = self.metrics_failures = 0

    def offer(self, incident: Incident) -> None:
        """Tells of a stall. Never raises, never waits; the same incident again is told once."""
        self.notifier.offer(incident)
        self._take(incident, "stall", "", 0)

    def recovered(self, incident: Incident, how: str = "recovered") -> None:
        """Tells of a stall's end, at ``incident.closed_at`` (now where that is None). ``how``: recovered, shutdown or killed."""
        if how == "killed":  # its own process may not have come so far
            self.notifier.offer(incident)
        ended_at = incident.closed_at if incident.closed_at is not None else time.time()
        self._take(incident, "ended", how, int(ended_at * 1e9))

    def _take(self, incident: Incident, part: str, how: str, ended_ns: int) -> None:
        if (self.config.otlp is None and self.board is None) or self._closing:
            return
        try:
            key = (incident.id, part)
            if key in self._told:
                return
            self._told[key] = None
            if len(self._told) > MAX_TOLD:
                self._told.popitem(last=False)
            noted = self._note(incident, how, ended_ns)
            made = [] if noted or self.config.otlp is None else notes.made(incident, self.config, self.resource, how, ended_ns)
            self._count(incident, part, made)
            for parcel in made:
                self._lanes[parcel.signal].put(parcel, self._outbox.add(parcel))
            if made or noted:
                self._start()
            if made:
                self._wake.set()
        except Exception:
            self.failed += 1

    def _note(self, incident: Incident, how: str, ended_ns: int) -> bool:
        """In a flood, and where the spool has it, that it is to be told is all that is kept here. True: so it is."""
        if self.config.otlp is None or not self._flood.rises() or self.store is None or not self.store.has(incident.id):
            return False
        name = notes.name_of(incident.id, how, ended_ns)
        if name is None or not self._outbox.add_note(name):
            return False
        if self._noted_at == float("inf"):
            self._noted_at = time.monotonic()
            self._wake.set()
        return True

    def _count(self, incident: Incident, part: str, made: list[Parcel]) -> None:
        if self.board is None:
            return
        if part == "ended":
            self.board.closed(incident)
            return
        span = next((spans[0] for parcel in made if (spans := parcel.spans)), None)
        age_s = (incident.snapshot.at_ns - incident.stall.since_ns) / 1e9
        self.board.opened(incident, Exemplar(age_s, span.end_ns, span.trace_id, span.span_id) if span else None)

    def resume(self) -> None:
        """Starts sending what an ended process left in the outbox, if anything. Call it in the worker, after fork."""
        if self.config.otlp is None or self._closing:
            return
        with contextlib.suppress(Exception):
            if self._sends_metrics() or self._outbox.has_orphans():
                self._start()

    def _sends_metrics(self) -> bool:
        return self.board is not None and self.config.metrics_otlp and self.config.otlp is not None and not switched_off("metrics")

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
            self._thread.start()

    def counts(self) -> dict[str, int]:
        """What was sent, waits, and was dropped, by signal: ``{"traces_sent": 3, "logs_dropped": 0, ...}``."""
        found = {"failed": self.failed, "outbox_dropped": self._outbox.dropped, **self.notifier.counts()}
        found |= {"metrics_sent": self.metrics_sent, "metrics_failures": self.metrics_failures}
        found |= {
            "notes_waiting": self._outbox.notes_waiting(),
            "notes_dropped": self.notes_dropped,
            "couriers_started": self._handover.couriers,
        }
        for name, lane in self._lanes.items():
            found |= {
                f"{name}_sent": lane.sent,
                f"{name}_waiting": len(lane.pending),
                f"{name}_dropped": lane.dropped,
                f"{name}_refused": lane.refused,
                f"{name}_failures": lane.failures,
            }
        for name, n in self._handover.counts.items():
            found[name] = found.get(name, 0) + n
        return found

    def close(self, timeout_s: float = 2.0) -> bool:
        """Sends what waits, for at most ``timeout_s``; what is left stays in the spool. True when nothing is left. Offers nothing after."""
        self._closing = True
        thread = self._thread
        self._flush_until = time.monotonic() + timeout_s
        self._hurry.set()
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)
        else:
            self._outbox.close()
        self.notifier.close(max(0.0, self._flush_until - time.monotonic()))
        left = any(lane.pending or lane.behind for lane in self._lanes.values())
        return not (left or self._handover.under_way or self._noted_at < float("inf"))

    def _run(self) -> None:
        hush = Hush()
        try:
            self._loop(hush)
        except Exception:
            self.failed += 1
        finally:
            hush.lift()
            for lane in self._lanes.values():
                with contextlib.suppress(Exception):
                    lane.close()
            if self._closing:
                self._outbox.close()

    def _loop(self, hush: Hush) -> None:
        take_over_at = 0.0
        metrics_at = time.monotonic() + metrics_every_s() if self._sends_metrics() else float("inf")
        while True:
            self._wake.clear()
            now = time.monotonic()
            if now >= take_over_at and self._flush_until is None:
                take_over_at = now + TAKE_OVER_EVERY_S
                if self._outbox.take_over():
                    self._look_at_disk(now)
            flush_until = self._flush_until  # before the round: what was put before close() was called is in it
            if now >= metrics_at or (flush_until is not None and self._sends_metrics()):
                metrics_at = now + metrics_every_s()
                self._send_metrics(hush)
            if flush_until is None:
                self._hand_over(now)
            worked = self._round(now, hush) or self._unfold(now, flush_until is not None) or self._awaits_courier(flush_until)
            if flush_until is not None and (not worked or time.monotonic() >= flush_until):
                return
            if worked and not any(lane.full for lane in self._lanes.values()):
                self._hurry.wait(GATHER_S)
            if not worked:
                due = [lane.due_at for lane in self._lanes.values() if lane.pending or lane.behind]
                self._wake.wait(max(0.01, min([take_over_at, metrics_at, self._flood_due(now), *due]) - time.monotonic()))

    def _round(self, now: float, hush: Hush) -> bool:
        """One request in each lane that is ready. False when there was nothing to do, or nothing got through."""
        worked = False
        for lane in self._lanes.values():
            if lane.ready(now):
                with contextlib.suppress(Exception), forks.WHOLE:
                    lane.prepare()  # the loggers of what it imports must exist before they can be hushed
                hush.spread()
                other_works = any(other.sent and not other.reason for other in self._lanes.values() if other is not lane)
                worked |= lane.work(other_works)
        return worked

    def _look_at_disk(self, now: float) -> None:
        """There may be parcels and notes of others in our folder now."""
        for lane in self._lanes.values():
            lane.behind = True
        self._noted_at = float("inf")  # before the look: one that is added meanwhile sets it again
        if self._outbox.notes(1):
            self._noted_at = now

    def _hand_over(self, now: float) -> None:
        """Has a courier send what is too much for this thread."""
        if self._handover.settle():
            self._look_at_disk(now)
        traces = self._lanes["traces"]
        much = traces.behind and self._outbox.kept > MAX_QUEUED
        if traces.fails or not self._handover.ready(now) or not (much or now - self._noted_at >= GATHER_NOTES_S):
            return
        with forks.WHOLE:
            self._handover.start({parcel.key for lane in self._lanes.values() for parcel in list(lane.pending)})
        self._look_at_disk(now)

    def _unfold(self, now: float, closing: bool) -> bool:
        """Notes become parcels here, for want of a courier or of time. False when there was none."""
        gathered = now - self._noted_at >= GATHER_NOTES_S
        if self._lanes["traces"].fails or not (closing or (gathered and not self._handover.possible)):
            return False
        told, lost = unfold(self._outbox, self._lanes, self.store, self.config, self.resource, BATCH)
        self.notes_dropped += lost
        if not told:
            self._noted_at = float("inf")
        return told > 0

    def _awaits_courier(self, flush_until: float | None) -> bool:
        """At the end, as long as there is time: it may be through in a moment."""
        if flush_until is None or not self._handover.under_way:
            return False
        if self._handover.settle():
            self._look_at_disk(time.monotonic())
        else:
            time.sleep(0.05)
        return True

    def _flood_due(self, now: float) -> float:
        """Monotonic seconds: when to look after couriers and notes again."""
        if self._handover.under_way:
            return now + COURIER_EVERY_S
        if self._lanes["traces"].fails:  # its next try comes first
            return float("inf")
        return max(self._noted_at + GATHER_NOTES_S, self._handover.due_at)

    def _send_metrics(self, hush: Hush) -> None:
        """What is lost here the next sending makes good: the numbers are counted from the start."""
        if self.board is None:
            return
        try:
            if self._metrics is None:
                from hangwatch.export.metrics import MetricSender

                with forks.WHOLE:
                    self._metrics = MetricSender(self.config, SEND_TIMEOUT_S, self.own_resource(), self.board.began_ns)
            hush.spread()
            result = self._metrics.send(self.board.families())
            self.metrics_sent += result.sent
            self.metrics_failures += not result.sent
        except Exception:
            self.metrics_failures += 1

    def own_resource(self) -> dict[str, Value]:
        """Of this process, as its incidents name it."""
        host = socket.gethostname()
        own = {names.SERVICE_NAME: self.config.service, names.HOST_NAME: host, names.SERVICE_INSTANCE_ID: f"{host}:{os.getpid()}"}
        return {**self.resource, **clean({**own, names.PROCESS_PID: os.getpid()})}

    def _after_fork(self) -> None:
        self._outbox.forget()
        self._handover.forget()
        self._told.clear()
        self.notifier.after_fork()
        self._fresh()
