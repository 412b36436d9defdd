"""A flood is sent by a process of its own (`hangwatch.courier`), short-lived and at the lowest priority: it has an interpreter of its own.

Spans of a thousand incidents are two seconds of an interpreter. Made in the service, even on another thread, they hold its loop up by
up to 5 ms (the interpreter's switch interval) each time the loop comes back from its selector. A note on disk and one exec do not.

One courier at a time, for what is waiting, for a bounded time. No pipes and no lock that a fork at that moment could carry away: the
errand and the report are files. What a courier does not get through, or cannot because it may not be started, the export thread sends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from hangwatch.config import Config
from hangwatch.export.lanes import Lane
from hangwatch.export.notes import told
from hangwatch.export.outbox import Outbox
from hangwatch.export.specs import Value
from hangwatch.export.wire import breathe

PROGRAM: Final = Path(__file__).resolve().parents[1] / "courier.py"
ERRAND: Final = "errand"
REPORT: Final = "report"
#: A second flood within this long goes with the courier that then starts.
GATHER_S: Final = 3.0
#: From one courier's start to the next: its own start is half a second of a CPU.
EVERY_S: Final = 15.0
#: For a courier that sends to a receiver abroad; then it is ended, and what it had left is taken back.
MAX_S: Final = 120.0
#: Who fails within this long and without a word cannot live here.
STILLBORN_S: Final = 10.0
FIRST_RETRY_S: Final = 10.0
LAST_RETRY_S: Final = 300.0
#: Settings that a courier needs; the rest is the agent's.
_SETTINGS: Final = ("spool", "otlp", "otlp_protocol", "events", "service")


class Handover:
    """Used by the export thread alone. ``counts`` is what couriers reported, by name (``traces_sent``, …)."""

    def __init__(self, config: Config, outbox: Outbox, resource: dict[str, Value]) -> None:
        self.counts: dict[str, int] = {}
        self.couriers = self.failures = 0
        #: Could one be started lately? Where not (no processes allowed, no interpreter to be found), the thread does it all.
        self.possible = config.courier and PROGRAM.is_file()
        self._config = config
        self._outbox = outbox
        self._resource = resource
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path()
        self._started_at = 0.0
        self.due_at = 0.0

    @property
    def under_way(self) -> bool:
        return self._process is not None

    def ready(self, now: float) -> bool:
        """``now`` monotonic, in seconds."""
        return self.possible and self._process is None and now >= self.due_at

    def start(self, in_memory: set[str]) -> bool:
        """Sends a courier with the oldest of what waits, save the parcels with these keys. False when there is none to send."""
        try:
            sealed = self._outbox.seal(in_memory)
        except OSError:
            return self._failed()
        if sealed is None:
            return False
        self._folder, handle = sealed
        try:
            errand = {
                "path": sys.path,
                "lock": handle,
                "settings": {name: str(value) for name in _SETTINGS if (value := getattr(self._config, name)) is not None},
                "resource": self._resource,
            }
            (self._folder / ERRAND).write_text(json.dumps(errand))
            self._process = _spawn(self._folder, handle)
        except (OSError, ValueError, subprocess.SubprocessError):
            self.possible = False
            self._outbox.take_back(self._folder)
            return self._failed()
        finally:
            os.close(handle)  # the courier has it
        self._started_at = time.monotonic()
        self.due_at = self._started_at + EVERY_S
        self.couriers += 1
        return True

    def settle(self) -> bool:
        """True when a courier has ended since the last look: what it could not send is in the outbox again."""
        process = self._process
        if process is None:
            return False
        if process.poll() is None:
            if time.monotonic() - self._started_at < MAX_S:
                return False
            process.kill()
            process.wait()
        self._process = None
        report = self._report()
        for name, n in report.items():
            self.counts[name] = self.counts.get(name, 0) + n
        self._outbox.take_back(self._folder)
        if process.returncode == 0:
            self.failures = 0
        else:
            cannot_live = process.returncode > 0 and not report and time.monotonic() - self._started_at < STILLBORN_S
            self.possible = self.possible and not cannot_live
            self._failed()
        return True

    def _report(self) -> dict[str, int]:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            found = json.loads((self._folder / REPORT).read_text())
            return {str(name): int(n) for name, n in found.items()}
        return {}

    def _failed(self) -> bool:
        self.failures += 1
        self.due_at = time.monotonic() + min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** min(self.failures - 1, 10))
        return False

    def forget(self) -> None:
        """In a forked child: the courier is the parent's."""
        if self._process is not None:
            self._process.returncode = 0  # else its destructor looks for a child that is not ours
            self._process = None


def _spawn(folder: Path, handle: int) -> subprocess.Popen[bytes]:
    """Isolated (-I): the service's PYTHON* settings and working directory are not for us; its import path comes with the errand."""
    if "python" not in Path(sys.executable or "").name.lower():
        raise OSError("no interpreter to start")  # embedded, as in uwsgi
    process = subprocess.Popen(
        [sys.executable, "-I", str(PROGRAM), str(folder)],
        env={**os.environ, "HANGWATCH_DISABLED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(handle,),
        start_new_session=True,  # the service's Ctrl-C is not the courier's
    )
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, 19)
    return process


def asked(folder: Path) -> tuple[Config, dict[str, Value], int]:
    """In the courier: settings, resource and the lock's descriptor."""
    errand: dict[str, Any] = json.loads((folder / ERRAND).read_text())
    known = {field.name for field in dataclasses.fields(Config)}
    settings = {name: value for name, value in errand["settings"].items() if name in known}
    return Config.make({}, **settings), errand["resource"], int(errand["lock"])


def unfold(outbox: Outbox, lanes: dict[str, Lane], store: Any, config: Config, resource: dict[str, Value], limit: int) -> tuple[int, int]:
    """The oldest notes become parcels, on disk and in the lanes. How many notes, and how many of those the spool had let go of."""
    lost = 0
    notes = outbox.notes(limit)
    for note in notes:
        parcels = []
        try:
            parcels = told(note, store, config, resource)
        except Exception:  # whatever is wrong with one incident, the others are told
            lost += 1
        for parcel in parcels:
            lanes[parcel.signal].put(parcel, outbox.add(parcel))
        outbox.note_done(note)
        breathe()
    return len(notes), lost
