"""Records -> lines of text. What `hangwatch show` prints: the verdict first, then what it rests on.

Nothing here looks at a process or a clock; source lines come from this machine's disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from hangwatch.console.drawing import drawn
from hangwatch.console.excerpt import excerpt
from hangwatch.console.picture import picture
from hangwatch.console.stacks import is_own, short_path, task_lines, thread_lines
from hangwatch.console.style import Paint, columns, cut, cut_path, plain, safe, wrap
from hangwatch.graph import WaitGraph
from hangwatch.records import Connection, Finding, Frame, Incident, Request, Signature
from hangwatch.rules.words import seconds

#: Culprits shown with their source; further ones are named.
MAX_EXCERPTS = 3
_SURE = {"proved": "good", "likely": "warn", "suspected": "dim"}
_SURE_WORDS = {"proved": "proved", "likely": "likely: fits what was seen", "suspected": "suspected: a hint, check it"}
_PHASES = {
    "queued": "waits for its turn on the connection", "body": "its body is still arriving", "app": "the application has it",
    "responding": "the response has begun", "background": "answered, the application still runs",
}  # fmt: skip


def incident_lines(incident: Incident, width: int = 100, paint: Paint = plain, *, everything: bool = False) -> Iterator[str]:
    """The whole page, in the order in which a tired person needs it. ``everything``: all stacks and facts, however many."""
    yield from _head(incident, width, paint)
    yield ""
    yield from _verdict(incident, width, paint)
    sections: tuple[tuple[str, Callable[[], Iterator[str]]], ...] = (
        ("Who waits for whom", lambda: drawn(picture(incident), width, paint)),
        ("Where", lambda: _sources(incident, width, paint)),
        ("Request", lambda: _bullets(the_request(incident), width)),
        ("How we know", lambda: _bullets(incident.findings[0].because if incident.findings else (), width, "  · ")),
        ("What to do", lambda: _advice(incident, width, paint)),
        ("Also seen", lambda: _bullets((f"{f.cause} ({f.confidence}): {f.title}" for f in incident.findings[1:]), width, "  · ")),
        ("Affected", lambda: _bullets(affected(incident), width)),
        (f"Tasks ({len(incident.snapshot.tasks)})", lambda: task_lines(incident, width, paint, everything)),
        (f"Threads ({sum(not is_own(t) for t in incident.snapshot.threads)})", lambda: thread_lines(incident, width, paint, everything)),
        ("Evidence", lambda: _evidence(incident, width, paint)),
        ("Not seen", lambda: _gaps(incident, width)),
    )
    for title, lines in sections:
        yield from _section(title, lines(), paint)


def _section(title: str, lines: Iterator[str], paint: Paint) -> Iterator[str]:
    """Nothing at all when there is nothing to say."""
    first = next(lines, None)
    if first is None:
        return
    yield ""
    yield paint(title, "title")
    yield first
    yield from lines


def moment(at: float) -> str:
    """``2026-11-24 10:59:30 UTC``: the service's zone is not known here, and logs are read side by side."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def length(incident: Incident) -> str:
    """``12.3 s, over`` or ``12.3 s when it was looked at``."""
    if incident.closed_at is not None:
        return f"over after {seconds(max(0, int((incident.closed_at - incident.opened_at) * 1e9)))}"
    age_ns = incident.snapshot.at_ns - incident.stall.since_ns
    return f"{seconds(age_ns)} old when it was looked at" if age_ns > 0 else "not over when it was looked at"


def _head(incident: Incident, width: int, paint: Paint) -> Iterator[str]:
    where = " · ".join(
        filter(
            None,
            (
                incident.service,
                incident.host,
                f"pid {incident.snapshot.pid}",
                f"Python {incident.snapshot.versions.get('python', '')}".strip(),
            ),
        )
    )
    yield paint(incident.id, "strong") + "  " + paint(cut(safe(where), width - len(incident.id) - 2), "dim")
    yield paint(cut(f"began {moment(incident.opened_at)} · {length(incident)}", width), "dim")


def _verdict(incident: Incident, width: int, paint: Paint) -> Iterator[str]:
    if not incident.findings:
        yield from wrap("Something is past its limit, and no cause was found.", width)
        return
    first = incident.findings[0]
    for line in wrap(first.title, width):
        yield paint(line, "bad")
    yield (
        paint(first.cause, "title") + " · " + paint(_SURE_WORDS.get(first.confidence, first.confidence), _SURE.get(first.confidence, "dim"))
    )
    if first.signature is not None:
        yield from _known_bug(first.signature, width, paint)
    elif first.advice:
        yield from wrap(first.advice, width, "→ ")


def _known_bug(bug: Signature, width: int, paint: Paint) -> Iterator[str]:
    yield ""
    for line in wrap(f"{bug.id}: {bug.title}", width, "Known bug ", "          "):
        yield paint(line, "warn")
    versions = [
        f"installed {bug.project} {bug.installed}" if bug.installed else f"{bug.project}, version not known",
        f"affected {bug.affected}",
    ]
    versions.append(f"fixed in {bug.fixed_in}" if bug.fixed_in else "no fixed release yet")
    yield "          " + cut(safe(" · ".join(versions)), width - 10)
    for label, address in (("issue", bug.issue), ("fix", bug.fix)):
        if address:
            yield from (paint(line, "dim") for line in wrap(address, width, f"          {label}: "))
    if bug.fixed_in:
        yield "        → " + paint(f"upgrade {bug.project} to {bug.fixed_in} or later", "strong")


def _sources(incident: Incident, width: int, paint: Paint) -> Iterator[str]:
    culprits = incident.findings[0].culprit if incident.findings else ()
    for at, frame in enumerate(culprits):
        if at:
            yield ""
        yield from _source(frame, incident.opened_at, width, paint, with_lines=at < MAX_EXCERPTS)


def _source(frame: Frame, opened_at: float, width: int, paint: Paint, with_lines: bool) -> Iterator[str]:
    function = cut(safe(frame.function), width // 2)
    yield "  " + paint(function, "key") + "  " + cut_path(safe(f"{frame.file}:{frame.line}"), max(16, width - 4 - columns(function)))
    found = excerpt(frame, opened_at) if with_lines else None
    if found is None or not found.lines:
        return
    digits = len(str(found.lines[-1][0]))
    for number, text, here in found.lines:
        line = cut(f"  {'▶' if here else ' '} {number:>{digits}} │ {safe(text)}", width)
        yield paint(line, "mark" if here else "dim")
    if found.changed:
        yield "    " + paint("(this file was changed after the incident: lines may have moved)", "warn")


def the_request(incident: Incident) -> Iterator[str]:
    """Facts of the stalled request, or of the one that a stalled task works for; nothing where there is none."""
    graph = WaitGraph(incident.snapshot)
    named = (incident.stall.subject_id, *(s for f in incident.findings[:1] for s in f.subjects))
    request = next((r for s in named if (r := graph.request_of(graph.node(s)) or graph.requests.get(s))), None)
    if request is None:
        return
    connection = next((c for c in incident.snapshot.connections if c.id == request.connection_id), None)
    yield from request_facts(request, connection, incident)


def _bullets(lines: Iterable[str], width: int, lead: str = "  ") -> Iterator[str]:
    for line in lines:
        yield from wrap(line, width, lead)


def request_facts(request: Request, connection: Connection | None, incident: Incident) -> Iterator[str]:
    """Sentences about a request: what, how old, how far, from whom, in which trace."""
    age = f", {seconds(max(0, incident.snapshot.at_ns - request.since_ns))} old" if request.since_ns is not None else ""
    limit = f" (limit {seconds(request.limit_ns)})" if request.limit_ns else ""
    yield f"{request.method} {request.route}{age}{limit}: {_PHASES.get(request.phase, request.phase)}"
    if request.body_complete is not None:
        yield "its body has arrived completely" if request.body_complete else "its body has not arrived completely"
    if connection is not None:
        state = [
            word
            for word, on in (
                ("TLS", connection.tls),
                ("reading paused", connection.read_paused),
                ("writing paused", connection.write_paused),
                ("client gone", connection.disconnected),
            )
            if on
        ]
        state += [f"{connection.unsent_bytes} bytes unsent"] if connection.unsent_bytes else []
        state += [f"{connection.queued} more queued behind it"] if connection.queued else []
        yield f"client {connection.client or 'not known'} · " + ", ".join([connection.protocol, *state])
    if request.trace_id:
        yield f"trace {request.trace_id}" + (f" · span {request.span_id}" if request.span_id else "")


def _advice(incident: Incident, width: int, paint: Paint) -> Iterator[str]:
    """More than the verdict's one line: of a known bug only."""
    first = incident.findings[0] if incident.findings else None
    if first is None or first.signature is None:
        return
    yield from wrap(first.advice, width, "  ") if first.advice else ()
    for label, text in bug_notes(first.signature):
        yield from wrap(text, width, f"  {label}: ", "    ")


def bug_notes(bug: Signature | None) -> Iterator[tuple[str, str]]:
    """What else is known of a bug, labelled, the empty left out."""
    if bug is not None:
        notes = (
            ("How it comes about", bug.mechanism),
            ("When", bug.trigger),
            ("How to check", bug.verify),
            ("When upgrading is not the answer", bug.not_when),
            ("Source", bug.source),
        )
        yield from ((label, text) for label, text in notes if text)


def affected(incident: Incident) -> Iterator[str]:
    """How many others it took with it."""
    first: Finding | None = incident.findings[0] if incident.findings else None
    if incident.count > 1:
        yield f"{incident.count} stalls of this kind so far"
    if first is not None and first.frees > 1:
        yield f"{first.frees} waiting tasks and threads would go on if this were gone"
    limit_ns = incident.stall.limit_ns
    over = [
        r for r in incident.snapshot.requests if r.since_ns is not None and incident.snapshot.at_ns - r.since_ns >= (r.limit_ns or limit_ns)
    ]
    if len(over) > 1 and incident.stall.kind == "request":
        routes = ", ".join(dict.fromkeys(f"{r.method} {r.route}" for r in over[:50]))
        yield f"{len(over)} of {len(incident.snapshot.requests)} requests are past their limit: {routes}"


def _evidence(incident: Incident, width: int, paint: Paint) -> Iterator[str]:
    for said in incident.evidence:
        took = f" ({said.took_ms:.0f} ms)" if said.took_ms else ""
        if said.error:
            yield from wrap(f"{said.tool}{took}: {said.error}", width, "  ", "    ")
            yield from wrap(said.hint, width, "    ") if said.hint else ()
            continue
        lines = [line for line in said.text.splitlines() if line.strip()]
        more = f"  (+ {len(lines) - 1} lines: --evidence {said.tool})" if len(lines) > 1 else ""
        yield "  " + cut(safe(f"{said.tool}{took}: {lines[0].strip() if lines else 'nothing'}"), width - 2 - len(more)) + paint(more, "dim")


def _gaps(incident: Incident, width: int) -> Iterator[str]:
    for gap in incident.snapshot.gaps:
        yield from wrap(gap, width, "  · ")
    for what, count in incident.snapshot.dropped.items():
        if count:
            yield from wrap(f"{count} {what} dropped", width, "  · ")


def table_lines(incidents: list[Incident], width: int, paint: Paint = plain) -> Iterator[str]:
    """`hangwatch incidents`: two lines each, newest last."""
    for incident in incidents:
        first = incident.findings[0] if incident.findings else None
        cause = first.cause if first else "no cause found"
        sure = first.confidence if first else ""
        bug = f" · {first.signature.id}" if first and first.signature else ""
        times = f" · {incident.count} times" if incident.count > 1 else ""
        end = "" if incident.closed_at is not None else " · " + paint("not over", "warn")
        said = f"{cause} · {sure}{bug}{times}" if sure else cause + times
        lead = paint(incident.id, "key") + "  " + paint(cut(safe(incident.service or f"pid {incident.snapshot.pid}"), 24), "strong")
        yield f"{lead}  {paint(said, _SURE.get(sure, 'dim'))}{end}"
        yield "    " + cut(
            safe(first.title if first else f"{incident.stall.kind} past its limit, {short_path(incident.stall.subject_id)}"), width - 4
        )
