"""A look at a worker that has never heard of hangwatch: its memory is read, it is neither stopped nor entered.

    incident = attach.look(pid)      # Incident; no findings when nothing is stuck

Two looks are taken a moment apart, because a contradiction seen twice is proof and because what stands still in both is
what hangs; then the same rules as in the agent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from hangwatch.attach import garbage, permissions
from hangwatch.attach.between import Between
from hangwatch.attach.side import Side
from hangwatch.errors import CannotLook
from hangwatch.kernel import procfs
from hangwatch.reading.remote import RemoteReader
from hangwatch.records import Evidence, Incident, Snapshot, Stall
from hangwatch.snapshot import take

__all__ = ["look", "look_at_core", "open_reader"]

#: Time between the two looks: longer than a healthy callback or the 0.1 s tick of a server, short for who waits for the answer.
APART_S = 0.3
#: Captures that stop nothing and need no tool.
QUIET = ("process", "sockets")


def open_reader(pid: int) -> RemoteReader:
    """A reader of that process, or CannotLook with the reason and what to do."""
    permissions.check(pid)
    try:
        return RemoteReader(pid, Side(pid))
    except CannotLook as error:
        raise permissions.ended(pid, error) from None


def look(
    pid: int,
    *,
    native: bool = False,
    captures: Iterable[str] = QUIET,
    apart_s: float = APART_S,
    service: str = "",
    reader: RemoteReader | None = None,
    outside: bool = False,
    meanwhile: Callable[[], object] | None = None,
) -> Incident:
    """What hangs in process ``pid``, and why. Raises CannotLook.

    ``native``: py-spy shows native frames too (it stops the target for some 30 to 70 ms). ``captures`` names the evidence
    to collect meanwhile. Where an agent is inside that answers, it is asked; ``outside``, and with a ``reader``, the memory is
    read all the same. ``meanwhile`` is called between the two looks, while there is nothing to do but wait. An incident without
    findings means that nothing stands still that should move.
    """
    with _without_collector():
        wanted = (*captures, "py-spy") if native else tuple(captures)
        told = None if reader or outside else _ask(pid, native, wanted, apart_s, service, meanwhile)
        if told is not None:
            return told
        try:
            return _look(reader or open_reader(pid), native, wanted, apart_s, service or service_name(pid), meanwhile)
        except CannotLook as error:
            raise permissions.ended(pid, error) from None


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """A look makes very many small objects that all stay: the collector would walk them again and again, and find nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _look(
    reader: RemoteReader, native: bool, captures: tuple[str, ...], apart_s: float, service: str, meanwhile: Callable[[], object] | None
) -> Incident:
    pid = reader.pid
    began = time.monotonic()
    seen = settled(take(reader, searched=False), reader)
    parent = procfs.parent(pid)
    if parent is not None and _is_fork_of_a_service(seen) and permissions.why_not(parent) is None:
        # Its loop and tasks are a copy of its parent's, from the moment of the fork: what hangs, hangs there.
        return _look(open_reader(parent), native, captures, apart_s, service, meanwhile)
    earlier, gil, turns = seen, reader.gil(), reader.turns()
    # What judges is imported while there is nothing to do but wait.
    from hangwatch import evidence
    from hangwatch.attach.stalled import stall_between

    collection = evidence.Collection(evidence.Target(pid, native=native, loop_native_ids=reader.loop_native_ids()), captures)
    _pass_the_time(meanwhile)
    between = Between(reader, earlier)
    between.rest(apart_s - (time.monotonic() - began))
    collected = collection.gather()
    reader.refresh()
    now = settled(take(reader), reader)
    kept = garbage.evidence(reader, between.flags) or gil_evidence(reader, gil, (now.at_ns - earlier.at_ns) / 1e6)
    stall = stall_between(earlier, now, went_on(reader, turns, kept), bool(kept))
    return conclude(stall, earlier, now, (*collected, *kept, *between.samples), service)


def _pass_the_time(meanwhile: Callable[[], object] | None) -> None:
    import hangwatch.investigate  # noqa: F401

    if meanwhile is not None:
        meanwhile()


def _ask(
    pid: int, native: bool, captures: tuple[str, ...], apart_s: float, service: str, meanwhile: Callable[[], object] | None
) -> Incident | None:
    """What the agent inside says; None when there is none, or it does not answer while native code holds the GIL."""
    from hangwatch.attach.inside import agent_of

    with agent_of(pid) as agent:
        if agent is None:
            return None
        from hangwatch import evidence
        from hangwatch.attach.stalled import stall_between

        try:
            began, earlier = time.monotonic(), agent.snapshot()
            collection = evidence.Collection(evidence.Target(pid, native=native, loop_native_ids=_loop_threads(earlier)), captures)
            _pass_the_time(meanwhile)
            collected = collection.gather()
            time.sleep(max(0.0, apart_s - (time.monotonic() - began)))
            now, known = agent.snapshot(), agent.stalls()
        except (OSError, ValueError, TypeError, KeyError):
            return None
    return conclude(known[0] if known else stall_between(earlier, now), earlier, now, collected, service or service_name(pid))


def _loop_threads(seen: Snapshot) -> tuple[int, ...]:
    return tuple(int(loop.thread_id.partition(":")[2]) for loop in seen.loops if loop.thread_id)


def settled(seen: Snapshot, reader: RemoteReader) -> Snapshot:
    """The snapshot without what it says of tasks that went on while it was made.

    A task parked on a lock and that lock free, read a moment apart, are no contradiction: nothing is concluded of them.
    """
    moved = {f"task:{task:x}" for task in reader.moved()}
    if not moved:
        return seen
    shaken = {task.waits_on for task in seen.tasks if task.id in moved}
    return dataclasses.replace(
        seen,
        tasks=tuple(dataclasses.replace(task, state="parked", waits_on=None) if task.id in moved else task for task in seen.tasks),
        waits=tuple(wait for wait in seen.waits if wait.task_id not in moved),
        primitives=tuple(
            dataclasses.replace(primitive, ready=None, waiters=tuple(waiter for waiter in primitive.waiters if waiter not in moved))
            if primitive.id in shaken else primitive
            for primitive in seen.primitives
        ),
        gaps=(*seen.gaps, f"{len(moved)} task(s) went on while they were looked at: what they wait for is left out."),
    )  # fmt: skip


def went_on(reader: RemoteReader, turns: Mapping[str, tuple[int, ...] | None], kept: tuple[Evidence, ...]) -> frozenset[str]:
    """Ids of the loops that have gone on to another callback since ``turns``. One that gets a moment between two collections does not count."""
    if any(one.tool == "gc" for one in kept):
        return frozenset()
    return frozenset(loop for loop, turn in reader.turns().items() if turn is not None and turns.get(loop) not in (None, turn))


def gil_evidence(reader: RemoteReader, before: tuple[int | None, int] | None, apart_ms: float) -> tuple[Evidence, ...]:
    """Whether one thread kept the GIL from the first look to the second. Read from the interpreter's own record of it.

    A Python thread that computes has it in both looks too, and gives it away whenever somebody asks. So it counts as kept
    when its owner sits in a system call with it, when a loop's thread waits for it, or when the owner is inside one call of C code.
    """
    now = reader.gil()
    if before is None or now is None or now[0] is None or before != now:
        return ()
    owner = now[0]
    sits = _sits_with_it(reader, owner, now)
    call = reader.side.call_name(owner)
    asked = any(reader.side.call_name(loop) == "futex" for loop in reader.loop_native_ids() if loop != owner)
    if not sits and not asked and not reader.stays_at_one_instruction(owner):
        return ()
    where = (
        f"in the system call {reader.side.syscall(owner)}"
        if sits
        else "and a loop's thread waits for it"
        if asked
        else "inside one call of C code"
    )
    text = f"Thread {owner} had the GIL in two looks {apart_ms:.0f} ms apart, without giving it away in between, {where}."
    return (Evidence("gil", text, {"owner": owner, "kept_ms": round(apart_ms, 1), "call": call, "asked": asked}),)


def _sits_with_it(reader: RemoteReader, owner: int, held: tuple[int | None, int]) -> bool:
    """It has the GIL and is in one system call, at the same time. A loop that is busy has the one, then is in the other, many times a millisecond."""
    used_ns, calls = reader.side.cpu_ns(owner), set()
    for _ in range(3):
        reader.side.begin()
        calls.add(reader.side.call_name(owner))
        if reader.gil() != held or reader.side.cpu_ns(owner) != used_ns:
            return False
        time.sleep(0.002)
    return len(calls) == 1 and not calls & {None, "running"}


def _is_fork_of_a_service(seen: Snapshot) -> bool:
    """A worker of multiprocessing, forked while a loop ran: below the frames of that loop stands the worker's own main function."""
    for thread in seen.threads:
        ran = False
        for frame in thread.frames:
            ran = ran or frame.function.rpartition(".")[2] in ("_run_once", "run_forever")
            if ran and frame.file.endswith("multiprocessing/process.py") and frame.function.rpartition(".")[2] == "_bootstrap":
                return True
    return False


def look_at_core(path: str, service: str = "") -> Incident:
    """What hung in the process that left this core file, and why. Raises CannotLook.

    There is one moment only: a contradiction cannot be seen twice, so nothing is proved by it alone.
    """
    from hangwatch.attach.stalled import stall_between
    from hangwatch.reading.remote.core import CoreSide, CoreSource

    source = CoreSource(path)
    try:
        reader = RemoteReader(source.pid, CoreSide(source), source)
        now = take(reader)
    except CannotLook as error:
        if source.missing:
            listed = ", ".join(sorted(source.missing)[:3])
            raise CannotLook(
                str(error), f"The core leaves out pages of {listed}, and these files are not here or another build. gcore writes all pages."
            ) from None
        if "no CPython" in str(error):
            program = source.executable or source.arguments
            raise CannotLook(f"{path} is the core of {program}, in which there is no CPython", error.help_text) from None
        raise
    gaps = ("A core file shows one moment: what moves and what stands still cannot be told apart.",)
    now = dataclasses.replace(now, gaps=(*now.gaps, *gaps))
    return conclude(stall_between(now, now), None, now, (), service or source.arguments.rpartition(" ")[2])


def conclude(stall: Stall | None, earlier: Snapshot | None, now: Snapshot, collected: tuple[Evidence, ...], service: str) -> Incident:
    """The incident that the snapshots show. When nothing is stuck (no ``stall``), only what is proved all the same is found."""
    from hangwatch.investigate import investigate

    asked = stall or Stall("task", f"process:{now.pid}", now.at_ns, 1)
    incident = investigate(asked, now, evidence=collected, earlier=earlier, service=service, host=os.uname().nodename)
    if stall is None:
        incident = dataclasses.replace(incident, findings=tuple(finding for finding in incident.findings if finding.confidence == "proved"))
    return incident


def service_name(pid: int) -> str:
    """A short name for a service that has told none: ``main:app`` of ``uvicorn main:app``, else the script."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return ""
    words = [word for word in words if word]
    applications = [
        word for word in words[1:] if ":" in word and not word.startswith(("-", "http", "/")) and not word.rpartition(":")[2].isdigit()
    ]
    scripts = [Path(word).stem for word in words[1:] if word.endswith(".py")]
    return (applications or scripts or [Path(words[0]).name if words else ""])[0]
