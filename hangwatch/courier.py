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
    from hangwatch.export.outbox import Outbox
    from hangwatch.export.specs import Value
    from hangwatch.store import Store

LIFE_S = 120
TIMEOUT_S = 10.0


def main(folder: Path) -> int:
    """``folder`` holds its errand; its lock is open here already."""
    signal.alarm(LIFE_S)
    _yield_to_all()
    sys.path[:] = json.loads((folder / "errand").read_text())["path"]
    from hangwatch.export.handover import ERRAND, REPORT, asked
    from hangwatch.export.outbox import Outbox
    from hangwatch.store import Store

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
        from hangwatch.export.handover import unfold
        from hangwatch.export.lanes import BATCH

        for lane in self.lanes.values():
            lane.behind = True
        while True:
            self._send()
            if self.lanes["traces"].fails:
                return False
            notes, lost = unfold(self.outbox, self.lanes, self.store, self.config, self.resource, BATCH)
            self.lost += lost
            if not notes:
                return True

    def _send(self) -> None:
        """A receiver that takes spans and no logs, for now, stops the logs only: they are left on disk."""
        lanes = list(self.lanes.values())
        for lane in lanes:
            while not lane.fails and (lane.pending or lane.behind):
                lane.work(any(other.sent and not other.reason for other in lanes if other is not lane))

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
