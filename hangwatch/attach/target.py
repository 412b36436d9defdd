"""From what a person types to a pid: a number, a part of the command line, or ``:PORT``; a master stands for its workers."""

from __future__ import annotations

import os
from dataclasses import dataclass

from hangwatch.attach import permissions
from hangwatch.errors import CannotLook
from hangwatch.kernel import files, procfs


@dataclass(frozen=True, slots=True)
class Worker:
    """One process that could be meant."""

    pid: int
    command: str
    children: tuple[int, ...] = ()


def resolve(wanted: str) -> list[Worker]:
    """The processes that ``wanted`` stands for, at least one. Raises CannotLook with what is there instead."""
    if wanted.startswith(":") and wanted[1:].isdigit():
        found = _on_port(int(wanted[1:]))
        if not found:
            raise CannotLook(f"nothing that this user may see listens on TCP port {wanted[1:]}", _listening_hint())
    elif wanted.isdigit():
        pid = int(wanted)
        if not os.path.isdir(f"/proc/{pid}"):
            raise CannotLook(
                f"there is no process {pid}",
                "pgrep -af python lists Python processes; `hangwatch attach :8000` finds the one behind a port.",
            )
        found = [pid]
    else:
        found = _by_name(wanted)
        if not found:
            raise CannotLook(f"no process has {wanted!r} in its command line", "pgrep -af python lists Python processes.")
    return workers_of(found)


def workers_of(pids: list[int]) -> list[Worker]:
    """Each process, and below a master that forks (gunicorn, uvicorn --workers) its Python children in place of it."""
    found: dict[int, Worker] = {}
    for pid in pids:
        children = [child for child in procfs.children(pid) if _same_program(pid, child)]
        if children and _is_master(pid):
            for child in children:
                found[child] = Worker(child, permissions.command(child, 120))
        else:
            found.setdefault(pid, Worker(pid, permissions.command(pid, 120), tuple(children)))
    return list(found.values())


def _is_master(pid: int) -> bool:
    """It started children of its own program and runs no loop: gunicorn's arbiter, uvicorn's supervisor."""
    words = (files.read_text(f"/proc/{pid}/cmdline", 65536) or "").split("\0")
    names = {os.path.basename(word) for word in words}
    return bool(names & {"gunicorn", "gunicorn: master"}) or any(word.startswith("gunicorn: master") for word in words) or (
        "uvicorn" in names and bool({"--workers", "--reload"} & set(words))
    )  # fmt: skip


def _same_program(pid: int, child: int) -> bool:
    if files.read_link(f"/proc/{pid}/exe") != files.read_link(f"/proc/{child}/exe"):
        return False
    # multiprocessing starts a helper that only keeps count of shared memory.
    return "resource_tracker" not in (files.read_text(f"/proc/{child}/cmdline", 65536) or "")


def _on_port(port: int) -> list[int]:
    """Those that accept on it. Of a master and its workers, who share the socket, the workers; of several users of one port all."""
    holders = [pid for pid in files.list_numbers("/proc") if port in procfs.listening_ports(pid)]
    shared = set(holders)
    leaves = [pid for pid in holders if not shared & set(procfs.children(pid))]
    return leaves or holders


def _listening_hint() -> str:
    ports = sorted({port for pid in files.list_numbers("/proc") for port in procfs.listening_ports(pid)})
    listed = ", ".join(f":{port}" for port in ports[:12])
    return f"Ports that are listened on here: {listed}." if listed else "Ports of other users' processes are seen by root only."


def _by_name(name: str) -> list[int]:
    found = []
    own = {os.getpid(), os.getppid()}
    for pid in files.list_numbers("/proc"):
        words = (files.read_text(f"/proc/{pid}/cmdline", 65536) or "").replace("\0", " ")
        if pid not in own and name in words and "hangwatch" not in words and _has_python(pid):
            found.append(pid)
    return found


def _has_python(pid: int) -> bool:
    return permissions.why_not(pid) is None
