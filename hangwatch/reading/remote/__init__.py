"""Another process' memory as views: `RemoteReader`."""

from __future__ import annotations

from hangwatch.reading.remote.reader import RemoteReader

__all__ = ["RemoteReader"]
