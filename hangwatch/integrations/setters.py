"""Who could end a wait: the tasks, threads and queued callbacks that refer to the object somebody waits on.

Looked at are the locals and value stack of every frame, and one step further: a handler that will set ``self.done`` has
``self`` in a local. What is further away is not found; `LiveReader.reachable_from_live` answers that, at a higher price.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from hangwatch.integrations import recognise
from hangwatch.integrations.desk import SnapshotDesk
from hangwatch.reading.view import FrameView, LoopView, ObjectView

#: Time for one search. Half a second goes through some ten thousand tasks.
TIME_LIMIT_NS = 500_000_000
#: They refer to too much to say anything, or to nothing.
_TOO_WIDE = frozenset({"module", "type", "function", "str", "int", "bool", "NoneType", "float", "bytes", "coroutine", "code"})
_HANDLES_LIMIT = 10_000
#: Kinds whose end is brought about by somebody who refers to the object.
_SET_BY_SOMEBODY = frozenset({"event", "condition", "future", "thread-event", "queue-get", "queue-join", "barrier", "other"})


def wanted_in(desk: SnapshotDesk) -> dict[int, list[str]]:
    """The awaited event-like primitives of which nobody said who sets them: ids by the address of the object behind them."""
    wanted: dict[int, list[str]] = {}
    for primitive in desk.primitives.values():
        address = desk.addresses.get(primitive.id)
        waited = primitive.id in desk.waiters
        if waited and primitive.kind in _SET_BY_SOMEBODY and primitive.setters is None and address is not None:
            wanted.setdefault(address, []).append(primitive.id)
    return wanted


class Search:
    """``wanted``: ids of primitives by the address of the object behind them."""

    def __init__(self, wanted: Mapping[int, list[str]]) -> None:
        self.wanted = wanted
        self.found: dict[str, set[str]] = {primitive_id: set() for ids in wanted.values() for primitive_id in ids}
        #: What a step from this object leads to; the application's few central objects are met in every chain.
        self._steps: dict[int, tuple[int, ...]] = {}

    def through(self, chains: Mapping[str, list[FrameView]], pause: Callable[[], None]) -> bool:
        """Looks through every chain; False when time ran out before the last."""
        began = time.perf_counter_ns()
        for owner_id, chain in chains.items():
            if time.perf_counter_ns() - began > TIME_LIMIT_NS:
                return False
            for frame in chain:
                if not recognise.place_of(frame).stdlib:  # Python's own frames refer to what they wait on themselves
                    self._note(owner_id, frame.references())
            pause()
        return True

    def through_handles(self, loops: Iterable[LoopView], pause: Callable[[], None]) -> None:
        """Callbacks that a loop will run (``loop.call_later(5, event.set)``)."""
        for loop in loops:
            scheduled = loop.object().attr("_scheduled")
            handles = [*(loop.ready() or ()), *(scheduled.items(_HANDLES_LIMIT) if scheduled is not None else ())]
            for handle in handles:
                callback, arguments = handle.attr("_callback"), handle.attr("_args")
                parts = [callback, callback.attr("__self__") if callback is not None else None]
                self._note(
                    f"loop:{loop.id:x}", [*(p for p in parts if p is not None), *(arguments.items(10) if arguments is not None else ())]
                )
            pause()

    def tell(self, desk: SnapshotDesk) -> None:
        for primitive_id, owners in self.found.items():
            primitive = desk.primitives[primitive_id]
            others = owners.difference(desk.waiters.get(primitive_id, ()), primitive.waiters)
            desk.primitives[primitive_id] = replace(primitive, setters=tuple(sorted(others)))

    def _note(self, owner_id: str, held: Iterable[ObjectView]) -> None:
        for view in held:
            address = view.id
            for reached in (address, *self._step(view)) if address not in self.wanted else (address,):
                for primitive_id in self.wanted.get(reached, ()):
                    self.found[primitive_id].add(owner_id)

    def _step(self, view: ObjectView) -> tuple[int, ...]:
        known = self._steps.get(view.id)
        if known is None:
            wide = view.type_name in _TOO_WIDE
            known = self._steps[view.id] = () if wide else tuple(address for address in view.neighbours() if address in self.wanted)
        return known
