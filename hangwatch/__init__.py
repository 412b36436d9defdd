"""hangwatch: says which request of an asyncio service hangs, on what, and who should have ended the wait."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hangwatch.version import VERSION as __version__

__all__ = ["Config", "__version__", "install", "snapshot", "uninstall"]

if TYPE_CHECKING:
    from hangwatch.config import Config
    from hangwatch.records import Snapshot

    def snapshot() -> Snapshot:
        """Looks at this process now, with or without the agent installed."""


def install(**settings: Any) -> None:
    """Puts the agent into this process. ``settings`` are the fields of `Config`; HANGWATCH_* variables fill the rest.

    A second call with the same settings does nothing; with others it raises ConfigError. Raises ConfigError for a setting that
    does not exist or has an impossible value; nothing else: an agent that cannot work says so once and leaves the process alone.
    """
    from hangwatch.agent import install as into_process

    into_process(**settings)


def uninstall() -> None:
    """Takes the agent out: every patched attribute is the identical original object again, its threads have ended."""
    from hangwatch.agent import uninstall as out_of_process

    out_of_process()


def _snapshot_now() -> Snapshot:
    from hangwatch.agent import snapshot_now

    return snapshot_now()


def __getattr__(name: str) -> Any:
    if name == "Config":
        from hangwatch.config import Config

        return Config
    if name == "snapshot":  # the module of that name; it can be called (see its end)
        return importlib.import_module("hangwatch.snapshot")
    raise AttributeError(name)
