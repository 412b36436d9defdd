"""What is read between the two looks, while there is nothing to do but wait: whether garbage is collected, and where a loop's thread stands."""

from __future__ import annotations

import time
from typing import Any

from hangwatch.reading.remote import RemoteReader
from hangwatch.records import Evidence, Snapshot

#: Between two readings of the collector's flag, four bytes each; and how many there are at the least, however long the look before took.
FLAG_EVERY_S, LEAST_FLAGS = 0.004, 12
#: Between two readings of the stacks of loops that are not asleep: ten are enough to tell what does not return from what it calls.
STACK_EVERY_S = 0.025


class Between:
    """``flags``: of each reading, whether garbage was being collected; empty where that cannot be told. ``samples``: evidence, if any."""

    def __init__(self, reader: RemoteReader, seen: Snapshot) -> None:
        self.flags: list[bool] = []
        self._reader = reader
        awake = {int(loop.thread_id.partition(":")[2]) for loop in seen.loops if loop.thread_id and not loop.asleep}
        self._stacks: dict[int, list[list[dict[str, object]]]] = {native_id: [] for native_id in awake}
        self._flag_is_known = True

    def rest(self, pause_s: float) -> None:
        """Reads for that long, or until there are enough readings of the flag."""
        end = time.monotonic() + pause_s
        stack_at = time.monotonic() + STACK_EVERY_S
        while (now := time.monotonic()) < end or (self._flag_is_known and len(self.flags) < LEAST_FLAGS):
            self._read_flag()
            # On a machine so slow that the time is over, some stacks are read all the same.
            if self._stacks and (stack_at <= now < end or (now >= end and len(self.flags) % 4 == 1)):
                stack_at = now + STACK_EVERY_S
                self._read_stacks()
            if self._flag_is_known:
                time.sleep(FLAG_EVERY_S)
            else:
                time.sleep(max(0.0, min(end, stack_at if self._stacks else end) - time.monotonic()))

    def _read_flag(self) -> None:
        flag = self._reader.collecting() if self._flag_is_known else None
        if flag is None:
            self._flag_is_known, self.flags = False, []
        else:
            self.flags.append(flag)

    def _read_stacks(self) -> None:
        for native_id, frames in self._reader.stacks().items():
            if native_id in self._stacks and frames:
                self._stacks[native_id].append([{"file": f.file, "line": f.line, "function": f.function} for f in frames])

    @property
    def samples(self) -> tuple[Evidence, ...]:
        """Of a loop that spins, one look shows whatever it calls at that moment; only many show what does not return.

        ``data``: {"threads": [{"native_id", "stacks": [[{"file", "line", "function"}, ...], ...]}]}.
        """
        found: list[dict[str, Any]] = [{"native_id": native_id, "stacks": taken} for native_id, taken in self._stacks.items() if taken]
        if not found:
            return ()
        count = max(len(thread["stacks"]) for thread in found)
        return (Evidence("samples", f"{count} more looks at the stack of the loop's thread between the two.", {"threads": found}),)
