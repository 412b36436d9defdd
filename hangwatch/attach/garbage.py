"""Is it the garbage collector that stops the target? Its flag was read again and again between the two looks."""

from __future__ import annotations

from hangwatch.reading.remote import RemoteReader
from hangwatch.records import Evidence

#: Collecting in this share of the readings: less is the price of allocating much, and stops nobody for long.
SHARE = 0.5
#: In these calls a collection may be seen too: it gives memory back. In any other it is a finalizer of the application's that waits.
_OF_COLLECTING = (None, "running", "futex", "munmap", "madvise", "mremap", "brk", "mmap")


def evidence(reader: RemoteReader, readings: list[bool]) -> tuple[Evidence, ...]:
    """The collector stops the process: it ran in most readings, without waiting for anything.

    ``data``: {"share", "readings", "owner": native id of the thread that has the GIL (it is the one that collects), None where unknown}.
    """
    if not readings or sum(readings) < SHARE * len(readings):
        return ()
    gil = reader.gil()
    owner = gil[0] if gil is not None else None
    if owner is not None and reader.side.call_name(owner) not in _OF_COLLECTING:
        return ()
    share = sum(readings) / len(readings)
    text = f"The interpreter was collecting garbage in {share * 100:.0f} % of {len(readings)} readings" + (
        f"; thread {owner} has the GIL." if owner is not None else "."
    )
    return (Evidence("gc", text, {"share": round(share, 2), "readings": len(readings), "owner": owner}),)
