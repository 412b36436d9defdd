"""Sending on somebody's word, now, in the calling thread: what `hangwatch export` does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hangwatch.config import Config
from hangwatch.export import parcels
from hangwatch.export.lanes import BATCH, NO_SUCH_SIGNAL, Sender
from hangwatch.export.outbox import Outbox
from hangwatch.export.specs import Parcel
from hangwatch.export.wire import Hush, Outcome
from hangwatch.records import Incident

#: A person waits; a receiver abroad may take its time.
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Report:
    """Incidents whose spans arrived; why the rest did not; whether log records arrived as well (None: none were to be sent)."""

    sent: int
    total: int
    reason: str = ""
    logs: bool | None = None


def send(incidents: Iterable[Incident], config: Config) -> Report:
    """Sends incidents (and the ends of those that ended) to ``config.otlp``; stops at the first batch that fails.

    What ended processes had in the spool's outbox for the incidents sent is cleared, so that no worker sends it again.
    """
    made: dict[str, list[Parcel]] = {"traces": [], "logs": []}
    ids = []
    for incident in incidents:
        ids.append(incident.id)
        told = parcels.of_stall(incident, config)
        if incident.closed_at is not None:
            told += parcels.of_end(incident, config, "recovered", int(incident.closed_at * 1e9))
        for parcel in told:
            made[parcel.signal].append(parcel)
    hush = Hush()
    try:
        sent, reason = _send(made["traces"], _trace_sender, config, hush)
        logs, log_reason = _send(made["logs"], _log_sender, config, hush) if not reason else (set(), "")
    finally:
        hush.lift()
    _clear(config, sent)
    if log_reason not in NO_SUCH_SIGNAL:
        reason = reason or log_reason
    return Report(len(sent), len(ids), reason, bool(logs) if made["logs"] else None)


def _send(made: list[Parcel], make: Callable[[Config], Sender], config: Config, hush: Hush) -> tuple[set[str], str]:
    """Ids of incidents that arrived whole, and why it stopped."""
    sent: set[str] = set()
    if not made:
        return sent, ""
    sender = make(config)
    hush.spread()
    try:
        for start in range(0, len(made), BATCH):
            batch = made[start : start + BATCH]
            result: Outcome = sender.send(batch)
            if not result.sent:
                return sent - {parcel.incident_id for parcel in made[start:]}, result.reason
            sent |= {parcel.incident_id for parcel in batch}
    finally:
        with contextlib.suppress(Exception):
            sender.close()
    return sent, ""


def _trace_sender(config: Config) -> Sender:
    from hangwatch.export.traces import TraceSender

    return TraceSender(config, TIMEOUT_S)


def _log_sender(config: Config) -> Sender:
    from hangwatch.export.logs import LogSender

    return LogSender(config, TIMEOUT_S)


def _clear(config: Config, sent: set[str]) -> None:
    """Only folders whose process has ended are touched."""
    if sent:
        Outbox(config.spool).discard(sent)
