"""`ThreadView` over another process' memory."""

from __future__ import annotations

from hangwatch.reading.remote.kernelside import KernelSide
from hangwatch.reading.remote.roster import ThreadState
from hangwatch.reading.view import FrameView


class RemoteThread:
    """One thread as this look saw it. ``native_id`` is its id here, outside of the target's namespaces."""

    __slots__ = ("_name", "_side", "native_id", "state")

    def __init__(self, state: ThreadState, native_id: int, name: str, side: KernelSide) -> None:
        self.state = state
        self.native_id = native_id
        self._name = name
        self._side = side
        if state.frames:
            state.frames[-1].inside = (native_id, side)

    @property
    def ident(self) -> int:
        return self.state.ident

    @property
    def name(self) -> str:
        return self._name or f"thread {self.state.ident:x}"

    def frames(self) -> list[FrameView]:
        return list(self.state.frames)

    @property
    def cpu_ns(self) -> int | None:
        return self._side.cpu_ns(self.native_id)

    @property
    def syscall(self) -> str | None:
        return self._side.syscall(self.native_id)
