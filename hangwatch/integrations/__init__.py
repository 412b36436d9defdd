"""What is known of each library, one file each, written against the view protocols: it works in this process and in another's memory.

To add a library: a module with the names that `base.py` describes, and its row in ``MODULES``. It may import `reading.view`, `records`,
`ledger`, `patching` and its neighbours here, and nothing from outside the standard library.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from hangwatch.integrations import anyio, asyncio, threads, uvicorn
from hangwatch.integrations.base import DeadlineLook, HeldLook, Spot

MODULES: tuple[ModuleType, ...] = (asyncio, threads, uvicorn, anyio)


def _by_place(table: str) -> dict[tuple[str, str], list[Spot]]:
    """Spots by (file name, function name): one look-up per frame says whether anybody knows it."""
    found: dict[tuple[str, str], list[Spot]] = {}
    for module in MODULES:
        for spot in getattr(module, table, ()):
            found.setdefault((spot.file.rpartition("/")[2], spot.function), []).append(spot)
    return found


def _by_type(table: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for module in MODULES:
        found.update(getattr(module, table, {}))
    return found


WAITS = _by_place("WAITS")
REQUESTS = _by_place("REQUESTS")
HOLDS: dict[str, HeldLook] = _by_type("HOLDS")
DEADLINES: dict[str, DeadlineLook] = _by_type("DEADLINES")
