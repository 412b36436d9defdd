"""Which distributions the target has imported, in which version: from the names of folders in its own root, no file is opened."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import Protocol

from hangwatch.reading.view import ObjectView

#: As in the kernel (MAXSYMLINKS).
_LINKS = 40
#: They have no distribution. To read what some hundred of them state took longer than all else of a look.
_OF_PYTHON = frozenset(sys.stdlib_module_names)
_INFO = re.compile(r"^(?P<name>.+?)-(?P<version>[^-]+)(?:-py[\d.]+)?\.(?:dist|egg)-info$")
#: Distributions whose import name is not their own name, of those that matter to a service that hangs.
_IMPORTED_AS = {
    "python-multipart": "multipart", "pyyaml": "yaml", "psycopg2-binary": "psycopg2", "grpcio": "grpc", "mysqlclient": "MySQLdb",
}  # fmt: skip


class Modules(Protocol):
    pid: int
    source: str

    def module(self, name: str) -> ObjectView | None: ...


def versions(reader: Modules, modules: Iterable[str]) -> dict[str, str]:
    """Version by distribution name (lower case, dashes), of those that are imported."""
    tops = {name for name in modules if "." not in name}
    found: dict[str, str] = {}
    for folder in _path(reader) if reader.source == "attach" else ():
        try:
            # Through the target's own root: in a container the same path is another folder here.
            names = os.listdir(_inside(reader.pid, folder) or "")
        except OSError:
            continue
        for name in names:
            match = _INFO.match(name)
            if match:
                distribution = re.sub(r"[-_.]+", "-", match["name"]).lower()
                if _IMPORTED_AS.get(distribution, distribution.replace("-", "_")) in tops:
                    found.setdefault(distribution, match["version"])
    for top in tops - _OF_PYTHON:
        if not found.get(top.replace("_", "-")):
            stated = _stated(reader, top)
            if stated:
                found[top.lower().replace("_", "-")] = stated
    return found


def _inside(pid: int, path: str) -> str | None:
    """The name under which this process reaches what ``path`` is to process ``pid``; None when it leads nowhere.

    ``/proc/PID/root`` alone does not do: the kernel follows an absolute symbolic link below it from our own root.
    """
    root, done = f"/proc/{pid}/root", ""
    waiting = path.split("/")[::-1]
    links = 0
    while waiting:
        part = waiting.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = done.rpartition("/")[0]
            continue
        try:
            to = os.readlink(f"{root}{done}/{part}")
        except OSError:
            done += "/" + part
            continue
        links += 1
        if links > _LINKS:
            return None
        if to.startswith("/"):
            done = ""
        waiting += to.split("/")[::-1]
    return root + done


def _path(reader: Modules) -> list[str]:
    """The absolute folders on the target's sys.path."""
    module = reader.module("sys")
    path = module.attr("path") if module is not None else None
    texts = [item.value() for item in path.items()] if path is not None else []
    return [text for text in texts if isinstance(text, str) and text.startswith("/")]


def _stated(reader: Modules, name: str) -> str | None:
    """``__version__``, where no folder tells (a source tree, a core file)."""
    module = reader.module(name)
    version = module.attr("__version__") if module is not None else None
    value = version.value() if version is not None else None
    return value if isinstance(value, str) and value[:1].isdigit() else None
