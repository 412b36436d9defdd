"""``hangwatch report``: an incident as one HTML file that needs nothing else, neither network nor script.

The look is in ``template/``; what stands in the page is built of elements that escape themselves. A policy in its head allows exactly
the style and the script that it carries, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape
from importlib import resources
from string import Template

from hangwatch import __version__
from hangwatch.console import svg
from hangwatch.console.excerpt import excerpt
from hangwatch.console.markup import Element, add, clean, el, html
from hangwatch.console.picture import picture
from hangwatch.console.render import affected, bug_notes, length, moment, the_request
from hangwatch.console.stacks import Group, groups, header, involved_ids, is_own, request_names, short_path
from hangwatch.records import Evidence, Frame, Incident, Signature, Task, Thread
from hangwatch.rules.frames import is_application

#: Bounds of a page: beyond, the rest is counted. Larger ones no phone opens.
MAX_GROUPS, MAX_TEXT, MAX_EXCERPTS = 150, 200_000, 5
_SURE_WORDS = {"proved": "proved", "likely": "likely", "suspected": "suspected: a hint, check it"}


def page(incident: Incident) -> str:
    """The whole file as text (UTF-8)."""
    style, script = _file("page.css"), _file("page.js")
    title = incident.findings[0].title if incident.findings else "past its limit, no cause found"
    return Template(_file("page.html")).substitute(
        title=escape(clean(f"{incident.service or incident.id}: {title}")),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        body=html(_body(incident)),
    )


def _file(name: str) -> str:
    return resources.files("hangwatch.console").joinpath("template").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _body(incident: Incident) -> Element:
    tasks, threads = _grouped(incident.snapshot.tasks, incident, "task"), _grouped(incident.snapshot.threads, incident, "thread")
    anchors = {owner.id: anchor for group, anchor in (*tasks, *threads) for owner in group.owners}
    parts = [
        ("graph-section", "Who waits for whom", [svg.both(picture(incident), anchors)] if picture(incident).path else []),
        ("where", "Where", _sources(incident)),
        ("request", "Request", _request(incident)),
        ("facts", "How we know", _list(incident.findings[0].because if incident.findings else ())),
        ("bug", "About this bug", _bug_notes(incident)),
        ("others", "Also seen", _list(f"{f.cause} ({f.confidence}): {f.title}" for f in incident.findings[1:])),
        ("affected", "Affected", _list(affected(incident))),
        ("tasks", f"Tasks ({len(incident.snapshot.tasks)})", _stacks(tasks, request_names(incident))),
        ("threads", f"Threads ({sum(not is_own(t) for t in incident.snapshot.threads)})", _stacks(threads, {})),
        ("evidence", "Evidence", _evidence(incident.evidence)),
        ("gaps", "Not seen", _list(_gaps(incident))),
    ]
    shown = [part for part in parts if part[2]]
    links = el("ul", *(el("li", el("a", title, href=f"#{name}")) for name, title, _ in shown))
    return el(
        "body",
        el("a", "Skip to the verdict", class_="skip", href="#verdict"),
        el("header", *_head(incident), class_="wrap"),
        el("nav", el("div", links, class_="wrap"), aria_label="Sections"),
        el("main", *(el("section", el("h2", title), *content, id=name) for name, title, content in shown), class_="wrap"),
        el("footer", el("p", f"hangwatch {__version__} · {incident.id} · fingerprint {incident.fingerprint}"), class_="wrap"),
    )


# The verdict


def _head(incident: Incident) -> list[Element]:
    first = incident.findings[0] if incident.findings else None
    where = " · ".join(filter(None, (incident.service, incident.host, f"pid {incident.snapshot.pid}")))
    python = incident.snapshot.versions.get("python")
    when = f"began {moment(incident.opened_at)} · {length(incident)}" + (f" · Python {python}" if python else "")
    chips = el("ul", class_="chips")
    if first is not None:
        add(
            chips,
            el("li", first.cause, class_="chip cause"),
            el("li", _SURE_WORDS.get(first.confidence, first.confidence), class_=f"chip {first.confidence}"),
        )
    if incident.count > 1:
        add(chips, el("li", f"{incident.count} times", class_="chip"))
    add(
        chips,
        el("li", "not over when it was written", class_="chip open") if incident.closed_at is None else el("li", "over", class_="chip"),
    )
    head = [
        el("p", where, class_="who"),
        el("p", el("span", incident.id, class_="id"), f" · {when}", class_="who"),
        el("h1", first.title if first else "Something is past its limit, and no cause was found.", id="verdict"),
        chips,
    ]
    if first is not None and first.signature is not None:
        head.append(_known_bug(first.signature))
    if first is not None and first.advice:
        head.append(el("div", el("p", el("strong", "What to do: "), first.advice), class_="do"))
    return head


def _known_bug(bug: Signature) -> Element:
    versions = f"{bug.project} {bug.installed} is installed" if bug.installed else f"{bug.project}, version not known"
    fixed = f"fixed in {bug.fixed_in}" if bug.fixed_in else "no fixed release yet"
    links = el("p", _link("the issue", bug.issue))
    if bug.fix:
        add(links, " · ", _link("the fix", bug.fix))
    return el(
        "div",
        el("h3", f"Known bug {bug.id}"),
        el("p", bug.title),
        el("p", f"{versions} · affected {bug.affected} · {fixed}", class_="fix"),
        links,
        class_="bug",
        role="note",
    )


def _link(words: str, url: str) -> Element:
    """Only to the web: an incident is a file that anybody may have written."""
    return el("a", words, href=url, rel="noopener noreferrer") if url.startswith(("https://", "http://")) else el("span", f"{words}: {url}")


def _bug_notes(incident: Incident) -> list[Element]:
    notes = list(bug_notes(incident.findings[0].signature)) if incident.findings else []
    return [el("dl", *(item for label, text in notes for item in (el("dt", label), el("dd", text))))] if notes else []


# Where, request, lists


def _sources(incident: Incident) -> list[Element]:
    culprits = incident.findings[0].culprit if incident.findings else ()
    return [_source(frame, incident.opened_at, at < MAX_EXCERPTS) for at, frame in enumerate(culprits)]


def _source(frame: Frame, opened_at: float, with_lines: bool) -> Element:
    box = el(
        "div",
        el("p", el("span", f"{frame.function} ", class_="name"), el("span", f"{frame.file}:{frame.line}", class_="path mono")),
        class_="source",
    )
    found = excerpt(frame, opened_at) if with_lines else None
    if found is not None and found.lines:
        rows = (
            el("li", el("span", str(n), class_="n"), el("span", text), class_="here" if here else None) for n, text, here in found.lines
        )
        add(box, el("div", el("ol", *rows), class_="code", tabindex="0", role="region", aria_label=f"Source of {frame.function}"))
        if found.changed:
            add(box, el("p", "This file was changed after the incident: lines may have moved.", class_="moved"))
    return box


def _request(incident: Incident) -> list[Element]:
    return _list(the_request(incident))


def _list(lines: Iterable[str]) -> list[Element]:
    items = [el("li", line) for line in lines]
    return [el("ul", *items, class_="facts")] if items else []


def _gaps(incident: Incident) -> list[str]:
    return [*incident.snapshot.gaps, *(f"{count} {what} dropped" for what, count in incident.snapshot.dropped.items() if count)]


# Stacks and evidence


def _grouped(owners: Iterable[Task | Thread], incident: Incident, word: str) -> list[tuple[Group, str]]:
    return [(group, f"{word}-{at}") for at, group in enumerate(groups(owners, involved_ids(incident)), 1)]


def _stacks(found: list[tuple[Group, str]], requests: dict[str, str]) -> list[Element]:
    if not found:
        return []
    content = [_buttons()] if len(found) > 2 else []
    content += [_stack(group, anchor, requests) for group, anchor in found[:MAX_GROUPS]]
    rest = sum(len(group.owners) for group, _ in found[MAX_GROUPS:])
    return [*content, el("p", f"… and {rest} more in other places", class_="path")] if rest else content


def _buttons() -> Element:
    return el(
        "p",
        *(
            el("button", words, type="button", hidden="hidden", data_open=flag)
            for words, flag in (("open all", "yes"), ("close all", "no"))
        ),
        class_="tools",
    )


def _stack(group: Group, anchor: str, requests: dict[str, str]) -> Element:
    innermost = group.frames[-1] if group.frames else None
    hint = f"{innermost.function} ({short_path(innermost.file)}:{innermost.line})" if innermost else "no Python frame"
    rows = [
        el(
            "li",
            f"{f.function} ",
            el("span", f"{short_path(f.file)}:{f.line}", class_="path"),
            class_="own" if is_application(f.file) else None,
        )
        for f in group.frames
    ]
    summary = el(
        "summary",
        el("span", header(group, requests), class_="count" if group.involved else None),
        el("br"),
        el("span", f"at {hint}", class_="hint"),
    )
    return el("details", summary, el("ol", *rows, class_="stack"), id=anchor, open="open" if group.involved else None)


def _evidence(evidence: Iterable[Evidence]) -> list[Element]:
    found: list[Element] = []
    for said in evidence:
        took = f" · {said.took_ms:.0f} ms" if said.took_ms else ""
        lines = said.text.strip().splitlines()
        hint = said.error or (lines[0].strip() if lines else "said nothing")
        summary = el("summary", el("span", said.tool, class_="count"), el("span", f"{took} · {hint}", class_="hint"))
        text = said.text if len(said.text) <= MAX_TEXT else said.text[:MAX_TEXT] + f"\n… {len(said.text) - MAX_TEXT} characters more"
        body = el("p", said.hint or "") if said.error else el("pre", text.strip("\n"), tabindex="0")
        found.append(el("details", summary, body, id=f"evidence-{len(found) + 1}"))
    return found
