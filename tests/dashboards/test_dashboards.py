"""The dashboards as they are committed: fresh, whole, and about metrics and attributes that exist."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from hangwatch import names
from hangwatch.config import Config
from hangwatch.export.board import Board
from hangwatch.export.exposition import metric_name
from hangwatch.ledger import Ledger

FOLDER = Path(__file__).resolve().parents[2] / "dashboards"
FILES = sorted((FOLDER / "grafana").glob("*.json"))
BOARDS = {path.stem: json.loads(path.read_text()) for path in FILES}
README = (FOLDER / "README.md").read_text()


def targets():
    for name, board in BOARDS.items():
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield name, panel, target


EXPRESSIONS = sorted({target["expr"] for _, _, target in targets() if "expr" in target})
TRACEQL = sorted({target["query"] for _, _, target in targets() if "query" in target} | set(re.findall(r"^ {4}(\{.*)$", README, re.M)))


def our_metrics():
    return {metric_name(family) for family in Board(Config.make({}), Ledger()).families()}


def test_there_are_the_three():
    assert set(BOARDS) == {"fleet", "worker", "incidents"}


@pytest.mark.skipif(find_spec("grafana_foundation_sdk") is None, reason="grafana-foundation-sdk is not installed")
def test_they_are_as_the_code_makes_them():
    done = subprocess.run([sys.executable, FOLDER / "build.py", "--check"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_uids_and_ids_are_unique():
    uids = [board["uid"] for board in BOARDS.values()]
    assert len(set(uids)) == len(uids) and all(0 < len(uid) <= 40 for uid in uids)
    for board in BOARDS.values():
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        titles = [panel["title"] for panel in board["panels"]]
        assert len(set(titles)) == len(titles) and all(titles)


@pytest.mark.parametrize("name", BOARDS)
def test_panels_do_not_overlap(name):
    places = [panel["gridPos"] for panel in BOARDS[name]["panels"]]
    cells = [{(x, y) for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])} for p in places]
    assert all(cells)
    assert all(p["x"] + p["w"] <= 24 for p in places)
    for one, other in itertools.combinations(cells, 2):
        assert not one & other


def sources(value):
    if isinstance(value, dict):
        if isinstance(value.get("datasource"), dict):
            yield value["datasource"]
        for inner in value.values():
            yield from sources(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from sources(inner)


@pytest.mark.parametrize("name", BOARDS)
def test_data_sources_come_by_variables(name):
    known = {f"${{{v['name']}}}": v["query"] for v in BOARDS[name]["templating"]["list"] if v["type"] == "datasource"}
    used = {source["uid"]: source["type"] for source in sources(BOARDS[name])}
    assert used and used.items() <= known.items()
    assert all("datasource" in target for target in (t for n, _, t in targets() if n == name))


@pytest.mark.parametrize("name", BOARDS)
def test_every_variable_in_use_exists(name):
    board = BOARDS[name]
    known = {variable["name"] for variable in board["templating"]["list"]}
    words = "".join(t.get("expr", "") + t.get("query", "") for n, _, t in targets() if n == name)
    used = {a or b for a, b in re.findall(r"\$(?:\{(\w+)(?::\w+)?\}|(\w+))", words)} - {"__rate_interval"}
    assert used <= known


def metrics_in(text):
    without_labels = re.sub(r"\b(by|on) \([^)]*\)|\{[^}]*\}", "", text)
    return {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in re.findall(r"hangwatch_\w+", without_labels)}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_is_one_of_ours(expression):
    assert metrics_in(expression) and metrics_in(expression) <= our_metrics()


def test_every_metric_of_ours_is_shown():
    shown = set().union(*map(metrics_in, EXPRESSIONS))
    assert our_metrics() == shown


def test_variables_ask_for_metrics_of_ours():
    queries = [v["query"]["query"] for board in BOARDS.values() for v in board["templating"]["list"] if v["type"] == "query"]
    assert queries
    for query in queries:
        assert metrics_in(query.replace("label_values(", "")) <= our_metrics()


@pytest.mark.parametrize("query", TRACEQL)
def test_every_attribute_in_traceql_is_one_of_ours(query):
    ours = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    used = set(re.findall(r"\b(?:span|resource|event|link)\.([a-z_.]+[a-z_])", query))
    assert used <= ours, used - ours
    assert query.count("{") == query.count("}") and query.count('"') % 2 == 0


def test_links_lead_to_boards_that_exist():
    uids = {board["uid"] for board in BOARDS.values()}
    found = set(re.findall(r"/d/([\w-]+)", json.dumps(BOARDS)))
    assert found and found <= uids
