"""show's page on incidents built by hand: what it says, in which order, within which width."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest

from hangwatch.console.render import incident_lines, table_lines
from hangwatch.console.style import coloured, columns, cut, cut_path, paint_for, plain
from hangwatch.records import Frame
from tests.console import sample

GOLDEN = Path(__file__).parent / "golden"
SGR = re.compile(r"\x1b\[[\d;]*m")


def text(incident, width=80, **options):
    return "\n".join(line.rstrip() for line in incident_lines(incident, width, **options)) + "\n"


@pytest.mark.parametrize("make", [sample.deadlock, sample.known_bug, sample.blocked_loop, sample.nothing_found], ids=lambda f: f.__name__)
def test_the_whole_page(make):
    """``WRITE_GOLDEN=1 pytest tests/console/test_render.py`` writes the pages anew; read the difference before you commit it."""
    path = GOLDEN / f"{make.__name__}.txt"
    said = text(make())
    if os.environ.get("WRITE_GOLDEN"):
        path.write_text(said)
    assert said == path.read_text()


@pytest.mark.parametrize("make", sample.ALL, ids=lambda f: f.__name__)
@pytest.mark.parametrize("width", [48, 60, 80, 100, 140])
def test_nothing_is_wider_than_the_terminal(make, width):
    wide = [line for line in incident_lines(make(), width) if columns(line) > width]
    assert all("https://" in line for line in wide), wide  # addresses stay whole, to be clicked


@pytest.mark.parametrize("make", sample.ALL, ids=lambda f: f.__name__)
def test_colours_change_no_character(make):
    assert SGR.sub("", text(make(), paint=coloured)) == text(make(), paint=plain)


def test_names_cannot_drive_the_terminal():
    said = text(sample.hostile())
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", said)
    assert set(SGR.sub("", text(sample.hostile(), paint=coloured))) <= set(said)


def test_the_verdict_comes_first_and_the_rest_in_order():
    said = text(sample.known_bug())
    order = [
        "shared-event · proved",
        "Known bug uvicorn-748",
        "upgrade uvicorn to 0.12.3",
        "Who waits for whom",
        "Where",
        "Request",
        "How we know",
        "What to do",
        "Tasks (31)",
        "Threads (1)",
        "Evidence",
        "Not seen",
    ]
    places = [said.index(words) for words in order]
    assert places == sorted(places)


def test_a_circle_is_drawn_closed():
    lines = text(sample.deadlock()).splitlines()
    top, bottom = (next(n for n, line in enumerate(lines) if mark in line) for mark in ("┌─▶ POST /transfer", "└───╯ held by"))
    rail = lines[top].index("┌")
    assert all(line[rail] == "│" for line in lines[top + 1 : bottom]) and lines[bottom][rail] == "└"


def test_a_crowd_is_counted_not_listed():
    said = text(sample.crowd())
    assert "2999 more wait: GET /page/" in said and "3000 × parked" in said
    assert len(said.splitlines()) < 120
    assert said.count("GET /page/") < 40


def test_source_lines_with_the_line_marked(tmp_path):
    file = tmp_path / "app.py"
    file.write_text("import asyncio\n\n\nasync def transfer():\n    async with alice:\n        await bob.acquire()\n        pay()\n")
    os.utime(file, (1.7e9, 1.7e9))
    made = sample.deadlock()
    finding = dataclasses.replace(made.findings[0], culprit=(Frame(str(file), 6, "transfer"),))
    said = text(dataclasses.replace(made, findings=(finding,)), 120)
    assert "▶ 6 │         await bob.acquire()" in said
    assert "  4 │ async def transfer():" in said and "changed after" not in said
    os.utime(file, (1.9e9, 1.9e9))
    assert "changed after the incident" in text(dataclasses.replace(made, findings=(finding,)), 120)


@pytest.mark.parametrize("line", [0, -1, 9999])
def test_a_line_that_is_not_there(tmp_path, line):
    file = tmp_path / "app.py"
    file.write_text("pass\n")
    finding = dataclasses.replace(sample.deadlock().findings[0], culprit=(Frame(str(file), line, "f"),))
    assert f"app.py:{line}" in text(dataclasses.replace(sample.deadlock(), findings=(finding,)), 140)


def test_the_table_has_two_lines_each():
    lines = list(table_lines([make() for make in sample.ALL], 80))
    assert len(lines) == 2 * len(sample.ALL)
    assert "deadlock · proved · 3 times" in lines[0] and "not over" not in lines[0] and "not over" in lines[2]


class TestStyle:
    class Screen:
        def __init__(self, tty):
            self.isatty = lambda: tty

    @pytest.mark.parametrize(
        ("tty", "environ", "colours"),
        [
            (True, {"TERM": "xterm"}, True),
            (False, {"TERM": "xterm"}, False),
            (True, {"TERM": "dumb"}, False),
            (True, {}, False),
            (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
            (False, {"FORCE_COLOR": "1"}, True),
            (True, {"TERM": "xterm", "FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ],
    )
    def test_colours_only_where_they_are_wanted(self, tty, environ, colours):
        assert (paint_for(self.Screen(tty), environ)("x", "bad") != "x") is colours

    def test_wide_characters_count_twice(self):
        assert columns("注文") == 4 and columns("é") == 1 and columns("e\u0301") == 1
        assert cut("注文注文", 5) == "注文…" and columns(cut("注文注文", 5)) <= 5

    def test_a_path_loses_its_beginning(self):
        assert cut_path("/a/bc/def.py", 9) == "…/def.py"
