"""Sends what waits in one folder of the outbox, and ends: started by a worker's export thread in a flood (see `hangwatch.export.handover`).

    python -I courier.py FOLDER

A process of its own, as its work would hold the worker's interpreter. It yields to everything: lowest priority, first to go when memory
is short, an end after two minutes whatever happens. What it has sent it deletes at once, so that whoever goes on after it sends the rest.
Exit status: 0 all was sent (or will never be), 1 the rest is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hangwatch.config import Config
    from hangwatch.export.lanes import Lane
    from hangwatch.export.notes import Note
    from hangwatch.export.outbox import Outbox
    from hangwatch.export.specs import Parcel, Value
    from hangwatch.store import Store

LIFE_S = 120
TIMEOUT_S = 10.0


def main(folder: Path) -> int:
    """``folder`` holds its errand; its lock is open here already."""
    signal.alarm(LIFE_S)
    _yield_to_all()
    sys.path[:] = json.loads((folder / "errand").read_text())["path"]
    from hangwatch.export import wire
    from hangwatch.export.handover import ERRAND, REPORT, asked
    from hangwatch.export.outbox import Outbox
    from hangwatch.store import Store

    wire.BREATH_S = 0.0  # there is nobody to let breathe
    parent = os.getppid()
    config, resource, lock = asked(folder)
    outbox = Outbox(config.spool)
    outbox.adopt(folder, lock)
    work = Work(config, resource, outbox, Store(config.spool))
    try:
        done = work.run()
    finally:
        if os.getppid() == parent:
            (folder / REPORT).write_text(json.dumps(work.counts()))
        else:  # nobody is there to read it: what is left is the next process'
            (folder / ERRAND).unlink()
            outbox.close()
    return 0 if done else 1


class Work:
    def __init__(self, config: Config, resource: dict[str, Value], outbox: Outbox, store: Store) -> None:
        from hangwatch.export.lanes import lanes_to

        self.config = config
        self.resource = resource
        self.outbox = outbox
        self.store = store
        self.lanes: dict[str, Lane] = lanes_to(config, outbox, TIMEOUT_S)
        self.lost = 0

    def run(self) -> bool:
        """Oldest first: what was parcels already, then one batch of notes after the other. False when the receiver takes no spans."""
        from hangwatch.export.lanes import BATCH

        for lane in self.lanes.values():
            lane.behind = True
        self._send()
        while not self.lanes["traces"].fails:
            notes = self.outbox.notes(BATCH)
            if not notes:
                return True
            for note in notes:
                for parcel in self._unfolded(note):
                    self.lanes[parcel.signal].put(parcel, saved=False)
            self._send()
            if not self.lanes["traces"].fails:
                self._keep_logs()
                for note in notes:
                    self.outbox.note_done(note)
        return False  # the notes of the last batch are still there

    def _unfolded(self, note: Note) -> list[Parcel]:
        from hangwatch.export.notes import told

        try:
            return told(note, self.store, self.config, self.resource)
        except Exception:  # whatever is wrong with one incident, the others are told
            self.lost += 1
            return []

    def _send(self) -> None:
        """Spans first, as a batch without them is tried again from its notes. A receiver that takes no logs stops the logs only."""
        traces, logs = self.lanes["traces"], self.lanes["logs"]
        while not traces.fails and (traces.pending or traces.behind):
            traces.work(logs.sent > 0 and not logs.reason)
        while not traces.fails and not logs.fails and (logs.pending or logs.behind):
            logs.work(traces.sent > 0 and not traces.reason)

    def _keep_logs(self) -> None:
        logs = self.lanes["logs"]
        for parcel in logs.pending:
            logs.dropped += not self.outbox.add(parcel)
        if logs.fails:
            logs.pending.clear()

    def counts(self) -> dict[str, int]:
        found = {"notes_dropped": self.lost, "outbox_dropped": self.outbox.dropped}
        for name, lane in self.lanes.items():
            found |= {f"{name}_sent": lane.sent, f"{name}_refused": lane.refused, f"{name}_dropped": lane.dropped}
        return found


def _yield_to_all() -> None:
    with contextlib.suppress(OSError):
        os.nice(19)
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
