"""Asking the agent of a process, where there is one: it knows since when, and needs no right to read memory."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hangwatch import control, lifesign
from hangwatch.config import default_spool
from hangwatch.kernel import files, procfs
from hangwatch.records import Snapshot, Stall, from_json

#: An agent that has not greeted by then cannot run (native code holds the GIL) or is busy with somebody else.
GREETING_S: Final = 0.5
#: A snapshot of 10,000 tasks takes some seconds, as the loop runs in between.
ANSWER_S: Final = 10.0
_LONGEST_ANSWER: Final = 256 << 20


class Agent:
    """One conversation. Raises OSError or ValueError for whatever is no agent that answers."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._waiting = bytearray()
        self.greeting: dict[str, Any] = self._line(GREETING_S)
        if "hangwatch" not in self.greeting:
            raise ValueError("no agent")

    def ask(self, verb: str) -> Any:
        self._connection.sendall(json.dumps({"ask": verb}).encode() + b"\n")
        said = self._line(ANSWER_S)
        if "error" in said:
            raise ValueError(said["error"])
        return said["answer"]

    def snapshot(self) -> Snapshot:
        found: Snapshot = from_json(Snapshot, self.ask("snapshot"))
        return found

    def stalls(self) -> list[Stall]:
        """What it calls stalled now, the longest first."""
        found = [from_json(Stall, entry["stall"]) for entry in self.ask("stalls")]
        return sorted(found, key=lambda stall: stall.since_ns)

    def _line(self, patience_s: float) -> dict[str, Any]:
        self._connection.settimeout(patience_s)
        while b"\n" not in self._waiting:
            part = self._connection.recv(1 << 20)
            if not part or len(self._waiting) > _LONGEST_ANSWER:
                raise ValueError("no answer")
            self._waiting += part
        line, _, rest = bytes(self._waiting).partition(b"\n")
        self._waiting = bytearray(rest)
        said = json.loads(line)
        if not isinstance(said, dict):
            raise ValueError("no answer")
        return said


@contextlib.contextmanager
def agent_of(pid: int) -> Iterator[Agent | None]:
    """The agent inside process ``pid``, None when there is none or it does not answer."""
    with contextlib.ExitStack() as stack:
        yield _first_that_answers(pid, stack)


def _first_that_answers(pid: int, stack: contextlib.ExitStack) -> Agent | None:
    for folder in _folders(pid):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(GREETING_S)
            way = os.open(folder, os.O_PATH | os.O_DIRECTORY)
            try:  # by its descriptor, as sun_path is short and paths into containers are long
                connection.connect(f"/proc/self/fd/{way}/{control.FILE_NAME}")
            finally:
                os.close(way)
            if not _is_whose(connection, pid):
                raise ValueError("another user's")
            return Agent(stack.enter_context(connection))
        except (OSError, ValueError):
            connection.close()
    return None


def _is_whose(connection: socket.socket, pid: int) -> bool:
    """Whoever listens there is the process's user (or root): nobody else may tell us about it."""
    _, uid, _ = control.UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, control.UCRED.size))
    users = procfs.status(pid).get("Uid", "").split()
    return uid == 0 or str(uid) in users


def _folders(pid: int) -> Iterator[Path]:
    """Where its socket may be: in this user's spool, else where its own descriptors say."""
    spool = Path(os.environ["HANGWATCH_SPOOL"]) if os.environ.get("HANGWATCH_SPOOL") else default_spool()
    ours = spool / "workers" / lifesign.name_of(pid)
    if (ours / control.FILE_NAME).exists():
        yield ours
    for path in _listening(pid):
        if path.startswith("/proc/self/fd/"):
            yield Path(f"/proc/{pid}/fd", path.split("/")[4])
        else:
            yield Path(f"/proc/{pid}/root", os.path.dirname(path).lstrip("/"))


def _listening(pid: int) -> list[str]:
    """Paths of the control sockets that this process has open (proc(5), /proc/PID/net/unix)."""
    try:
        own = {os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
    except OSError:
        return []
    found = []
    for line in (files.read_text(f"/proc/{pid}/net/unix", 8 << 20) or "").splitlines()[1:]:
        columns = line.split(None, 7)
        if len(columns) == 8 and columns[7].endswith(f"/{control.FILE_NAME}") and f"socket:[{columns[6]}]" in own:
            found.append(columns[7])
    return found
