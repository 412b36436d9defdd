"""The runner of the benchmarks: its verdict, not their numbers."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks import run

GOOD = {"name": "good", "unit": "ns", "with": 120.0, "without": 100.0, "ratio": 1.2, "budget": "<= 1.5", "ok": True}


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A folder of benchmarks in place of the real one."""
    package = tmp_path / "tests" / "benchmarks"
    package.mkdir(parents=True)
    # Packages with a file of their own: an editable install puts the real `tests` on the path, which wins over a bare folder.
    for place in (package, package.parent):
        (place / "__init__.py").touch()
    monkeypatch.setattr(run, "HERE", package)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    return package


def write(folder, name, output, status=0):
    (folder / f"bench_{name}.py").write_text(f"import sys\nprint({output!r})\nsys.exit({status})\n")


def test_all_within_budget(folder, capsys, tmp_path):
    write(folder, "one", json.dumps(GOOD))
    write(folder, "two", json.dumps([GOOD, {"name": "elsewhere", "skipped": "wrk is not installed"}]))
    assert run.main(["--json", str(tmp_path / "rows")]) == 0
    assert capsys.readouterr().out.count("| good") == 2
    assert [row["name"] for row in json.loads((tmp_path / "rows").read_text())] == ["good", "good", "elsewhere"]


@pytest.mark.parametrize(
    ("output", "status", "said"),
    [(json.dumps({**GOOD, "ok": False}), 0, "NO"), ("Traceback", 1, "no JSON"), ("", 0, "no JSON"), (json.dumps(GOOD), 3, "exit status 3")],
)
def test_over_budget_or_broken_is_status_1(folder, capsys, output, status, said):
    write(folder, "one", json.dumps(GOOD))
    write(folder, "bad", output, status)
    assert run.main([]) == 1
    assert said in capsys.readouterr().out


def test_only_some(folder, capsys):
    write(folder, "one", json.dumps(GOOD))
    write(folder, "bad", "Traceback", 1)
    assert run.main(["--only", "one"]) == 0


def test_none_at_all_is_a_failure(folder):
    assert run.main([]) == 1
