"""The tools that look at this very process, for the reporter: which run beside the samples, which after the incident is on disk.

Nothing is imported before the reporter's thread asks for it.
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any, Final

from hangwatch.config import Config
from hangwatch.ledger import Ledger
from hangwatch.records import Incident, Snapshot
from hangwatch.stacktimer import StackTimer

if TYPE_CHECKING:
    from hangwatch.evidence import Collection, Target

#: They stop nothing.
_QUIET: Final = ("faulthandler", "process", "sockets")
#: What has not answered by then is left out of the incident, and named in it.
DEADLINE_S: Final = 3.0


class Tools:
    """``prepare`` first. Used by one thread."""

    def __init__(self, config: Config, ledger: Ledger, timer: StackTimer | None) -> None:
        self.config = config
        self.ledger = ledger
        self.timer = timer
        self._budget: Any = None

    def prepare(self) -> None:
        """What a stall needs is imported before there is one."""
        import hangwatch.evidence

        self._budget = hangwatch.evidence.Budget(self.config.pyspy_per_hour)
        hangwatch.evidence.prepare()

    def start(self, known: set[str]) -> Collection:
        """Starts the quiet ones that are not in ``known``, so that they work while the samples are taken."""
        from hangwatch.evidence import Collection

        return Collection(self._target(), [name for name in _QUIET if name not in known], deadline_s=DEADLINE_S)

    def with_native_stacks(self, incident: Incident, earlier: Snapshot | None) -> Incident:
        """The incident with what py-spy and the kernel say as well, judged anew."""
        from hangwatch.evidence import collect, ebpf
        from hangwatch.graph import WaitGraph
        from hangwatch.investigate import judge
        from hangwatch.rules.base import Case

        # Where it may, the kernel tells for a moment what keeps the loop's thread: the GIL, a CPU, a call.
        kernel = ("ebpf",) if incident.stall.kind == "loop" and ebpf.possible() else ()
        # Who told it in our place has asked some of them, while it lasted.
        asked = {said.tool for said in incident.evidence if said.text}
        wanted = tuple(tool for tool in ("py-spy", *kernel) if tool not in asked)
        evidence = (*incident.evidence, *collect(self._target(), wanted, deadline_s=DEADLINE_S))
        findings, _ = judge(Case(incident.stall, incident.snapshot, WaitGraph(incident.snapshot), earlier, evidence))
        return dataclasses.replace(incident, evidence=evidence, findings=findings)

    def _target(self) -> Target:
        from hangwatch.evidence import Target

        return Target(
            pid=os.getpid(),
            native=self.config.pyspy_native,
            faulthandler_file=self.timer.path if self.timer is not None else None,
            loop_native_ids=tuple(mark.native_id for mark in list(self.ledger.loops.values())),
            pyspy_budget=self._budget,
        )
