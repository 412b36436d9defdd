"""Finishes what a worker could not: one that was killed, or one that cannot run any Python because native code holds its GIL.

Both leave ``faulthandler.txt`` in their folder of the spool, written by a C thread that needs no GIL, and ``worker.json`` with what the
process is. One that is let run for moments only (between two garbage collections) has noted it in ``silence.json``. From these, and from
what can still be seen of a live process, comes the incident that the worker would have written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hangwatch import evidence, lifesign, silence
from hangwatch.evidence import faulthandler
from hangwatch.investigate import investigate
from hangwatch.kernel import procfs
from hangwatch.records import SCHEMA, Evidence, Frame, Incident, Loop, Snapshot, Stall, Thread
from hangwatch.stacktimer import LEAST_S
from hangwatch.store import Store
from hangwatch.worker import EVERY_S, SAME_S, TOLD

#: A worker that still writes its `worker.json` can run Python: what it finds it tells itself.
SILENT_S = EVERY_S * 1.75
#: What a worker has noted and not told for this long it cannot tell: its reporter needs some 0.3 s where it may run.
UNTOLD_S = 2.5
#: A folder without worker.json is one that is just being made, or one of a worker killed at its very start.
NAMELESS_S = 60.0
_NEVER_S = float("inf")


def finish(store: Store, *, live: bool = True, now: float | None = None, ended: list[Incident] | None = None) -> list[Incident]:
    """Adds an incident for every worker that left one behind; ends the open ones of dead workers. Returns what was added.

    ``ended`` takes the open ones that were ended. ``live``: also look at workers that still run but hang too hard to report (takes
    py-spy's time, some 0.1 s each). Never raises for what it finds: a folder that cannot be read is left for the next time.
    """
    now = time.time() if now is None else now
    added = []
    for folder, pid, alive in store.worker_dirs():
        facts = _facts(folder)
        if facts.get("pid") != pid:
            _clear_away(folder, alive, now)
            continue
        # A worker of another container or host that shares the spool: its pid is somebody else's here.
        if alive and not (live and folder.name == lifesign.name_of(pid)):
            continue
        try:
            incident = _of_worker(store, folder, facts, alive, now)
            if incident is not None:
                store.add(incident)
                added.append(incident)
            if alive:
                _follow(store, folder, incident, now)
            else:
                closed = _close_open_ones(store, facts)
                if ended is not None:
                    ended += closed
                shutil.rmtree(folder, ignore_errors=True)
        except Exception:  # half a file, one of another version: one folder must not cost the others
            continue
    return added


def _clear_away(folder: Path, alive: bool, now: float) -> None:
    """Killed before it had written what it is: nothing can be told of it."""
    with contextlib.suppress(OSError):
        if not alive and now - folder.stat().st_mtime > NAMELESS_S:
            shutil.rmtree(folder, ignore_errors=True)


def _follow(store: Store, folder: Path, incident: Incident | None, now: float) -> None:
    """Remembers which incident was told in a live worker's place, and ends it once the worker runs again: then its dump is empty."""
    mark = folder / TOLD
    if incident is not None:
        mark.write_text(incident.id)
    elif mark.exists() and not (folder / "faulthandler.txt").stat().st_size and silence.read(folder) is None:
        known = store.load(mark.read_text())
        mark.unlink()
        if known.closed_at is None:
            store.update(dataclasses.replace(known, closed_at=now))


def _facts(folder: Path) -> dict[str, Any]:
    try:
        facts = json.loads((folder / "worker.json").read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _of_worker(store: Store, folder: Path, facts: dict[str, Any], alive: bool, now: float) -> Incident | None:
    pid = int(facts.get("pid") or 0)
    dump, note = faulthandler.read(folder / "faulthandler.txt", 0), silence.read(folder)
    beat_at = float(facts.get("beat_at") or 0)
    written_at = 0.0 if dump.error or (alive and now - beat_at < SILENT_S) else float(dump.data.get("written_at") or 0)
    if note is not None and alive and now - note["noted_at"] < UNTOLD_S:
        note = None
    if not written_at and note is None:
        return None
    limit_s = float(facts.get("config", {}).get("loop_after") or 0.5)
    # When the silence began that made the C timer fire, or the one that was noted.
    fired_at = written_at - max(limit_s, LEAST_S) if written_at else _NEVER_S
    opened_at = min(fired_at, note["begun_at"] if note is not None else _NEVER_S)
    if _told(store, facts, opened_at):
        return None
    end_at = now if alive else max(beat_at, written_at, note["noted_at"] if note is not None else 0.0)
    age_ns, limit_ns = int((end_at - opened_at) * 1e9), int(limit_s * 1e9)
    snapshot = _snapshot(facts, dump.data["threads"] if written_at else note["threads"] if note else (), alive, end_at, age_ns)
    found = [*([dump] if written_at else []), *_of_watchdog(note, end_at - fired_at if alive and written_at else None)]
    if alive:
        target = evidence.Target(pid, native=True, loop_native_ids=tuple(loop["thread_native_id"] for loop in facts.get("loops", ())))
        found += evidence.collect(target, ("py-spy", "process", "sockets"), deadline_s=4.0)
    loop_id = snapshot.loops[0].id if snapshot.loops else f"process:{pid}"
    stall = Stall("loop", loop_id, -age_ns, limit_ns)
    service, host = str(facts.get("service") or "") or _program(facts), str(facts.get("host") or "")
    incident = investigate(stall, snapshot, evidence=found, service=service, host=host, opened_at=opened_at)
    return incident if alive else dataclasses.replace(incident, closed_at=end_at)


def _of_watchdog(note: dict[str, Any] | None, late_s: float | None) -> Iterator[Evidence]:
    """What it noted; else, of a live worker, for how long it has been silent by what its timer wrote (``late_s``)."""
    if note is not None:
        text = f"Its watchdog could not run for {note['late_ms']} ms ({note['silences']} times), and has not been able to tell it since."
        yield Evidence("watchdog", data=note, text=text)
    elif late_s is not None:
        yield Evidence("watchdog", data={"late_ms": round(late_s * 1e3)}, text="The worker's own watchdog wrote nothing.")


def _is_of(known: Incident, facts: dict[str, Any]) -> bool:
    """In containers that share a spool many workers have the same pid; their hosts' names differ."""
    return known.snapshot.pid == facts.get("pid") and (not known.host or not facts.get("host") or known.host == facts["host"])


def _told(store: Store, facts: dict[str, Any], opened_at: float) -> bool:
    """That stall is in the spool already, by the worker itself or by an earlier look."""
    return any(
        _is_of(known, facts)
        and known.stall.kind == "loop"
        and known.opened_at - SAME_S <= opened_at <= (known.closed_at or opened_at) + SAME_S
        for known in store.heads()
    )


def _snapshot(facts: dict[str, Any], seen: Iterable[dict[str, Any]], alive: bool, end_at: float, age_ns: int) -> Snapshot:
    """Monotonic times are counted from the end: a dead process' clock cannot be read. Tasks are not known."""
    pid = int(facts.get("pid") or 0)
    known = {loop.get("thread_ident"): loop for loop in facts.get("loops", ())}
    threads, loops = [], []
    for said in seen:
        loop = known.get(said["ident"])
        native_id = int((loop or said).get("thread_native_id") or said.get("native_id") or 0)
        thread_id = f"thread:{native_id or said['ident']}"
        frames = tuple(Frame(f["file"], f["line"], f["function"]) for f in said["frames"])
        name = said.get("name") or ("event loop" if loop else "")
        call = procfs.thread_syscall(pid, native_id) if alive and native_id else None
        cpu_ns = procfs.thread_cpu_ns(pid, native_id) if alive and native_id else None
        threads.append(Thread(thread_id, name, native_id, frames, is_loop=loop is not None, syscall=call, cpu_ns=cpu_ns))
        if loop is not None:
            loops.append(Loop(str(loop.get("id")), str(loop.get("kind") or "asyncio"), thread_id, lag_ns=age_ns, asleep=False))
    gap = (
        "Only thread stacks are known: the process could not look at itself."
        if alive
        else "Only thread stacks are known: the process was killed."
    )
    versions = {"python": str(facts.get("python") or "")}
    return Snapshot(SCHEMA, end_at, 0, pid, "faulthandler", tuple(loops), threads=tuple(threads), versions=versions, gaps=(gap,))


def _close_open_ones(store: Store, facts: dict[str, Any]) -> list[Incident]:
    """A killed worker's incidents ended with it."""
    started_at, ended_at = float(facts.get("started_at") or 0), float(facts.get("beat_at") or time.time())
    closed = []
    for head in store.heads():
        if _is_of(head, facts) and head.closed_at is None and head.opened_at >= started_at:
            known = store.load(head.id)
            closed.append(dataclasses.replace(known, closed_at=max(ended_at, known.opened_at)))
            store.update(closed[-1])
    return closed


def _program(facts: dict[str, Any]) -> str:
    argv = facts.get("argv") or [""]
    return Path(str(argv[0])).name.removesuffix(".py") or "python"
