"""The watchdog's thread: beats, looks for signs of life and requests past their limit, and hands over what stalled.

It does nothing else, so that its beat goes on: samples, evidence, disk and network are the reporter's. It takes no lock that the
application can hold and wakes no loop: waking heals the very bugs that are looked for.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from hangwatch import lateness, stalls
from hangwatch.config import Config
from hangwatch.heartbeat import Pulse, at_rest, innermost_frames, stack_of
from hangwatch.integrations import uvicorn_hooks
from hangwatch.ledger import Follow, Ledger, Phase
from hangwatch.records import FOREVER, Evidence, Stall
from hangwatch.stacktimer import StackTimer

THREAD_NAME: Final = "hangwatch-watchdog"
#: How long a request that was answered may run on before it is looked at again (its connection's next request may wait behind it).
LOOK_AGAIN_NS: Final = 1_000_000_000
#: Requests of a loop that was blocked get this long to end by themselves after it came back.
GRACE_NS: Final = 1_000_000_000
#: A turn of the loop that takes this many limits is a stall though its callbacks move on: nobody is served within a turn.
LAG: Final = 4


@dataclass(slots=True)
class Alarm:
    """What the watchdog hands over: the stall, the other requests that stalled with it, and what it knows of the block.

    ``pulse`` of a loop's stall; ``uncertain``: the loop may be alive (`Pulse.certain`), a probe after the samples decides.
    ``over``: nothing is to be seen any more (the watchdog itself could not run while it lasted).
    """

    stall: Stall
    follows: list[Follow] = field(default_factory=list)
    pulse: Pulse | None = None
    evidence: list[Evidence] = field(default_factory=list)
    uncertain: bool = False
    over: bool = False


class Watchdog:
    """``report`` takes an Alarm, ``recovered`` a subject's id; both are cheap and never raise. ``each_tick`` runs last in each tick."""

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        timer: StackTimer | None,
        report: Callable[[Alarm], None],
        recovered: Callable[[str], None],
        each_tick: Callable[[int], None] | None = None,
    ) -> None:
        self.config = config
        self.ledger = ledger
        self.timer = timer
        self.tick_s = tick_of(config)
        self.faults: dict[str, int] = {}
        self._report = report
        self._recovered = recovered
        self._each_tick = each_tick
        self._pulses: dict[int, Pulse] = {}
        self._phases: dict[int, tuple[Phase, str]] = {}
        self._least_ns = stalls.least_limit_ns(config)
        self._last_ns = 0
        self._used = lateness.Used(0, 0)
        #: (when, how much) this thread came late, the latest.
        self._late: deque[tuple[int, int]] = deque(maxlen=64)
        self._fired = False
        self._ended_ns = 0
        self._end_told = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def silences(self) -> dict[str, int]:
        """By loop id, ns since its last sign of life. Callable from any thread."""
        now_ns = time.monotonic_ns()
        return {pulse.mark.id: max(0, now_ns - pulse.since_ns()) for pulse in list(self._pulses.values())}

    def _run(self) -> None:
        self._last_ns = time.monotonic_ns()
        self._used = lateness.Used.by_now()
        while True:
            try:
                self.tick(time.monotonic_ns())
            except Exception as error:  # the next tick may do better; the service must not notice
                self._fault(error)
            if self._stop.wait(self.tick_s):
                break
        if self.timer is not None:
            self.timer.stop()

    def _fault(self, error: BaseException) -> None:
        name = f"{type(error).__name__}: {error}"
        if name in self.faults or len(self.faults) < 20:
            self.faults[name] = self.faults.get(name, 0) + 1

    def tick(self, now_ns: int) -> None:
        """One beat. ``now_ns``: monotonic."""
        gap_ns = now_ns - self._last_ns if self._last_ns else 0
        late_ns = gap_ns - int(self.tick_s * 1e9)
        if self.timer is not None:
            self.timer.beat()  # before anything for which the GIL may be given away again
        used = lateness.Used.by_now()
        if late_ns > self.tick_s * 1e9:
            self._late.append((now_ns, late_ns))
        if late_ns >= self.config.loop_after * 1e9:
            self._was_silenced(now_ns, late_ns, used.since(self._used))
        self._last_ns, self._used = now_ns, used
        for look in (self._look_at_loops, self._look_at_phases, self._look_at_requests, self._look_at_the_end):
            if self.timer is not None:
                self.timer.beat_if_late(time.monotonic_ns())
            look(now_ns)
        if self.timer is not None:
            self._empty_dump(self.timer, gap_ns)
        if self._each_tick is not None:
            self._each_tick(now_ns)

    def _empty_dump(self, timer: StackTimer, gap_ns: int) -> None:
        # It can only have fired when it was not armed anew in time: all other ticks save the system call, which lets go of the GIL.
        self._fired = self._fired or gap_ns >= timer.timeout_s * 1e9
        if self._fired and not any(pulse.blocked for pulse in self._pulses.values()):
            self._fired = False
            if timer.written():
                timer.clear()

    # the watchdog itself could not run

    def _was_silenced(self, now_ns: int, late_ns: int, used: lateness.Used) -> None:
        """Whoever kept the GIL is done: the stall is told afterwards.

        Witnesses: the stacks of this very moment (a thread that comes out of native code hands over the GIL before its next call, so
        it still stands where it was), and what the C timer wrote meanwhile.
        """
        frames = innermost_frames()
        silenced = next(iter(self._pulses.values()), None)
        for pulse in self._pulses.values():
            pulse.seen_ns = now_ns
            pulse.token = None
        limit_ns = int(self.config.loop_after * 1e9)
        if silenced is None or late_ns < self._loop_limit_ns(silenced, limit_ns):
            return
        marks = [pulse.mark for pulse in self._pulses.values()]
        stacks = [{"ident": mark.ident, "native_id": mark.native_id, "frames": stack_of(frames.get(mark.ident))} for mark in marks]
        rests = all(at_rest(frame) for mark in marks if (frame := frames.get(mark.ident)) is not None)
        del frames
        written_at = self.timer.written_at() if self.timer is not None else None
        age_s = None if written_at is None else time.time() - written_at
        evidence = lateness.of_silence(self.ledger, now_ns - late_ns, now_ns, used, stacks, rests, age_s)
        if evidence.data["stopped"]:
            self.ledger.drop("silences while the process was stopped")
            return
        found = [evidence]
        if self.timer is not None and self.timer.path is not None and self.timer.written():
            # Read now: the file is emptied as soon as the loop lives again. Imported long ago, by the reporter.
            from hangwatch.evidence import faulthandler

            found.append(faulthandler.read(self.timer.path, os.getpid()))
        self._report(Alarm(Stall("loop", silenced.mark.id, now_ns - late_ns, limit_ns), evidence=found, over=True))

    # loops

    def _look_at_loops(self, now_ns: int) -> None:
        marks = self.ledger.loops
        if not marks and not self._pulses:
            return
        for key in [key for key in self._pulses if key not in marks or marks[key] is not self._pulses[key].mark]:
            self._came_back(self._pulses.pop(key))
        limit_ns = int(self.config.loop_after * 1e9)
        frames: dict[int, Any] | None = None
        for key, mark in list(marks.items()):
            pulse = self._pulses.get(key)
            if pulse is None:
                pulse = self._pulses[key] = Pulse(mark, now_ns)
            frame = None
            if mark.beats == pulse.beats:
                frames = innermost_frames() if frames is None else frames
                frame = frames.get(mark.ident)
            moves = pulse.look(frame, now_ns)
            del frame
            since_ns = self._silent_since_ns(pulse, moves, now_ns, self._loop_limit_ns(pulse, limit_ns))
            if since_ns is None:
                if moves:
                    self._came_back(pulse)
            elif not pulse.blocked:
                pulse.blocked = True
                stall = Stall("loop", mark.id, since_ns, limit_ns)
                delays = lateness.of_delays(self.ledger, self._late, since_ns, now_ns)
                self._report(Alarm(stall, pulse=pulse, evidence=delays, uncertain=not pulse.certain))

    def _silent_since_ns(self, pulse: Pulse, moves: bool, now_ns: int, limit_ns: int) -> int | None:
        """Since when the loop serves nobody: one callback does not end, or one turn has more of them than it can finish in time."""
        if pulse.turn_ns is not None and now_ns - pulse.turn_ns >= LAG * limit_ns:
            return pulse.turn_ns
        return pulse.since_ns() if not moves and now_ns - pulse.since_ns() >= limit_ns else None

    def _loop_limit_ns(self, pulse: Pulse, limit_ns: int) -> int:
        """Importing the application and loading its models blocks the loop before it serves anybody: that is start-up, not a stall."""
        starting = not (pulse.settled or pulse.mark.beats) or (pulse.mark.phase is not None and pulse.mark.phase[0] == "startup")
        startup_ns = self._phase_limit_ns("startup")
        return limit_ns if not starting else FOREVER if startup_ns is None else max(limit_ns, startup_ns)

    def _came_back(self, pulse: Pulse) -> None:
        if pulse.blocked:
            pulse.blocked = False
            self._recovered(pulse.mark.id)

    # start-up and shutdown

    def _look_at_the_end(self, now_ns: int) -> None:
        """The main program is through, and the process stays for its other threads: by then no loop and no server is left to tell of it."""
        # Set when the interpreter begins to wait for its threads. Asking the main thread would take a lock that the interpreter takes then.
        if not getattr(threading, "_SHUTTING_DOWN", False):
            return
        self._ended_ns = self._ended_ns or now_ns
        limit_ns = self._phase_limit_ns("shutdown")
        if limit_ns is not None and not self._end_told and now_ns - self._ended_ns >= limit_ns:
            self._end_told = True
            self._report(Alarm(Stall("shutdown", f"process:{os.getpid()}", self._ended_ns, limit_ns)))

    def _look_at_phases(self, now_ns: int) -> None:
        for key, mark in list(self.ledger.loops.items()):
            phase = mark.phase
            told = self._phases.get(key)
            if told is not None and phase != told[0]:
                del self._phases[key]
                self._recovered(told[1])
            limit_ns = self._phase_limit_ns(phase[0]) if phase is not None else None
            if phase is None or limit_ns is None or key in self._phases or now_ns - phase[1] < limit_ns:
                continue
            subject_id = mark.phase_task_id or mark.id
            self._phases[key] = (phase, subject_id)
            self._report(Alarm(Stall(phase[0], subject_id, phase[1], limit_ns)))

    def _phase_limit_ns(self, kind: str) -> int | None:
        limit = self.config.startup_after if kind == "startup" else self.config.shutdown_after
        return None if limit is None else int(limit * 1e9)

    # requests

    def _look_at_requests(self, now_ns: int) -> None:
        found = []
        for follow in self.ledger.due(now_ns, self._least_ns, self._limit_of, uvicorn_hooks.subject_id):
            if uvicorn_hooks.endless(follow.subject):
                continue
            if uvicorn_hooks.answered(follow.subject) and not uvicorn_hooks.blocks_next(follow.subject):
                self.ledger.again_at(follow, now_ns + max(LOOK_AGAIN_NS, (now_ns - follow.since_ns) // 4))
            elif self._waits_for_loop(follow):
                self.ledger.again_at(follow, now_ns + GRACE_NS)
            else:
                found.append(follow)
        if found:
            first = found[0]
            self._report(Alarm(Stall("request", first.subject_id, first.since_ns, first.limit_ns or 0), follows=found))

    def _limit_of(self, subject: Any) -> int | None:
        limit_ns = stalls.limit_ns(self.config, uvicorn_hooks.path_of(subject))
        return None if limit_ns >= FOREVER else limit_ns

    def _waits_for_loop(self, follow: Follow) -> bool:
        """Its loop is blocked: that is told already, and is the cause."""
        loop = getattr(uvicorn_hooks.protocol_of(follow.subject), "loop", None)
        pulse = self._pulses.get(id(loop))
        return pulse is not None and pulse.blocked


def tick_of(config: Config) -> float:
    """Seconds between beats: a quarter of the shortest limit, so that a stall is seen at most that much late."""
    shortest = min([config.loop_after, config.stall_after, *(limit for _, limit in config.routes if limit is not None)])
    return max(0.02, min(0.25, shortest / 4))
