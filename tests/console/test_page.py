"""The HTML report: well formed, complete, self-contained, and nothing in it is believed that a service or a client wrote."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from hangwatch.console.markup import clean
from hangwatch.console.page import page
from tests.console import sample

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
#: Attributes by which a page loads or runs something.
LOADING = {"src", "srcset", "data", "action", "formaction", "poster", "background", "ping", "style"}


class Reader(HTMLParser):
    """Every element with its attributes; `problems` where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.problems: list[str] = []
        self.words: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        self.problems += [f"<{tag}> is never closed" for tag in self.open]

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if len({key for key, _ in attrs}) != len(attrs):
            self.problems.append(f"<{tag}> has an attribute twice")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> closes something else")

    def handle_data(self, data):
        self.words.setdefault(self.open[-1] if self.open else "", []).append(data)

    def all(self, name):
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture(params=sample.ALL, ids=lambda f: f.__name__)
def made(request):
    return request.param()


@pytest.fixture
def read(made):
    return Reader(page(made))


def test_well_formed(read):
    assert not read.problems
    assert [tag for tag, _ in read.elements][:2] == ["html", "head"]


def test_nothing_is_loaded_from_anywhere(made, read):
    tags = {tag for tag, _ in read.elements}
    assert not tags & {"link", "img", "iframe", "object", "embed", "base", "form", "use", "image", "foreignobject"}
    for _, attributes in read.elements:
        assert not LOADING & set(attributes)
        assert not [key for key in attributes if key.startswith("on")]
    assert all(address.startswith(("#", "https://", "http://")) for address in read.all("href"))
    style = "".join(read.words["style"])
    assert "url(" not in style and "@import" not in style


def test_only_its_own_script_and_style_may_run(made, read):
    text = page(made)
    (policy,) = [a["content"] for _, a in read.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    for tag in ("style", "script"):
        found = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert len(found) == 1
        assert f"sha256-{base64.b64encode(hashlib.sha256(found[0].encode()).digest()).decode()}" in policy


def test_every_anchor_leads_somewhere_and_once(read):
    ids = read.all("id")
    assert len(ids) == len(set(ids))
    assert {address[1:] for address in read.all("href") if address.startswith("#")} <= set(ids)


def test_it_says_what_show_says(made):
    read = Reader(page(made))
    said = " ".join(" ".join(word for words in read.words.values() for word in words).split())
    for finding in made.findings:
        assert " ".join(clean(finding.title).split())[:60] in said
        assert finding.cause in said
    for fact in made.findings[0].because[:3] if made.findings and made.service == "shop" else ():
        assert fact in said
    assert made.id in said


def test_hostile_words_stay_words():
    text = page(sample.hostile())
    read = Reader(text)
    assert len([tag for tag, _ in read.elements if tag == "script"]) == 1
    assert not [tag for tag, _ in read.elements if tag in ("img", "u", "hr", "b", "i")]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    assert "javascript:" not in "".join(read.all("href"))


def test_a_phone_and_the_dark_are_thought_of():
    read = Reader(page(sample.deadlock()))
    style = "".join(read.words["style"])
    assert "prefers-color-scheme: dark" in style and "max-width: 40rem" in style and "@media print" in style
    assert [a for _, a in read.elements if a.get("name") == "viewport"]


def test_the_graph_is_drawn_for_wide_and_narrow_and_told_to_who_cannot_see():
    read = Reader(page(sample.deadlock()))
    graphs = [a for tag, a in read.elements if tag == "svg"]
    assert [a["class"] for a in graphs] == ["graph wide", "graph narrow"]
    assert all("POST /transfer" in a["aria-label"] and "a circle" in a["aria-label"] for a in graphs)
    assert [float(a["width"]) <= 358 for a in graphs] == [False, True], "a phone of 390 points leaves 358"


def test_nothing_in_the_graph_lies_outside_it():
    for make in sample.ALL:
        read = Reader(page(make()))
        sizes = [tuple(float(v) for v in a["viewbox"].split()) for tag, a in read.elements if tag == "svg"]
        rects = [a for tag, a in read.elements if tag == "rect"]
        assert (
            all(float(a["x"]) >= 0 and float(a["x"]) + float(a["width"]) <= max(s[2] for s in sizes) for a in rects) if sizes else not rects
        )


def test_a_crowd_stays_a_page():
    assert len(page(sample.crowd())) < 60_000
