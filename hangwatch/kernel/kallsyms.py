"""Names of kernel addresses, from /proc/kallsyms; nothing without CAP_SYSLOG.

The table has some 120,000 lines. They are read through once for the addresses that are asked for and not kept: stalls are few, their
kernel stacks alike.
"""

from __future__ import annotations

import bisect

from hangwatch.kernel import files

_LIMIT_BYTES = 64 << 20
_MAX_KNOWN = 4096
_known: dict[int, str] = {}


def names(addresses: tuple[int, ...]) -> tuple[str, ...]:
    """A name for each address from where the thread went to sleep outward; () when there is nothing to name them by. The first time takes some 50 ms."""
    missing = sorted({address for address in addresses if address not in _known})
    if missing:
        if len(_known) > _MAX_KNOWN:
            _known.clear()
            missing = sorted(set(addresses))
        _known.update(_search(missing))
    found = [_known.get(address, hex(address)) for address in addresses] if any(a in _known for a in addresses) else []
    # The innermost are our own program and the scheduler that called it.
    begin = next((place + 1 for place, name in enumerate(found) if name in ("schedule", "__schedule")), 0)
    while begin < len(found) and found[begin] in ("schedule", "__schedule"):
        begin += 1
    return tuple(found[begin:])


def _search(wanted: list[int]) -> dict[int, str]:
    """For each address (ascending) the symbol that begins nearest before it."""
    nearest = [(0, b"")] * len(wanted)
    for line in (files.read_bytes("/proc/kallsyms", _LIMIT_BYTES) or b"").splitlines():
        # Modules' symbols carry their name in a fourth column.
        start = int(line[:16], 16) if line[17:18] in b"tT" else 0
        if not start or start > wanted[-1]:
            continue
        # It concerns the addresses from itself up to the next symbol; the nearest one to the first of these is enough to know.
        place = bisect.bisect_left(wanted, start)
        if start > nearest[place][0]:
            nearest[place] = (start, line[19:].split(b"\t", 1)[0])
    found: dict[int, str] = {}
    best = (0, b"")
    for address, candidate in zip(wanted, nearest, strict=True):
        best = max(best, candidate)
        if best[0]:
            found[address] = best[1].decode("ascii", "replace")
    return found
