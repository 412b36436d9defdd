"""Version specifiers, as far as affected ranges need them: ``<0.12.3``, ``>=11.0,<11.0.2``, ``==3.8.*``, ``<3.1 || ==3.2.0``.

The ordering is that of the version specifiers specification (PEP 440) for epochs, releases, pre-, post- and development releases. Unlike there, ``<1.2``
takes in ``1.2rc1``: a candidate may be older than the fix. Local versions (``+cu118``) compare as their public part.
"""

from __future__ import annotations

import re

_VERSION = re.compile(
    r"v?(?:(?P<epoch>\d+)!)?(?P<release>\d+(?:\.\d+)*)(?:[-_.]?(?P<pre>alpha|beta|preview|pre|rc|a|b|c)[-_.]?(?P<pre_n>\d*))?"
    r"(?:-(?P<post_only>\d+)|[-_.]?(?P<post>post|rev|r)[-_.]?(?P<post_n>\d*))?(?:[-_.]?(?P<dev>dev)[-_.]?(?P<dev_n>\d*))?(?:\+.*)?",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"(===|==|!=|<=|>=|~=|<|>)\s*(.+)")
_PRE = {"a": 0, "alpha": 0, "b": 1, "beta": 1, "c": 2, "rc": 2, "pre": 2, "preview": 2}

Key = tuple[int, tuple[int, ...], tuple[int, int], int, float]


def key(version: str) -> Key | None:
    """What versions are ordered by; None for what is no version (``main``, ``unknown``)."""
    found = _VERSION.fullmatch(version.strip())
    if found is None:
        return None
    release = tuple(int(part) for part in found["release"].split("."))
    while len(release) > 1 and release[-1] == 0:
        release = release[:-1]
    post = int(found["post_only"] or found["post_n"] or 0) if found["post"] or found["post_only"] else -1
    dev = float(found["dev_n"] or 0) if found["dev"] else float("inf")
    final = (-1, 0) if found["dev"] and post < 0 else (3, 0)
    pre = (_PRE[found["pre"].lower()], int(found["pre_n"] or 0)) if found["pre"] else final
    return int(found["epoch"] or 0), release, pre, post, dev


def satisfies(version: str, specifier: str) -> bool | None:
    """Does this version lie in the range? ``*`` and the empty specifier take all. None when either cannot be read."""
    if not specifier.strip() or specifier.strip() == "*":
        return True
    answers = [_all(version, part) for part in specifier.split("||")]
    return None if None in answers and True not in answers else any(answers)


def _all(version: str, part: str) -> bool | None:
    answers = [_one(version, clause.strip()) for clause in part.split(",") if clause.strip()]
    return None if None in answers or not answers else all(answers)


def _one(version: str, clause: str) -> bool | None:
    found = _CLAUSE.fullmatch(clause)
    mine = key(version)
    if found is None or mine is None:
        return None
    operator, wanted = found[1], found[2].strip()
    if wanted.endswith(".*"):
        same = _begins_with(version, wanted[:-2])
        return None if same is None or operator not in ("==", "!=") else same == (operator == "==")
    theirs = key(wanted)
    if theirs is None:
        return None
    if operator == "~=":
        same = _begins_with(version, wanted.rpartition(".")[0])
        return None if same is None else mine >= theirs and same
    return {
        "==": mine == theirs, "===": mine == theirs, "!=": mine != theirs, "<": mine < theirs, "<=": mine <= theirs, ">": mine > theirs,
        ">=": mine >= theirs,
    }[operator]  # fmt: skip


def _begins_with(version: str, prefix: str) -> bool | None:
    mine, theirs = key(version), key(prefix)
    if mine is None or theirs is None:
        return None
    length = len(prefix.split("."))
    padded, wanted = (*mine[1], *([0] * length))[:length], (*theirs[1], *([0] * length))[:length]
    return mine[0] == theirs[0] and padded == wanted
