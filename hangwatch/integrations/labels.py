"""What the application calls the things that are waited on: ``asyncio.Lock Ledger.lock`` says more than ``asyncio.Lock``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hangwatch.integrations import recognise
from hangwatch.integrations.desk import SnapshotDesk
from hangwatch.reading.view import FrameView

#: Things named in one snapshot. A finding speaks of a handful, and naming one costs some ten microseconds.
LIMIT = 100
#: Frames of the application looked through for a name, innermost first, and waiters or holders whose frames are.
_FRAMES = 4
_CHAINS = 3
_LIBRARIES = ("asyncio", "threading")
_NAMED = frozenset(
    {
        "lock",
        "event",
        "condition",
        "semaphore",
        "barrier",
        "queue-get",
        "queue-put",
        "queue-join",
        "future",
        "thread-lock",
        "thread-event",
        "thread-queue",
    }
)


def name_them(desk: SnapshotDesk, chains: Mapping[str, list[FrameView]]) -> None:
    """Adds the application's own name to the labels of primitives that somebody waits for."""
    named = 0
    for primitive_id, waiters in desk.waiters.items():
        primitive, address = desk.primitives.get(primitive_id), desk.addresses.get(primitive_id)
        if primitive is None or address is None or primitive.kind not in _NAMED or primitive.library not in _LIBRARIES:
            continue
        for waiter_id in list(waiters)[:_CHAINS]:
            name = _name(chains.get(waiter_id, []), address)
            if name is not None:
                desk.primitives[primitive_id] = replace(primitive, label=f"{primitive.label} {name}")
                break
        named += 1
        if named >= LIMIT:
            return


def _name(chain: list[FrameView], address: int) -> str | None:
    own = [frame for frame in reversed(chain) if not recognise.place_of(frame).library]
    for frame in own[:_FRAMES]:
        name_of = getattr(frame, "name_of", None)  # a remote reader's frames have no such look
        found = name_of(address) if name_of is not None else None
        if isinstance(found, str):
            return found
    return None
