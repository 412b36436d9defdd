"""What hangwatch said, held against the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.corpus.case import Case


@dataclass(frozen=True)
class Verdict:
    """``ok``: the first finding of some incident has a right cause and one of its first five culprit frames is a right one.

    A healthy case is ok when nothing above ``suspected`` was said.
    """

    ok: bool
    said: str
    cause: bool = False
    culprit: bool = False
    confidence: str = ""
    signature: str = ""


def judge(case: Case, incidents: list[dict[str, Any]]) -> Verdict:
    first = [finding for incident in incidents for finding in incident.get("findings", [])[:1]]
    if case.healthy:
        loud = sorted({f["cause"] for f in first if f["confidence"] in ("proved", "likely")})
        return Verdict(not loud, ", ".join(loud) or "silent")
    verdicts = [_hold(case, finding) for finding in first]
    return max(verdicts, key=lambda v: (v.ok, v.cause, v.culprit), default=Verdict(False, "no finding" if incidents else "no incident"))


def _hold(case: Case, finding: dict[str, Any]) -> Verdict:
    wanted = case.truth["causes"]
    cause = not wanted or finding["cause"] in wanted
    frames = (finding.get("culprit") or [])[:5]
    culprit = any(_same(frame, truth) for frame in frames for truth in case.truth["culprit"])
    signature = (finding.get("signature") or {}).get("id", "")
    return Verdict(cause and culprit, finding["cause"], cause, culprit, finding["confidence"], signature)


def _same(frame: dict[str, Any], truth: dict[str, str]) -> bool:
    """``Ledger.transfer`` is ``transfer`` and ``m.<locals>.Ledger.transfer``; interpreters differ in what they name."""
    return frame["file"].endswith(truth["file"]) and frame["function"].split(".")[-1] == truth["function"].split(".")[-1]
