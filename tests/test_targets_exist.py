"""Every place that an integration recognises exists in the library that is installed: when one moves upstream, this says which."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

from hangwatch import integrations

SPOTS = sorted(
    {
        (getattr(module, "NAME", name), spot.target, spot.since)
        for name in integrations.NAMES
        for module in [importlib.import_module(f"hangwatch.integrations.{name}")]
        for table in ("WAITS", "REQUESTS")
        for spot in getattr(module, table, ())
        if spot.target
    }
)


def source_of(module: str) -> Path | None:
    """Its file, without running it: a module whose own dependencies are not installed is looked at, too."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def is_defined(tree: ast.AST, path: list[str]) -> bool:
    """Is there a class or function of that name, at the top level or under ``if``, ``else`` and ``try``, nested as the path says?"""
    if not path:
        return True
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    todo, inside = list(ast.iter_child_nodes(tree)), []
    while todo:
        node = todo.pop()
        if isinstance(node, kinds):
            inside.append(node)
        else:
            todo += ast.iter_child_nodes(node)
    return any(node.name == path[0] and is_defined(node, path[1:]) for node in inside)


@pytest.mark.parametrize(("library", "target", "since"), SPOTS, ids=[target for _, target, _ in SPOTS])
def test_place_is_there(library, target, since):
    module, _, path = target.partition(":")
    if since and sys.version_info < tuple(int(part) for part in since.split(".")):
        pytest.skip(f"there since Python {since}")
    top = module.partition(".")[0]
    if importlib.util.find_spec(top) is None:
        pytest.skip(f"{library} is not installed")
    file = source_of(module)
    assert file is not None, f"{library} has no module {module} any more"
    if is_defined(ast.parse(file.read_text()), path.split(".")):
        return
    found = importlib.import_module(module)  # inherited, or made at run time
    for part in path.split("."):
        assert hasattr(found, part), f"{library}: {target} is gone"
        found = getattr(found, part)
