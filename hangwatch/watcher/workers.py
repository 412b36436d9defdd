"""Which processes are watched: those that were named, or every Python on the host, also those that start later."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from hangwatch import attach
from hangwatch.attach import permissions
from hangwatch.attach.target import resolve
from hangwatch.errors import HangwatchError
from hangwatch.kernel import files

#: A master's children, a restarted worker: looked for this often. Between a start and the first request lie some seconds.
RESCAN_S = 2.0
#: Of all that run, those that are over sooner are left alone: to look into each of a build's thousand processes costs more than it tells.
YOUNG_S = 2.0
#: What is no Python is looked at again after this long.
OTHERS_S = 60.0
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK") or 100
#: Reasons of `permissions.why_not` for which a process is no Python worker; for the others it is one that cannot be read.
_NO_WORKER = frozenset(("not-python", "kernel-thread", "zombie", "gone", "hidden", "32-bit", "pypy"))
_PYTHON = re.compile(r"(?:lib)?python\d|uwsgi|gunicorn")


@dataclass(slots=True)
class Worker:
    """One watched process. ``start`` with ``pid`` names it for ever; ``blind`` says why its memory cannot be read, "" when it can."""

    pid: int
    start: str
    service: str
    blind: str = ""
    not_loops: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a person asked for. ``names``: pids, parts of a command line, ``:PORT``; ``containers``: ids, or their beginning."""

    names: tuple[str, ...] = ()
    everything: bool = False
    containers: tuple[str, ...] = ()


class Roster:
    """The workers that are there now. Processes that were looked at once and are none are remembered."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.workers: dict[int, Worker] = {}
        self._seen: dict[int, str] = {}
        #: Processes without Python, until `_forget_at_s`: a library may be loaded later.
        self._others: dict[int, str] = {}
        self._forget_at_s = 0.0
        #: Who is who during one scan.
        self._now: dict[int, str] = {}

    def rescan(self) -> tuple[list[Worker], list[Worker]]:
        """Those that came and those that went since the last time. Never raises."""
        self._now.clear()
        if time.monotonic() > self._forget_at_s:
            self._others.clear()
            self._forget_at_s = time.monotonic() + OTHERS_S
        wanted = self._wanted()
        gone = [worker for pid, worker in self.workers.items() if pid not in wanted or self._identity(pid) != worker.start]
        for worker in gone:
            del self.workers[worker.pid]
        came = []
        for pid in wanted:
            identity = self._identity(pid)
            if pid in self.workers or not identity or self._seen.get(pid) == identity:
                continue
            found = _worker(pid, identity)
            if found is None:
                self._seen[pid] = identity
            else:
                self.workers[pid] = found
                came.append(found)
        if len(self._seen) > 65536:
            self._seen.clear()
        return came, gone

    def _wanted(self) -> set[int]:
        found: set[int] = set()
        everywhere = self.choice.everything or self.choice.containers
        if everywhere:
            found.update(pid for pid in files.list_numbers("/proc") if pid != os.getpid() and self._is_candidate(pid))
        for name in self.choice.names:
            try:
                found.update(worker.pid for worker in resolve(name))
            except HangwatchError:
                continue  # not there now; it may come (back)
        return found

    def _is_candidate(self, pid: int) -> bool:
        if self.choice.containers and not _in_container(pid, self.choice.containers):
            return False
        identity = self._identity(pid)
        if pid in self.workers or self._seen.get(pid) == identity:
            return True
        if self._others.get(pid) == identity or _age_s(identity) < YOUNG_S:
            return False
        found = looks_like_python(pid)
        if not found:
            self._others[pid] = identity
        return found

    def _identity(self, pid: int) -> str:
        if pid not in self._now:
            self._now[pid] = _identity(pid)
        return self._now[pid]


def looks_like_python(pid: int) -> bool:
    """Cheaply: by its program's or its libraries' names. An interpreter under another name is found when it is named by pid."""
    program = os.path.basename(files.read_link(f"/proc/{pid}/exe") or "")
    if _PYTHON.search(program):
        return True
    return bool(re.search(r"/libpython\d", files.read_text(f"/proc/{pid}/maps", 1 << 18) or ""))


def _in_container(pid: int, wanted: Sequence[str]) -> bool:
    """The id that a container runtime gave stands in the path of the process' control group."""
    paths = files.read_text(f"/proc/{pid}/cgroup", 65536) or ""
    return any(len(name) >= 4 and re.search(rf"(?:^|[/:\-]){re.escape(name)}", paths) for name in wanted)


def _worker(pid: int, identity: str) -> Worker | None:
    refused = permissions.why_not(pid)
    if refused is not None and refused.reason in _NO_WORKER:
        return None
    return Worker(pid, identity, attach.service_name(pid), str(refused) if refused else "")


def _age_s(identity: str) -> float:
    """Seconds since it began; for ever where that is not known."""
    begun = identity.partition(" ")[0]
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(begun) / _TICKS_A_SECOND if begun.isdigit() else float("inf")


def _identity(pid: int) -> str:
    """When it began and what it runs: a reused pid, or an exec, is another worker. "" when it is gone."""
    stat = files.read_text(f"/proc/{pid}/stat") or ""
    columns = stat.rpartition(")")[2].split()
    if len(columns) < 20 or columns[0] in "ZX":
        return ""
    return f"{columns[19]} {files.read_link(f'/proc/{pid}/exe')}"
