"""Bringing the agent into a process that runs, and taking it out: which way, whether it may be entered, what to say when it may not.

Two ways. From 3.14 on the interpreter itself offers one (PEP 768, `pep768`): its main thread runs a script at its next safe point, where
it comes by one. Otherwise, and only when named (``by_ptrace``), a thread is started in the target while one of its own is stopped at a
safe place (`newthread`, x86-64).
"""

from __future__ import annotations

import contextlib
import platform
import secrets
from typing import Any, Final, NoReturn

from hangwatch.attach import permissions
from hangwatch.attach.entry import answer, payload, pep768
from hangwatch.attach.entry.imports import wait_for_imports
from hangwatch.attach.entry.place import Place
from hangwatch.attach.inside import agent_of
from hangwatch.attach.side import Side
from hangwatch.errors import CannotLook
from hangwatch.kernel import files, procfs
from hangwatch.reading.remote import RemoteReader

#: The oldest Python that runs hangwatch's modules.
OLDEST: Final = (3, 10)
_LOOKS: Final = 20
_AT_START: Final = "At its next start: hangwatch run -- CMD."


class CannotEnter(CannotLook):
    """The process is as it was."""


def install(pid: int, *, by_ptrace: bool = False, force: bool = False, **settings: Any) -> dict[str, Any]:
    """Brings the agent in; ``{"spool": FOLDER, "loops": N}``. ``settings`` as of `hangwatch.install`. Raises CannotLook, CannotEnter."""
    with agent_of(pid) as agent:
        if agent is not None:
            raise CannotEnter(f"process {pid} has an agent inside already", f"hangwatch attach {pid} asks it.")
    permissions.check(pid)
    reader = RemoteReader(pid, Side(pid))
    if reader.roots.layout.version < OLDEST:
        raise CannotEnter(
            f"process {pid} runs Python {reader.roots.full_version}; the agent needs 3.10", f"hangwatch attach {pid} reads it from outside."
        )
    if not _has_loop(reader):
        raise CannotEnter(f"no event loop runs in process {pid}", "The agent watches asyncio's and uvloop's loops.")
    return _enter(reader, "install", settings, by_ptrace, force)


def uninstall(pid: int, *, by_ptrace: bool = False, force: bool = False) -> None:
    """Takes out what `install` brought in. Raises CannotLook, CannotEnter."""
    permissions.check(pid)
    _enter(RemoteReader(pid, Side(pid)), "uninstall", {}, by_ptrace, force)


def _enter(reader: RemoteReader, what: str, settings: dict[str, Any], by_ptrace: bool, force: bool) -> dict[str, Any]:
    pid, token = reader.pid, secrets.token_hex(8)
    if owner_said_no(pid) and not force:
        raise CannotEnter(
            f"process {pid} was started with remote debugging switched off (PYTHON_DISABLE_REMOTE_DEBUG or -X disable-remote-debug)",
            f"Its owner wants nobody to run code in it.{' --force --by-ptrace does so all the same.' if _may_start_threads() else ''}",
        )
    wait_for_imports(reader)
    why = f"Python {reader.roots.full_version} has no door of its own for this (PEP 768 came with 3.14)"
    switches = pep768.find(reader)
    if switches is not None:
        said = _enter_by_door(reader, switches, what, token, settings)
        if said is not None:
            return said
        why = "its main thread did not come by a safe point in 2 s: it is asleep, or blocked in a call"
    if not by_ptrace or not _may_start_threads():
        if by_ptrace:
            why += f"; a thread can be started from outside on x86-64 only, this is {platform.machine()}"
        ways = [_by_force(pid, what)] if _may_start_threads() else []
        by_hand = _by_hand(pid, payload.script(what, token, settings))
        raise CannotEnter(f"process {pid} cannot be entered: {why}", "\n".join((*ways, by_hand, _AT_START)))
    return _enter_by_thread(reader, what, token, payload.script(what, token, settings))


def _enter_by_door(
    reader: RemoteReader, switches: pep768.Switches, what: str, token: str, settings: dict[str, Any]
) -> dict[str, Any] | None:
    """None when the main thread did not come; then nothing is left."""
    place = Place(reader.pid)
    try:
        place.write(payload.script(what, token, settings, place.inside))
        if not pep768.run(reader.pid, switches, place.inside):
            return None
        said = answer.wait(reader.pid, token)
    finally:
        place.remove()
    if said is None:
        answer.call_off(reader.pid, token)  # if it is not there yet, it will miss its script and do nothing
        _unanswered(reader.pid, what, True)
    return _checked(reader.pid, said)


def _enter_by_thread(reader: RemoteReader, what: str, token: str, text: str) -> dict[str, Any]:
    from hangwatch.attach.entry import newthread

    call_off = newthread.run(reader, text)
    said = answer.wait(reader.pid, token)
    if said is None:
        _unanswered(reader.pid, what, answer.call_off(reader.pid, token) or call_off() or answer.call_off(reader.pid, token))
    return _checked(reader.pid, said)


def _may_start_threads() -> bool:
    """`newthread` has code for this machine."""
    return platform.machine() == "x86_64"


def _has_loop(reader: RemoteReader) -> bool:
    """A thread whose stack moves while it is read may hide its loop: asked more than once."""
    for _ in range(_LOOKS):
        with contextlib.suppress(CannotLook):  # it changes too fast
            if reader.loops():
                return True
        reader.refresh()
    return False


def owner_said_no(pid: int) -> bool:
    """The switches of PEP 768, which also say what is wanted on versions that do not know them."""
    environ = (files.read_text(f"/proc/{pid}/environ") or "").split("\0")
    words = (files.read_text(f"/proc/{pid}/cmdline") or "").split("\0")
    return any(entry.partition("=")[0] == "PYTHON_DISABLE_REMOTE_DEBUG" and entry.partition("=")[2] for entry in environ) or any(
        word in ("disable-remote-debug", "disable_remote_debug", "-Xdisable-remote-debug", "-Xdisable_remote_debug") for word in words
    )


def _unanswered(pid: int, what: str, called_off: bool) -> NoReturn:
    if not procfs.status(pid):
        raise CannotEnter(f"process {pid} has ended")
    raise CannotEnter(
        f"process {pid} was asked to {what} the agent, and has told nothing for {answer.PATIENCE_S:.0f} s: native code keeps the GIL, or it"
        " has no CPU",
        "It was called off: a thread of ours that waits there ends without having done anything, or undoes it, once it can run."
        if called_off
        else f"It could not be called off any more, and may go on once it can run: `hangwatch attach {pid}` asks the agent when it is there,"
        " --uninstall takes it out.",
    )


def _checked(pid: int, said: dict[str, Any]) -> dict[str, Any]:
    if "error" in said:
        raise CannotEnter(f"process {pid}: {said['error']}", "It is as it was before.")
    return said


def _by_force(pid: int, what: str) -> str:
    return (
        f"hangwatch attach {pid} --{what} --by-ptrace stops one of its threads for about a millisecond and starts a thread in it."
        " One unexplained crash in 5,400 trials is on record: not for a process that must not be lost."
    )


def _by_hand(pid: int, text: str) -> str:
    """With gdb, which stops the process for up to a second. The script removes itself."""
    place = Place(pid)
    folder = place.inside.rpartition("/")[0]
    place.write(f"{text}(lambda system: (system.unlink({place.inside!r}), system.rmdir({folder!r})))(__import__('posix'))\n")
    place.keep()
    run = f'call (int)PyRun_SimpleString("exec(open(\\"{place.inside}\\").read())")'
    return f"""By hand, 0.3 to 1 s of standstill: gdb -p {pid} -batch -ex 'call (int)PyGILState_Ensure()' -ex '{run}' -ex 'call (void)PyGILState_Release($1)' (its script waits in {folder}; it removes itself when it runs)"""
