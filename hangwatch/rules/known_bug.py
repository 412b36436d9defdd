"""Is this a bug that somebody has met before? Recognises one from `hangwatch/signatures/*.toml`, one file per project.

A bug there is a table ``[[bug]]``: ``id project title affected fixed_in issue fix mechanism trigger workaround verify not_when source confidence``,
``pattern = true`` for a known way to misuse a library which no upgrade ends, and what it is recognised by:

    [bug.seen]
    causes = ["shared-event"]                                     one of these is the finding's cause
    frames = ["uvicorn/protocols/http/httptools_impl.py:receive"]     each is on a stack of the finding's subjects
    any_frames = []                                                   at least one is
    kinds = ["event"]                                                 a subject is of such a kind
    state = { shared = true }                                         a subject's state says so
    with = { python = ">=3.12" }                                      versions of other things that it takes as well

A version outside ``affected`` is no match, however alike it looks. A version that is not known is a match, and the signature says so (``installed`` None).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources

from hangwatch.records import Finding, Frame, Plain, Signature
from hangwatch.rules.base import Case
from hangwatch.rules.frames import frames_of
from hangwatch.rules.loop_thread import blocked_loops, samples
from hangwatch.rules.versions import satisfies


@dataclass(frozen=True)
class KnownBug:
    """One table of a signature file. ``signature.installed`` is filled in when it is recognised."""

    signature: Signature
    confidence: str = "likely"
    pattern: bool = False
    causes: tuple[str, ...] = ()
    frames: tuple[tuple[str, str], ...] = ()
    any_frames: tuple[tuple[str, str], ...] = ()
    kinds: tuple[str, ...] = ()
    state: Mapping[str, Plain] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)


@lru_cache(maxsize=1)
def known_bugs() -> tuple[KnownBug, ...]:
    """All that the package ships, bugs before misuse and the closer described first, as the first that fits is told. A file that cannot be read is left out: a bad signature must not cost the incident."""
    found = []
    for file in resources.files("hangwatch").joinpath("signatures").iterdir():
        if file.name.endswith(".toml"):
            try:
                found += list(parse(file.read_text(encoding="utf-8")))
            except (OSError, ValueError, KeyError, TypeError, ImportError):
                # ImportError: Python 3.10 without tomli, where the agent came into an interpreter that hangwatch is not installed in.
                continue
    return tuple(sorted(found, key=lambda bug: (bug.pattern, -len(bug.frames), bug.signature.id)))


def parse(text: str) -> Iterator[KnownBug]:
    """The bugs of one signature file. Raises ValueError, KeyError or TypeError when it is not of the form above."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    for table in tomllib.loads(text)["bug"]:
        seen = table.get("seen", {})
        plain = {f.name: table.get(f.name, "") for f in dataclasses.fields(Signature) if f.name not in ("installed", "fixed_in", "fix")}
        signature = Signature(installed=None, fixed_in=table.get("fixed_in"), fix=table.get("fix"), **plain)
        if not all((signature.id, signature.project, signature.title, signature.affected, signature.issue)):
            raise ValueError(f"a bug needs id, project, title, affected and issue: {signature.id or table}")
        yield KnownBug(
            signature,
            confidence=table.get("confidence", "likely"),
            pattern=bool(table.get("pattern", False)),
            causes=tuple(seen.get("causes", ())),
            frames=_places(seen.get("frames", ())),
            any_frames=_places(seen.get("any_frames", ())),
            kinds=tuple(seen.get("kinds", ())),
            state=dict(seen.get("state", {})),
            others=dict(seen.get("with", {})),
        )


def _places(texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    pairs = [text.rpartition(":")[::2] for text in texts]
    if not all(file and function for file, function in pairs):
        raise ValueError(f"a frame is file:function, not {list(texts)}")
    return tuple(pairs)


def recognise(case: Case, finding: Finding) -> Finding:
    """The finding with the signature of the bug that it is, and advice that says what ends it; unchanged when it is none that is known."""
    frames = _stacks(case, finding)
    for bug in known_bugs():
        installed = case.snapshot.versions.get(bug.signature.project)
        if finding.cause in bug.causes and _in_range(bug, case.snapshot.versions, True) and _looks_like(case, finding, bug, frames):
            signature = dataclasses.replace(bug.signature, installed=installed)
            return dataclasses.replace(finding, signature=signature, advice=_advice(signature, finding.advice))
    return finding


def installed_bugs(versions: Mapping[str, str]) -> list[Signature]:
    """Which of these installed versions (by distribution, lower case; ``python`` too) carry a known hang. Misuse is not listed."""
    found = []
    for bug in known_bugs():
        version = versions.get(bug.signature.project)
        if version is not None and not bug.pattern and _in_range(bug, versions, False):
            found.append(dataclasses.replace(bug.signature, installed=version))
    return found


def _in_range(bug: KnownBug, versions: Mapping[str, str], unknown: bool) -> bool:
    """The project's version and all others it takes lie in their ranges; ``unknown`` is the answer for a version that is not known."""
    wanted = {bug.signature.project: bug.signature.affected, **bug.others}
    for project, specifier in wanted.items():
        fits = satisfies(versions[project], specifier) if project in versions else None
        if not (unknown if fits is None else fits):
            return False
    return True


def _looks_like(case: Case, finding: Finding, bug: KnownBug, frames: list[Frame]) -> bool:
    if not all(_on(frames, place) for place in bug.frames):
        return False
    if bug.any_frames and not any(_on(frames, place) for place in bug.any_frames):
        return False
    primitives = [case.graph.primitives[s] for s in finding.subjects if s in case.graph.primitives]
    if bug.kinds and not any(p.kind in bug.kinds for p in primitives):
        return False
    return not bug.state or any(all(p.state.get(name) == value for name, value in bug.state.items()) for p in primitives)


def _on(frames: list[Frame], place: tuple[str, str]) -> bool:
    file, function = place
    return any(frame.file.endswith(file) and frame.function.split(".")[-1] == function for frame in frames)


def _stacks(case: Case, finding: Finding) -> list[Frame]:
    """Every frame of the finding's culprits and of its subjects' stacks; of a blocked loop those that other tools and further looks saw, too."""
    found = list(finding.culprit)
    for subject in finding.subjects[:50]:
        found += frames_of(case.graph, subject)
    if any(subject.startswith("loop:") for subject in finding.subjects):
        found += [frame for doing in blocked_loops(case) for stack in (doing.frames, *samples(case, doing)) for frame in stack]
    return found


def _advice(signature: Signature, otherwise: str) -> str:
    if not signature.fixed_in:
        return signature.workaround or otherwise
    has = f" (installed: {signature.installed})" if signature.installed else ""
    return " ".join(filter(None, (f"Upgrade {signature.project} to {signature.fixed_in} or later{has}.", signature.workaround)))
