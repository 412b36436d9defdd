"""An incident -> the spans and log records that tell it. Pure; cheap enough for the detecting thread.

The shape, for a request that waits for a lock whose holder waits for a peer:

    (the request's own trace)
    request stall holder-stuck            verdict, culprit, advice; linked with the holder's span and the victims' spans
      before the wait                     the request ran until here
      waits for lock                      what it waits on, since when
        waits for peer                    what the lock's holder waits on in turn: nested, so that no bars overlap side by side
    stall ended                           later, beside the stall span, when it ended

    (the holder's trace)    holds lock         linked back
    (each victim's trace)   waiting behind lock / waiting for event loop

Spans are ended when they are told: an open span never reaches a back-end, and the same id sent twice shows twice in all of them.
"""

from __future__ import annotations

from hangwatch import names
from hangwatch.export.attributes import code_of, http_of, stack_of, wait_of
from hangwatch.export.chain import Hop, Index, subject_request, victims
from hangwatch.export.specs import (
    EventSpec,
    LinkSpec,
    LogSpec,
    SpanSpec,
    Value,
    clean,
    clip,
    derived_id,
    traced,
    wall_ns,
)
from hangwatch.records import Finding, Frame, Incident, Request

#: The SDK keeps 128 links to a span; a person reads a handful.
MAX_VICTIMS = 20
#: A gap shorter than this between a request's start and its wait is not worth a bar.
MIN_GAP_NS = 1_000_000
#: No span is shorter: Jaeger warns of zero durations.
MIN_SPAN_NS = 1_000
MAX_BODY_BYTES = 16_000
SPAN_NAMES = {
    "loop": names.SPAN_LOOP,
    "request": names.SPAN_REQUEST,
    "task": names.SPAN_TASK,
    "startup": names.SPAN_STARTUP,
    "shutdown": names.SPAN_SHUTDOWN,
}


def stall_spans(incident: Incident, events: bool = True) -> tuple[SpanSpec, ...]:
    """Every span told when a stall is detected, the stall span first. ``events``: with span events on it."""
    return _Teller(incident).spans(events)


def ended_spans(incident: Incident, how: str, ended_ns: int, events: bool = True) -> tuple[SpanSpec, ...]:
    """The follow-up: one span from detection to the end, beside the stall span. ``how``: recovered, shutdown or killed."""
    return (_Teller(incident).ended(how, ended_ns, events),)


def stall_logs(incident: Incident) -> tuple[LogSpec, ...]:
    """The stall as a log record with an event name, tied to the stall span."""
    teller = _Teller(incident)
    span = teller.stall_span(events=False)
    return (LogSpec(names.EVENT_STALL, span.end_ns, 17, teller.body(), span.trace_id, span.span_id, span.attributes),)


def ended_logs(incident: Incident, how: str, ended_ns: int) -> tuple[LogSpec, ...]:
    """The stall's end as a log record."""
    span = _Teller(incident).ended(how, ended_ns, events=False)
    body = f"{how}: {span.attributes.get(names.VERDICT, '')}"
    return (LogSpec(names.EVENT_ENDED, span.end_ns, 9, body, span.trace_id, span.span_id, span.attributes),)


class _Teller:
    """What all spans of one incident share."""

    def __init__(self, incident: Incident) -> None:
        self.incident = incident
        self.index = Index(incident.snapshot)
        self.stall = incident.stall
        self.finding = incident.findings[0] if incident.findings else Finding("unknown", "Stalled, and no rule says why.")
        self.request = subject_request(self.index, self.stall)
        self.hops = self.index.hops(self.stall.subject_id)
        self.victims = tuple(victims(self.index, self.stall, self.hops, self.finding.subjects))
        self.start_ns = wall_ns(incident.snapshot, min(self.stall.since_ns, incident.snapshot.at_ns))
        self.end_ns = max(wall_ns(incident.snapshot, incident.snapshot.at_ns), self.start_ns + MIN_SPAN_NS)
        self.in_request = traced(self.request)
        self.trace_id = (self.request.trace_id or "") if self.request and self.in_request else self._id("trace", 16)
        self.parent_id = (self.request.span_id or "") if self.request and self.in_request else ""
        self.span_id = self._id("stall")

    def _id(self, role: str, n_bytes: int = 8) -> str:
        return derived_id(self.incident.id, role, n_bytes)

    def spans(self, events: bool) -> tuple[SpanSpec, ...]:
        found = [self.stall_span(events), *self._waits()]
        found += [self._holder_span(request, hop) for request, hop in self._holders()]
        found += [self._victim_span(request) for request in self._told_victims()]
        return tuple(found)

    def stall_span(self, events: bool) -> SpanSpec:
        told = (
            EventSpec(names.EVENT_STALL, self.end_ns, self._attributes(names.VERDICT, names.CAUSE, names.CONFIDENCE)),
            EventSpec(names.EVENT_DUMP, self.end_ns, {names.DUMP_ID: self.incident.id}),
        )
        return SpanSpec(
            name=self._name(),
            trace_id=self.trace_id,
            span_id=self.span_id,
            parent_id=self.parent_id,
            remote=self.in_request,
            start_ns=self.start_ns,
            end_ns=self.end_ns,
            attributes=self.attributes(),
            links=self._links(),
            events=told if events else (),
            error=self._status(),
        )

    def _name(self) -> str:
        prefix = SPAN_NAMES.get(self.stall.kind, names.SPAN_TASK)
        culprit = self._culprit()
        if self.stall.kind == "loop" and culprit is not None:
            return f"{prefix} {culprit.function.rpartition('.')[2]}"
        return f"{prefix} {self.finding.cause}"

    def _status(self) -> str:
        return clip(f"{self.finding.cause}: {self.finding.title}", 200)

    def _culprit(self) -> Frame | None:
        if self.finding.culprit:
            return self.finding.culprit[0]
        if self.hops and self.hops[0].wait.frame:
            return self.hops[0].wait.frame
        frames = self._frames()
        return frames[-1] if frames else None

    def _frames(self) -> tuple[Frame, ...]:
        for loop in self.incident.snapshot.loops:
            if loop.id == self.stall.subject_id and loop.thread_id:
                return self.index.frames(loop.thread_id)
        return self.index.frames(self.index.waiter(self.stall.subject_id) or "")

    def attributes(self) -> dict[str, Value]:
        """Of the stall span and its log record, the verdict first."""
        incident, finding, stall = self.incident, self.finding, self.stall
        signature = finding.signature
        thread = next(
            (self.index.threads.get(loop.thread_id or "") for loop in incident.snapshot.loops if loop.id == stall.subject_id), None
        )
        return clean(
            {
                names.VERDICT: finding.title,
                **code_of(self._culprit()),
                names.CODE_STACKTRACE: stack_of(self._frames()),
                names.ERROR_TYPE: stall.kind,
                names.STALL_KIND: stall.kind,
                names.CAUSE: finding.cause,
                names.CONFIDENCE: finding.confidence,
                names.BECAUSE: "\n".join(finding.because),
                names.ADVICE: finding.advice,
                names.FREES: finding.frees,
                names.SIGNATURE: signature.id if signature else None,
                names.SIGNATURE_FIXED_IN: signature.fixed_in if signature else None,
                names.SIGNATURE_ISSUE: signature.issue if signature else None,
                names.STALL_AGE_MS: (self.end_ns - self.start_ns) // 1_000_000,
                names.STALL_LIMIT_MS: stall.limit_ns // 1_000_000,
                names.COUNT: incident.count,
                names.VICTIMS: len(self.victims),
                names.VICTIMS_NOT_LINKED: len(self.victims) - len(self._told_victims()),
                names.FINGERPRINT: incident.fingerprint,
                names.INCIDENT_ID: incident.id,
                names.DUMP_ID: incident.id,
                names.THREAD_NAME: thread.name if thread else None,
                names.THREAD_NATIVE_ID: thread.native_id if thread else None,
                names.DROPPED: ", ".join(f"{what}: {n}" for what, n in incident.snapshot.dropped.items() if n),
                **http_of(self.request, self.incident.snapshot),
            }
        )

    def _attributes(self, *wanted: str) -> dict[str, Value]:
        found = self.attributes()
        return {name: found[name] for name in wanted if name in found}

    def _shared(self, *wanted: str) -> dict[str, Value]:
        """What every other span of this incident carries, so that each can be understood and searched alone."""
        return self._attributes(names.VERDICT, names.STALL_KIND, names.CAUSE, names.FINGERPRINT, names.INCIDENT_ID, names.DUMP_ID, *wanted)

    def _waits(self) -> list[SpanSpec]:
        """The children: what ran before the wait, then the wait, and inside it what its holder waits for in turn."""
        found: list[SpanSpec] = []
        parent_id, start_ns = self.span_id, self.start_ns
        for n, hop in enumerate(self.hops):
            since = hop.wait.since_ns
            began = start_ns if since is None else wall_ns(self.incident.snapshot, since)
            began = min(max(began, start_ns), self.end_ns - MIN_SPAN_NS)
            if n == 0 and began - start_ns >= MIN_GAP_NS:
                found.append(self._child(names.SPAN_BEFORE, "before", parent_id, start_ns, began, {}))
            span = self._child(
                f"{names.SPAN_WAIT} {hop.primitive.kind}",
                f"wait-{n}",
                parent_id,
                began,
                self.end_ns,
                wait_of(self.incident, self.index, hop, (self.end_ns - began) // 1_000_000),
            )
            found.append(span)
            parent_id, start_ns = span.span_id, began
        return found

    def _child(self, name: str, role: str, parent_id: str, start_ns: int, end_ns: int, attributes: dict[str, Value]) -> SpanSpec:
        return SpanSpec(name, self.trace_id, self._id(role), parent_id, False, start_ns, end_ns, attributes)

    def _links(self) -> tuple[LinkSpec, ...]:
        links = []
        if self.request and not self.in_request and self.request.trace_id and self.request.span_id:
            links.append(LinkSpec(self.request.trace_id, self.request.span_id, {names.LINK: names.LINK_REQUEST}))
        for request, _ in self._holders():
            links.append(LinkSpec(request.trace_id or "", self._id(f"holder/{request.id}"), {names.LINK: names.LINK_HELD_BY}))
        for request in self._told_victims():
            links.append(LinkSpec(request.trace_id or "", self._id(f"victim/{request.id}"), {names.LINK: names.LINK_BLOCKS}))
        return tuple(links)

    def _to_stall(self, relation: str) -> tuple[LinkSpec, ...]:
        return (LinkSpec(self.trace_id, self.span_id, {names.LINK: relation}),)

    def _holders(self) -> list[tuple[Request, Hop]]:
        """Traced requests that hold what somebody in the chain waits for, each once."""
        found: dict[str, tuple[Request, Hop]] = {}
        for hop in self.hops:
            request = self.index.request_of(hop.holder_id)
            if request is not None and traced(request) and (self.request is None or request.id != self.request.id):
                found.setdefault(request.id, (request, hop))
        return list(found.values())

    def _told_victims(self) -> list[Request]:
        return [request for request in self.victims if traced(request)][:MAX_VICTIMS]

    def _holder_span(self, request: Request, hop: Hop) -> SpanSpec:
        holds = [hold for task in self.incident.snapshot.tasks if task.id == request.task_id for hold in task.holds]
        hold = next((hold for hold in holds if hold.primitive_id == hop.primitive.id), None)
        since = hold.since_ns if hold and hold.since_ns is not None else request.since_ns
        about = clean({**self._shared(), **code_of(hold.frame if hold else None), names.WAIT_FOR: hop.primitive.label})
        return self._beside(request, f"{names.SPAN_HOLDER} {hop.primitive.kind}", f"holder/{request.id}", since, about, names.LINK_BLOCKS)

    def _victim_span(self, request: Request) -> SpanSpec:
        if self.stall.kind == "loop":
            name, since = names.SPAN_VICTIM_LOOP, max(self.stall.since_ns, request.since_ns or 0)
        else:
            hops = self.index.hops(request.id)
            name = f"{names.SPAN_VICTIM} {hops[0].primitive.kind}" if hops else f"{names.SPAN_VICTIM} {self.finding.cause}"
            since = (hops[0].wait.since_ns if hops else None) or request.since_ns or self.stall.since_ns
        about = {**self._shared(), **clean(http_of(request, self.incident.snapshot))}
        return self._beside(request, name, f"victim/{request.id}", since, about, names.LINK_BLOCKED_BY, self._status())

    def _beside(
        self, request: Request, name: str, role: str, since_ns: int | None, about: dict[str, Value], relation: str, error: str = ""
    ) -> SpanSpec:
        """A span in another request's trace that points to the stall span."""
        start = self.start_ns if since_ns is None else wall_ns(self.incident.snapshot, since_ns)
        start = min(start, self.end_ns - MIN_SPAN_NS)
        links, trace_id, parent_id = self._to_stall(relation), request.trace_id or "", request.span_id or ""
        return SpanSpec(name, trace_id, self._id(role), parent_id, True, start, self.end_ns, about, links, (), error)

    def ended(self, how: str, ended_ns: int, events: bool) -> SpanSpec:
        end_ns = max(ended_ns, self.end_ns + MIN_SPAN_NS)
        about = clean({**self._shared(), names.ENDED_BY: how, names.TOTAL_MS: (end_ns - self.start_ns) // 1_000_000})
        told = (EventSpec(names.EVENT_ENDED, end_ns, {names.ENDED_BY: how}),) if events else ()
        span_id, links = self._id(f"ended/{how}"), self._to_stall(names.LINK_STALL)
        return SpanSpec(names.SPAN_ENDED, self.trace_id, span_id, self.parent_id, self.in_request, self.end_ns, end_ns, about, links, told)

    def body(self) -> str:
        """The log record's text: verdict, facts, advice, stack."""
        parts = [self.finding.title, *(f"- {fact}" for fact in self.finding.because), self.finding.advice, stack_of(self._frames())]
        return clip("\n".join(part for part in parts if part), MAX_BODY_BYTES)
