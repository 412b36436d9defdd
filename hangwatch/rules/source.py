"""What the source text around a frame says, where the file can be read: a line, the calls of a function, what its handlers catch.

Rules use it to choose between readings that the records leave open, never as the only ground for a finding. Reading is bounded and cached;
a file that is missing, too large or no Python gives nothing.
"""

from __future__ import annotations

import ast
import os
from functools import lru_cache

from hangwatch.records import Frame

#: A file above this is generated; parsing it would cost more than it tells.
MAX_BYTES = 1_000_000
#: Functions of one file followed from call to call.
MAX_CALLED = 50


@lru_cache(maxsize=64)
def _parsed(file: str, mtime_ns: int) -> tuple[tuple[str, ...], ast.Module | None]:
    try:
        with open(file, encoding="utf-8", errors="replace") as source:
            text = source.read(MAX_BYTES)
        return tuple(text.splitlines()), ast.parse(text)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return (), None


def _read(file: str) -> tuple[tuple[str, ...], ast.Module | None]:
    try:
        stat = os.stat(file)
    except (OSError, ValueError):
        return (), None
    return _parsed(file, stat.st_mtime_ns) if stat.st_size <= MAX_BYTES else ((), None)


def line_of(frame: Frame) -> str:
    """The source line, stripped; empty when it cannot be read."""
    lines, _ = _read(frame.file)
    return lines[frame.line - 1].strip() if 0 < frame.line <= len(lines) else ""


def _function(frame: Frame) -> ast.AST | None:
    """The innermost function around the frame's line."""
    _, tree = _read(frame.file)
    around = [
        node
        for node in (ast.walk(tree) if tree is not None else ())
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.lineno <= frame.line <= (node.end_lineno or 0)
    ]
    return max(around, key=lambda node: node.lineno, default=None)


def is_repeated(frame: Frame) -> bool:
    """The line is within a ``while`` or an ``async for``: what it calls may return, and the frame not. A plain ``for`` comes to its end."""
    function = _function(frame)
    return any(
        isinstance(node, (ast.While, ast.AsyncFor)) and node.lineno <= frame.line <= (node.end_lineno or 0)
        for node in (ast.walk(function) if function is not None else ())
    )


def calls_in(frame: Frame) -> frozenset[str]:
    """Names of the methods and functions that the frame's function calls anywhere: ``{"wait", "set", "get"}``."""
    function = _function(frame)
    names = set()
    for node in ast.walk(function) if function is not None else ():
        if isinstance(node, ast.Call):
            target = node.func
            names.add(target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", ""))
    return frozenset(names - {""})


def bare_nexts(frame: Frame) -> list[Frame]:
    """Where the frame's function, or one of the same file that it calls, calls next() without a default: where StopIteration gets out."""
    _, tree = _read(frame.file)
    functions = {n.name: n for n in (ast.walk(tree) if tree is not None else ()) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))}
    queue, found = [frame.function.split(".")[-1]], []
    seen: set[str] = set()
    while queue and len(seen) < MAX_CALLED:
        name = queue.pop(0)
        if name in seen or name not in functions:
            continue
        seen.add(name)
        for node in ast.walk(functions[name]):
            if isinstance(node, ast.Call):
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                queue.append(called)
                if called == "next" and isinstance(node.func, ast.Name) and len(node.args) == 1:
                    found.append(Frame(frame.file, node.lineno, name))
    return found


def catches_cancel(frame: Frame) -> int | None:
    """Line of a handler in the frame's function that catches CancelledError and does not raise again, None when there is none."""
    function = _function(frame)
    for node in ast.walk(function) if function is not None else ():
        if isinstance(node, ast.ExceptHandler) and _takes_cancel(node.type) and not any(isinstance(n, ast.Raise) for n in ast.walk(node)):
            return node.lineno
    return None


def _takes_cancel(caught: ast.expr | None) -> bool:
    if caught is None:
        return True
    names = [getattr(node, "attr", getattr(node, "id", "")) for node in ast.walk(caught)]
    return "BaseException" in names or "CancelledError" in names
