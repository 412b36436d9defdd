"""Is a loop alive? Told from outside its thread, for free: nothing is scheduled on the loop, nothing wakes it.

Signs of life, cheapest first: a count that the server's own tick raises; the loop's thread sits in the selector; between two looks
another callback runs. The last is read from ``BaseEventLoop._run_once``: its ``end_time`` is new in each turn and ``i`` in each
callback, so while both stand still one callback runs. uvloop has no such frame: there the bottom-most Python frame is compared,
which is a suspicion, not a proof (`Pulse.certain`).
"""

from __future__ import annotations

import platform
import sys
from types import FrameType
from typing import Any, Final

from hangwatch.ledger import LoopMark, Place

#: Deeper stacks than this are not searched for the loop's frame; they are busy in any case.
MAX_DEPTH: Final = 500
_HOOKS: Final = "hangwatch/integrations/asyncio_hooks.py"
#: epoll_wait, epoll_pwait, epoll_pwait2 by machine; elsewhere a loop without Python frames counts as asleep.
_EPOLL: Final = {"x86_64": (b"232", b"281", b"441"), "aarch64": (b"22", b"441")}.get(platform.machine(), ())


class Pulse:
    """The last sign of life of one loop. ``look`` once per tick; ``seen_ns`` is when there was one."""

    __slots__ = ("beats", "blocked", "callback_ns", "certain", "mark", "seen_ns", "settled", "token", "turn_ns")

    def __init__(self, mark: LoopMark, now_ns: int) -> None:
        self.mark = mark
        self.seen_ns = now_ns
        self.beats = mark.beats
        self.token: object = None
        #: When the callback that runs now began, where its turn of the loop began with it.
        self.callback_ns: int | None = None
        #: When the turn of the loop began in which the callback was that ran at the last look; None: it slept or is between turns.
        self.turn_ns: int | None = None
        self.certain = False
        #: It was seen asleep, or its server ticked: it has got through its first turn.
        self.settled = False
        #: A stall of this loop was reported and has not ended.
        self.blocked = False

    def look(self, frame: FrameType | None, now_ns: int) -> bool:
        """True when there was a sign of life since the last look. ``frame``: the innermost of the loop's thread."""
        if self.mark.beats != self.beats:
            self.beats = self.mark.beats
            self.token = self.turn_ns = self.callback_ns = None
            self.seen_ns = now_ns
            self.settled = True
            return True
        token = _callback(frame, self.mark) if frame is not None else None
        self.settled = self.settled or (token is None and frame is not None)
        if token is None or token != self.token:
            self.token = token
            self.seen_ns = now_ns
            self.certain = token is not None and type(token[0]) is float
            self.turn_ns = self._turn_ns(token, now_ns)
            self.callback_ns = self.turn_ns if token is not None and token[1] == 0 else None
            return True
        return False

    def since_ns(self) -> int:
        """When the silence began, as near as it is known."""
        return self.seen_ns if self.callback_ns is None else min(self.seen_ns, self.callback_ns)

    def _turn_ns(self, token: tuple[Any, ...] | None, now_ns: int) -> int | None:
        """By the loop's own clock, unless that is not the machine's (loops of test frameworks make their own time)."""
        if token is None or type(token[0]) is not float:
            return None
        begun_ns = int(token[0] * 1e9)
        return begun_ns if self.mark.started_ns - 1_000_000_000 <= begun_ns <= now_ns + 1_000_000_000 else None


def innermost_frames() -> dict[int, FrameType]:
    """Thread ident -> innermost frame. Hold them shortly: the last to let go of a frame destroys its locals."""
    return sys._current_frames()


def at_rest(frame: FrameType) -> bool:
    """The loop's thread is in the loop's own code or its selector, in nothing of the application's."""
    if _is_turn(frame) or (frame.f_code.co_name == "select" and _is_turn(frame.f_back)):
        return True
    return frame.f_code.co_name == "run_forever" and frame.f_code.co_filename.endswith(_HOOKS)


def stack_of(frame: FrameType | None) -> list[dict[str, Any]]:
    """File, line and function of each frame, outermost first, at most `MAX_DEPTH` of the innermost; nothing of their locals."""
    found: list[dict[str, Any]] = []
    while frame is not None and len(found) < MAX_DEPTH:
        code = frame.f_code
        found.append(
            {
                "file": code.co_filename,
                "line": frame.f_lineno or code.co_firstlineno,
                "function": getattr(code, "co_qualname", code.co_name),
            }
        )
        frame = frame.f_back
    return found[::-1]


def stack_at(place: Place) -> list[dict[str, Any]]:
    """As `stack_of`, of what the ledger has noted."""
    return [
        {"file": code.co_filename, "line": line or code.co_firstlineno, "function": getattr(code, "co_qualname", code.co_name)}
        for code, line in reversed(place[1])
    ]


def _callback(frame: FrameType, mark: LoopMark) -> tuple[Any, ...] | None:
    """What identifies the callback that runs; None when the loop is asleep or between callbacks."""
    code = frame.f_code
    if code.co_name == "select" and code.co_filename.endswith("selectors.py") and _is_turn(frame.f_back):
        return None
    if _is_turn(frame):
        return None
    above: FrameType = frame
    current: FrameType | None = frame
    for _ in range(MAX_DEPTH):
        if current is None:
            return _of_thread(frame, above, mark)
        if _is_turn(current):
            values = current.f_locals
            end_time, index = values.get("end_time"), values.get("i")
            if type(end_time) is float:
                return (end_time, index)
            return None if end_time is None else ("turn", id(above.f_code), above.f_lasti)
        if current.f_code.co_filename.endswith(_HOOKS) and current.f_code.co_name == "run_forever":
            return _of_thread(frame, above if current is not frame else None, mark)
        above, current = current, current.f_back
    return ("deep", frame.f_code, 0)


def _is_turn(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_code.co_name == "_run_once" and frame.f_code.co_filename.endswith("asyncio/base_events.py")


def _of_thread(innermost: FrameType, bottom: FrameType | None, mark: LoopMark) -> tuple[Any, ...] | None:
    """A loop that has no Python frame of its own: asleep when its thread waits in epoll, else known by its bottom-most frame."""
    if _in_epoll(mark.native_id):
        return None
    if bottom is None:
        return ("native", 0)
    return ("frame", bottom.f_code, bottom.f_lasti)


def _in_epoll(native_id: int) -> bool:
    if not _EPOLL:
        return True
    try:
        with open(f"/proc/self/task/{native_id}/syscall", "rb") as file:
            return file.read(64).split(b" ", 1)[0].strip() in _EPOLL
    except OSError:
        return True
