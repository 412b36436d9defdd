"""What a tool has said of one thread, as the rules take it: its entry, its Python frames, its innermost native call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hangwatch.records import Frame, Thread
from hangwatch.rules.base import Case
from hangwatch.rules.frames import is_native, is_ours


def as_frames(said: dict[str, Any]) -> tuple[Frame, ...]:
    """The Python frames of what a tool said: native ones lead nowhere in an editor."""
    frames = [f for f in said.get("frames") or () if isinstance(f, dict) and not f.get("native") and not is_native(str(f.get("file", "")))]
    return tuple(Frame(str(f.get("file", "")), int(f.get("line") or 0), str(f.get("function", ""))) for f in frames)


def native_call(said: dict[str, Any]) -> str:
    """The innermost native function: ``usleep (libc.so.6)``; empty when native frames were not read."""
    frames = [f for f in said.get("frames") or () if isinstance(f, dict) and (f.get("native") or is_native(str(f.get("file", ""))))]
    return f"{frames[-1].get('function')} ({str(frames[-1].get('file', '')).rpartition('/')[2]})" if frames else ""


def witness(case: Case, tool: str, thread: Thread | None) -> dict[str, Any] | None:
    """What a tool said of this thread."""
    said = case.of_tool(tool)
    for entry in (said.data.get("threads") or ()) if said is not None else ():
        if thread is not None and isinstance(entry, dict) and thread.native_id in (entry.get("native_id"), entry.get("tid")):
            return entry
    return None


def in_selector(frames: Iterable[Frame]) -> bool:
    """The innermost frame is the loop's own wait for its selector (uvloop's has no Python frame: then nothing of the application is inside)."""
    own = [frame for frame in frames if not is_ours(frame.file)]
    return (
        bool(own)
        and own[-1].file.endswith("selectors.py")
        and any(f.file.endswith("asyncio/base_events.py") and f.function.endswith("_run_once") for f in own[-3:])
    )
