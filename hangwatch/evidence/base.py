"""What a capture is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Target:
    """The process to look at. ``deadline_s`` bounds one capture; ``faulthandler_file`` is the file its C timer writes to."""

    pid: int
    deadline_s: float = 5.0
    native: bool = False
    faulthandler_file: Path | None = None
    loop_native_ids: tuple[int, ...] = ()
