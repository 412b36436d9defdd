"""One lane for each signal: what waits, when to try next, what became of it. A receiver that takes spans and no logs stops the logs only."""

from __future__ import annotations

import contextlib
import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Protocol

from hangwatch.config import Config
from hangwatch.errors import HangwatchError
from hangwatch.export.outbox import Outbox
from hangwatch.export.specs import Parcel
from hangwatch.export.wire import Outcome

#: Parcels held in memory for one signal; what comes beyond waits on disk only, and a courier sends it where one can be had.
MAX_QUEUED = 64
#: The same for those that no disk takes.
MAX_UNSAVED = 256
#: Parcels in one request: 16 of the largest are some 6 MB, receivers take 20.
BATCH = 16
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 60.0
#: Answers that mean "no such signal here" when another signal gets through.
NO_SUCH_SIGNAL = frozenset(("404", "405", "501"))


class Sender(Protocol):
    def send(self, parcels: Sequence[Parcel]) -> Outcome: ...

    def close(self) -> None: ...


class Lane:
    """``put`` may be called by another thread than the rest."""

    def __init__(self, signal: str, make: Callable[[], Sender], outbox: Outbox) -> None:
        self.signal = signal
        self.pending: deque[Parcel] = deque()
        self.behind = False
        self.sent = self.dropped = self.refused = self.failures = self.tries = 0
        self.reason = ""
        self.due_at = 0.0
        self._failed_in_a_row = 0
        self._told = False
        self._under_way = 0
        self._make = make
        self._sender: Sender | None = None
        self._outbox = outbox
        self._settled: OrderedDict[str, None] = OrderedDict()

    def put(self, parcel: Parcel, saved: bool) -> None:
        """Takes a parcel; never blocks. ``saved``: it is on disk too, so that a full queue loses nothing."""
        room = MAX_QUEUED if saved else MAX_UNSAVED
        if len(self.pending) + self._under_way < room and not (saved and self.behind):
            self.pending.append(parcel)
        elif saved:
            self.behind = True
        else:
            self.dropped += 1

    def ready(self, now: float) -> bool:
        return bool(self.pending or self.behind) and now >= self.due_at

    @property
    def fails(self) -> bool:
        return self._failed_in_a_row > 0

    @property
    def full(self) -> bool:
        """There is enough for a whole request."""
        return self.behind or len(self.pending) >= BATCH

    def prepare(self) -> None:
        """Makes the sender, which imports OpenTelemetry. Raises what that raises."""
        if self._sender is None:
            self._sender = self._make()

    def work(self, other_works: bool) -> bool:
        """One request. False when the receiver did not take it and it is kept. ``other_works``: another signal got through lately."""
        batch = self._batch()
        if not batch:
            return True
        result = self._try(batch)
        if not result.sent and not result.again and len(batch) > 1:
            for parcel in batch:
                result = self._try([parcel])
                self._settle([parcel], result, other_works)
            return True
        return self._settle(batch, result, other_works)

    def _batch(self) -> list[Parcel]:
        if not self.pending and self.behind:
            self.behind = False
            self.pending.extend(self._outbox.waiting(self.signal, MAX_QUEUED // 2))
            self.behind = len(self.pending) >= MAX_QUEUED // 2
        batch: list[Parcel] = []
        self._under_way = BATCH  # what is not taken comes back, and must find room
        while self.pending and len(batch) < BATCH:
            parcel = self.pending.popleft()
            if parcel.key not in self._settled:
                batch.append(parcel)
        self._under_way = len(batch)
        return batch

    def _try(self, batch: list[Parcel]) -> Outcome:
        self.tries += 1
        try:
            self.prepare()
            return self._sender.send(batch) if self._sender else Outcome(False, True)
        except HangwatchError as error:
            self._tell_once(f"{self.signal} are kept, not sent: {error}. {error.help_text}")
            return Outcome(False, True, str(error))
        except Exception as error:
            return Outcome(False, True, f"{type(error).__name__}: {error}")

    def _tell_once(self, sentence: str) -> None:
        """On stderr, past logging and its locks: only a person can mend it."""
        if not self._told:
            self._told = True
            with contextlib.suppress(OSError):
                os.write(2, f"hangwatch: {sentence}\n".encode())

    def _settle(self, batch: list[Parcel], result: Outcome, other_works: bool) -> bool:
        self.reason = result.reason
        if not result.sent and result.again and not (other_works and result.reason in NO_SUCH_SIGNAL):
            self._keep(batch)
            return False
        if result.sent:
            self.sent += len(batch)
        else:
            self.refused += len(batch)
        self._failed_in_a_row = self._under_way = 0
        self.due_at = 0.0
        for parcel in batch:
            self._outbox.done(parcel)
            self._settled[parcel.key] = None
        while len(self._settled) > 4 * MAX_QUEUED:
            self._settled.popitem(last=False)
        return True

    def _keep(self, batch: list[Parcel]) -> None:
        self.pending.extendleft(reversed(batch))
        self._under_way = 0
        self.failures += 1
        self.due_at = time.monotonic() + min(LAST_RETRY_S, FIRST_RETRY_S * 2**self._failed_in_a_row)
        self._failed_in_a_row = min(self._failed_in_a_row + 1, 10)

    def close(self) -> None:
        if self._sender is not None:
            self._sender.close()


def lanes_to(config: Config, outbox: Outbox, timeout_s: float) -> dict[str, Lane]:
    """Both lanes by their signals. OpenTelemetry is imported by whoever has them work first."""

    def traces() -> Sender:
        from hangwatch.export.traces import TraceSender

        return TraceSender(config, timeout_s)

    def logs() -> Sender:
        from hangwatch.export.logs import LogSender

        return LogSender(config, timeout_s)

    return {"traces": Lane("traces", traces, outbox), "logs": Lane("logs", logs, outbox)}
