"""The layout's own rules: floors, sizes, what may stand where."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "hangwatch").rglob("*.py"))
TOP = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile", "hangwatch", "collectors", "dashboards", "tests", "deploy"}


def test_imports_go_downward():
    linter = Path(sys.executable).parent / "lint-imports"
    if not linter.exists():
        pytest.skip("import-linter is not installed beside this interpreter")
    done = subprocess.run([str(linter)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_stay_small(path):
    lines = path.read_text().count("\n")
    assert lines <= 350, f"{lines} lines: split it where a newcomer would look for the second half"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_functions_stay_small(path):
    long = [
        f"{node.name} ({node.end_lineno - node.lineno + 1})"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno >= 60
    ]
    assert not long


def test_nothing_else_at_the_top():
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    names = subprocess.run(["git", "ls-tree", "--name-only", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert {name for name in names if not name.startswith(".")} <= TOP


def test_import_is_light():
    """`import hangwatch` alone brings in neither OpenTelemetry nor click nor psutil nor asyncio."""
    code = "import sys, hangwatch; print([m for m in ('asyncio', 'click', 'psutil', 'opentelemetry') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
