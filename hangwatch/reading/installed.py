"""Which installed distributions are imported, in which version, told from directory names alone.

``importlib.metadata`` parses a file per distribution and costs tens of milliseconds; the name of each ``.dist-info``
folder already says name and version.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping

_INFO = re.compile(r"^(?P<name>.+?)-(?P<version>[^-]+)(?:-py[\d.]+)?\.(?:dist|egg)-info$")
#: Distributions whose import name is not their own name, of those that matter to a service that hangs.
_IMPORTED_AS = {
    "python-multipart": "multipart", "pyyaml": "yaml", "psycopg2-binary": "psycopg2", "async-lru": "async_lru",
    "grpcio": "grpc", "psycopg-pool": "psycopg_pool", "sse-starlette": "sse_starlette", "mysqlclient": "MySQLdb",
}  # fmt: skip
_cache: dict[tuple[object, ...], dict[str, str]] = {}


def versions() -> Mapping[str, str]:
    """Version by distribution name (lower case, dashes), ``python`` included. Kept until sys.path or the imported modules change."""
    tops = frozenset(name for name in list(sys.modules) if "." not in name)
    key = (tuple(sys.path), tops)
    found = _cache.get(key)
    if found is None:
        found = {name: version for name, version in _on_path().items() if _import_name(name) in tops}
        found["python"] = platform.python_version()
        _cache.clear()
        _cache[key] = found
    return found


def _import_name(distribution: str) -> str:
    return _IMPORTED_AS.get(distribution, distribution.replace("-", "_"))


def _on_path() -> dict[str, str]:
    """Every distribution on sys.path; the first entry of the path that has it wins, as in an import."""
    found: dict[str, str] = {}
    for folder in list(sys.path):
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            match = _INFO.match(name)
            if match:
                found.setdefault(re.sub(r"[-_.]+", "-", match["name"]).lower(), match["version"])
    return found
