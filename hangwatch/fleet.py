"""Many workers, many hosts, one trouble: incidents by fingerprint. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hangwatch.records import Incident


@dataclass(frozen=True, slots=True)
class Group:
    """All incidents of one fingerprint. ``count``: stuck requests (or loops) over all of them; ``open``: incidents that are not over.

    ``hosts`` and ``services`` sorted; ``workers`` counts processes. Times in seconds since the epoch: when the first began, when the
    newest did. ``newest`` is the incident to look at.
    """

    fingerprint: str
    cause: str
    confidence: str
    title: str
    signature: str
    count: int
    incidents: int
    open: int
    hosts: tuple[str, ...]
    services: tuple[str, ...]
    workers: int
    first_at: float
    last_at: float
    newest: str


def grouped(incidents: Iterable[Incident]) -> list[Group]:
    """Groups by the beginning of their newest incident, newest last."""
    found: dict[str, list[Incident]] = {}
    for incident in incidents:
        found.setdefault(incident.fingerprint, []).append(incident)
    return sorted((_group(members) for members in found.values()), key=lambda group: (group.last_at, group.newest))


def _group(members: list[Incident]) -> Group:
    newest = max(members, key=lambda incident: (incident.opened_at, incident.id))
    finding = newest.findings[0] if newest.findings else None
    return Group(
        fingerprint=newest.fingerprint,
        cause=finding.cause if finding else "unknown",
        confidence=finding.confidence if finding else "",
        title=finding.title if finding else f"{newest.stall.kind} past its limit",
        signature=finding.signature.id if finding and finding.signature else "",
        count=sum(incident.count for incident in members),
        incidents=len(members),
        open=sum(incident.closed_at is None for incident in members),
        hosts=tuple(sorted({incident.host for incident in members if incident.host})),
        services=tuple(sorted({incident.service for incident in members if incident.service})),
        workers=len({(incident.host, incident.snapshot.pid) for incident in members}),
        first_at=min(incident.opened_at for incident in members),
        last_at=newest.opened_at,
        newest=newest.id,
    )
