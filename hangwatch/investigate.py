"""One stall and what was seen -> one Incident: rules, known bugs, the root first, a fingerprint.

``investigate`` never raises for what a process did: a rule that fails is left out, and the incident's gaps say so.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import secrets
import time
from collections.abc import Iterable
from types import ModuleType

from hangwatch.graph import WaitGraph
from hangwatch.records import Evidence, Finding, Incident, Snapshot, Stall
from hangwatch.rules import RULES, unknown
from hangwatch.rules.base import Case
from hangwatch.rules.frames import is_standard
from hangwatch.rules.known_bug import known_bugs, recognise

#: Findings kept in an incident; what comes after is far from the root.
MAX_FINDINGS = 12
_SURE = ("proved", "likely", "suspected")
#: What the stall itself says comes first: a process that does not start or stop is told as such, whatever else is found.
_OF_THE_STALL = {"startup": "stuck-startup", "shutdown": "stuck-shutdown"}
#: A loop that stands still is told as such: that its thread waits at all is the mistake, whoever keeps what it waits for.
_OF_A_LOOP = frozenset({
    "deadlock", "lock-leaked", "blocked-loop-lock", "blocked-loop-io", "blocked-loop-cpu", "gil-held", "gc-pause", "cpu-starved",
})  # fmt: skip


def prepare() -> None:
    """Reads what the first investigation would have to: some 30 ms, many times that beside a thread that computes."""
    known_bugs()


def investigate(
    stall: Stall,
    snapshot: Snapshot,
    *,
    evidence: Iterable[Evidence] = (),
    earlier: Snapshot | None = None,
    service: str = "",
    host: str = "",
    opened_at: float | None = None,
) -> Incident:
    """What hung and why. ``earlier`` is an older snapshot of the same process; ``opened_at`` seconds since the epoch (now)."""
    case = Case(stall, snapshot, WaitGraph(snapshot), earlier, tuple(evidence))
    findings, gaps = judge(case)
    opened = time.time() if opened_at is None else opened_at
    return Incident(
        id=_new_id(opened),
        fingerprint=fingerprint(stall, findings, snapshot),
        service=service,
        stall=stall,
        snapshot=dataclasses.replace(snapshot, gaps=(*snapshot.gaps, *gaps)) if gaps else snapshot,
        evidence=case.evidence,
        findings=findings,
        opened_at=opened,
        host=host,
    )


def judge(case: Case) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """Every rule's findings, the root first, with the signature of a known bug where one fits; and what went wrong on the way."""
    found: list[Finding] = []
    gaps: list[str] = []
    for rule in RULES:
        found += _run(rule, case, gaps)
    if not found:
        found += _run(unknown, case, gaps)
    ranked = _ranked(case, _merged(found))
    return tuple(recognise(case, finding) for finding in ranked[:MAX_FINDINGS]), tuple(gaps)


def _run(rule: ModuleType, case: Case, gaps: list[str]) -> list[Finding]:
    try:
        return list(rule.check(case))
    except Exception as error:  # a rule of ours must not cost the others' findings
        gaps.append(f"The rule {rule.__name__.rpartition('.')[2]} failed: {type(error).__name__}: {error}")
        return []


def _merged(found: list[Finding]) -> list[Finding]:
    """The same cause at the same places, once: two hundred requests that each wait for a future of their own are one thing."""
    alike: dict[tuple[str, tuple[tuple[str, str], ...]], list[Finding]] = {}
    for finding in found:
        places = tuple((frame.file, frame.function) for frame in finding.culprit)
        alike.setdefault((finding.cause, places or (("", finding.title),)), []).append(finding)
    return [_one(group) for group in alike.values()]


def _one(group: list[Finding]) -> Finding:
    """The surest of them stands for all."""
    first = min(group, key=lambda finding: (_SURE.index(finding.confidence), -finding.frees))
    if len(group) == 1:
        return first
    subjects = tuple(dict.fromkeys(s for finding in (first, *group) for s in finding.subjects))[:100]
    title = f"{first.title} ({len(group)} times, at the same place)"
    return dataclasses.replace(first, title=title, subjects=subjects, frees=sum(finding.frees for finding in group))


def _ranked(case: Case, found: list[Finding]) -> list[Finding]:
    """The stall's own kind, then what concerns the stalled, the likely before the suspected, and of those what would free the most.

    Others may wait for something else at the same time: what the stall's own request waits for comes before that, and with an agent
    before anything that is likelier, as there every place at which requests are stuck has an incident of its own.
    """
    each_its_own = case.snapshot.source == "agent"

    def key(numbered: tuple[int, Finding]) -> tuple[bool, bool, bool, bool, bool, int, int]:
        at, finding = numbered
        own = finding.cause == _OF_THE_STALL.get(case.stall.kind) or _of_the_loop(case, finding)
        apart = not _concerns(case, finding)
        of_another = case.stall.kind == "request" and case.ahead_of_subject.isdisjoint(finding.subjects)
        return (not own, apart, of_another and each_its_own, finding.confidence == "suspected", of_another, -finding.frees, at)

    return [finding for _, finding in sorted(enumerate(found), key=key)]


def _of_the_loop(case: Case, finding: Finding) -> bool:
    if case.stall.kind != "loop" or finding.cause not in _OF_A_LOOP or finding.confidence == "suspected":
        return False
    names = {case.stall.subject_id, *(loop.thread_id for loop in case.snapshot.loops if loop.id == case.stall.subject_id)}
    return not names.isdisjoint(finding.subjects)


def _concerns(case: Case, finding: Finding) -> bool:
    """It is about what the stalled wait for, or about the loop that should run them."""
    if any(subject in case.relevant for subject in finding.subjects):
        return True
    loops = {task.loop_id for task in case.snapshot.tasks if task.id in case.relevant}
    return any(subject in loops for subject in finding.subjects)


def fingerprint(stall: Stall, findings: tuple[Finding, ...], snapshot: Snapshot) -> str:
    """The same for the same cause at the same place, in whatever process, on whatever host: no addresses, no line numbers.

    16 hex digits of a hash over cause, the culprits outside the standard library (file name and function), and the kinds of what is waited for.
    """
    parts = [stall.kind] if not findings else []
    for finding in findings[:1]:
        kinds = {p.kind for p in snapshot.primitives if p.id in finding.subjects}
        places = [f"{os.path.basename(f.file)}:{f.function.split('.')[-1]}" for f in finding.culprit if not is_standard(f.file)]
        parts += [finding.cause, finding.signature.id if finding.signature else "", *dict.fromkeys(places[:3]), *sorted(kinds)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _new_id(opened_at: float) -> str:
    """Sorts by time, unique across hosts: ``20261124T103012123-4f1a9c``."""
    moment = time.gmtime(opened_at)
    return f"{time.strftime('%Y%m%dT%H%M%S', moment)}{int(opened_at * 1000) % 1000:03d}-{secrets.token_hex(3)}"
