"""Tells people: one POST for each fingerprint and window, however many workers saw it. A thread of its own, standard library only.

The body is one JSON object: ``text`` (one sentence, where chat systems look for it), ``id`` (the same for every try at this message, also
as the header ``Idempotency-Key``), ``fingerprint``, ``cause``, ``confidence``, ``title``, ``advice``, ``service``, ``host``, ``pid``,
``count``, ``stall`` (its kind), ``incident`` (for `hangwatch show`), ``opened_at`` (ISO 8601), ``trace_id`` where there is one.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from urllib.parse import SplitResult, urlsplit

from hangwatch.config import Config
from hangwatch.export.gate import Answer, Claim, Gate
from hangwatch.export.specs import clip
from hangwatch.records import Incident
from hangwatch.version import VERSION

THREAD_NAME = "hangwatch-webhook"
#: Different messages that wait; more are counted. A service with a hundred different hangs at once needs no hundred and first message.
MAX_WAITING = 100
TIMEOUT_S = 5.0
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 60.0
#: While another process tells it, its end is looked for so often.
BUSY_S = 1.0
#: A message that could not be told for this long is old news.
GIVE_UP_S = 3600.0


@dataclass(slots=True)
class Message:
    """``key``: once for each of these in a window."""

    key: str
    body: dict[str, Any]
    offered_at: float
    due_at: float = 0.0
    failures: int = 0


def message_of(incident: Incident) -> Message:
    finding = incident.findings[0] if incident.findings else None
    title = finding.title if finding else f"{incident.stall.kind} past its limit, cause unknown"
    request = next((r for r in incident.snapshot.requests if r.id == incident.stall.subject_id), None)
    who = f"{incident.service or 'pid ' + str(incident.snapshot.pid)}{' on ' + incident.host if incident.host else ''}"
    body = {
        "text": clip(f"{who}: {title}"),
        "fingerprint": incident.fingerprint,
        "cause": finding.cause if finding else "unknown",
        "confidence": finding.confidence if finding else None,
        "title": clip(title),
        "advice": clip(finding.advice) if finding else None,
        "service": incident.service,
        "host": incident.host,
        "pid": incident.snapshot.pid,
        "count": incident.count,
        "stall": incident.stall.kind,
        "incident": incident.id,
        "opened_at": datetime.fromtimestamp(incident.opened_at, timezone.utc).isoformat(timespec="milliseconds"),
        "trace_id": request.trace_id if request else None,
    }
    return Message(f"webhook-{incident.fingerprint}", {key: value for key, value in body.items() if value is not None}, time.time())


class Notifier:
    """Inert without ``config.webhook``. ``offer`` never blocks and never raises."""

    def __init__(self, config: Config) -> None:
        self.url = config.webhook
        self.gate = Gate(config.spool, config.webhook_every)
        self.sent = self.dropped = self.failures = self.refused = 0
        self.reason = ""
        self._window_s = config.webhook_every
        self._closing = False
        self.after_fork()

    def after_fork(self) -> None:
        """What the parent had to tell the parent tells."""
        self._waiting: deque[Message] = deque()
        self._mine: OrderedDict[str, float] = OrderedDict()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def offer(self, incident: Incident) -> None:
        if self.url is None or self._closing:
            return
        with contextlib.suppress(Exception):
            message = message_of(incident)
            if message.offered_at - incident.opened_at > max(self._window_s, GIVE_UP_S) or self._told_lately(message):
                return
            if len(self._waiting) >= MAX_WAITING:
                self.dropped += 1
                return
            self._waiting.append(message)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
                self._thread.start()
            self._wake.set()

    def _told_lately(self, message: Message) -> bool:
        """Spares the disk; what other processes told the gate knows."""
        then = self._mine.get(message.key)
        if then is not None and message.offered_at - then < self._window_s:
            return True
        self._mine[message.key] = message.offered_at
        self._mine.move_to_end(message.key)
        if len(self._mine) > 10 * MAX_WAITING:
            self._mine.popitem(last=False)
        return False

    def counts(self) -> dict[str, int]:
        found = {"sent": self.sent, "waiting": len(self._waiting), "dropped": self.dropped, "refused": self.refused}
        return {f"webhook_{name}": n for name, n in {**found, "failures": self.failures}.items()} if self.url is not None else {}

    def close(self, timeout_s: float) -> None:
        """Tells what waits, for at most ``timeout_s``; what is left is told by the next process that sees it."""
        self._closing = True
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    # on its own thread

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            self.gate.sweep(time.time())
        while not (self._closing and not any(message.failures == 0 for message in self._waiting)):
            self._wake.clear()
            wait_s = LAST_RETRY_S
            for _ in range(len(self._waiting)):
                message = self._waiting.popleft()
                if message.due_at > time.monotonic() or not self._tell(message):
                    self._waiting.append(message)
                    wait_s = min(wait_s, max(0.01, message.due_at - time.monotonic()))
            if not self._closing:
                self._wake.wait(wait_s)

    def _tell(self, message: Message) -> bool:
        """False when it is to be tried again, at its ``due_at``."""
        answer = self._claim(message)
        if answer.done:
            return True
        if answer.claim is None:
            message.due_at = time.monotonic() + BUSY_S
            message.failures += 1
            return self._too_old(message)
        message.body["id"] = answer.claim.token
        if self._post(message.body):
            with contextlib.suppress(OSError):
                answer.claim.done(time.time())
            return True
        answer.claim.failed()
        message.failures += 1
        message.due_at = time.monotonic() + min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** min(message.failures - 1, 10))
        return self._too_old(message)

    def _claim(self, message: Message) -> Answer:
        """Without a spool every process is on its own: told twice is better than not at all."""
        try:
            return self.gate.claim(message.key, time.time())
        except OSError:
            return Answer(_Ungated())

    def _too_old(self, message: Message) -> bool:
        if time.time() - message.offered_at < GIVE_UP_S:
            return False
        self.dropped += 1
        return True

    def _post(self, body: dict[str, Any]) -> bool:
        """One request. What the receiver will never take counts as told: the others would be refused as well."""
        try:
            status = post(urlsplit(self.url or ""), body)
        except Exception as error:
            self.failures += 1
            self.reason = type(error).__name__
            return False
        if status < 300:
            self.sent += 1
            return True
        self.reason = str(status)
        if 400 <= status < 500 and status not in (401, 403, 404, 407, 408, 409, 425, 429):
            self.refused += 1
            return True
        self.failures += 1
        return False


class _Ungated(Claim):
    def __init__(self) -> None:
        self.token, self.tries = os.urandom(16).hex(), 1

    def done(self, now: float) -> None: ...

    def failed(self) -> None: ...


def post(url: SplitResult, body: dict[str, Any]) -> int:
    """The answer's status. Redirects are not followed, proxies' variables not read. Raises OSError and http.client's errors."""
    connection: http.client.HTTPConnection
    if url.scheme == "https":
        connection = http.client.HTTPSConnection(url.hostname or "", url.port, timeout=TIMEOUT_S, context=ssl.create_default_context())
    else:
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=TIMEOUT_S)
    headers = {"content-type": "application/json", "user-agent": f"hangwatch/{VERSION}", "idempotency-key": body["id"]}
    try:
        target = f"{url.path or '/'}{'?' + url.query if url.query else ''}"
        connection.request("POST", target, json.dumps(body).encode(), headers)
        return connection.getresponse().status
    finally:
        connection.close()
