"""What is known of each library, one file each, written against the view protocols: it works in this process and in another's memory.

To add a library: a module with the names that `base.py` describes, and its row in ``NAMES``. It may import `reading.view`, `records`,
`ledger`, `patching` and its neighbours here, and nothing from outside the standard library.

The tables are built when first asked for: a service that starts needs none of them.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hangwatch.integrations.base import DeadlineLook, HeldLook, Spot

#: The modules in this folder that know a library.
NAMES = (
    "asyncio",
    "threads",
    "uvicorn",
    "anyio",
    "starlette",
    "asyncpg",
    "redis",
    "httpcore",
    "aiohttp",
    "sqlalchemy",
    "asgiref",
    "gunicorn",
    "hypercorn",
    "websockets",
    "psycopg",
    "aiosqlite",
    "grpc",
    "tenacity",
)

MODULES: tuple[ModuleType, ...]
WAITS: dict[tuple[str, str], list[Spot]]
REQUESTS: dict[tuple[str, str], list[Spot]]
HOLDS: dict[str, HeldLook]
DEADLINES: dict[str, DeadlineLook]


def __getattr__(name: str) -> Any:
    if name not in ("MODULES", "WAITS", "REQUESTS", "HOLDS", "DEADLINES"):
        raise AttributeError(name)
    modules = tuple(__import__(f"{__name__}.{known}", fromlist=("",)) for known in NAMES)
    globals().update(
        MODULES=modules,
        WAITS=_by_place(modules, "WAITS"),
        REQUESTS=_by_place(modules, "REQUESTS"),
        HOLDS=_by_type(modules, "HOLDS"),
        DEADLINES=_by_type(modules, "DEADLINES"),
    )
    return globals()[name]


def _by_place(modules: tuple[ModuleType, ...], table: str) -> dict[tuple[str, str], list[Spot]]:
    """Spots by (file name, function name): one look-up per frame says whether anybody knows it."""
    found: dict[tuple[str, str], list[Spot]] = {}
    for module in modules:
        for spot in getattr(module, table, ()):
            found.setdefault((spot.file.rpartition("/")[2], spot.function), []).append(spot)
    return found


def _by_type(modules: tuple[ModuleType, ...], table: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for module in modules:
        found.update(getattr(module, table, {}))
    return found
