"""What is handed to the target: `within` and hangwatch's modules, as one text of Python."""

from __future__ import annotations

import base64
import json
import sys
import zlib
from pathlib import Path
from typing import Any, Final

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The commands, and what looks from outside, are of no use in there.
LEFT_OUT: Final = ("console", "watcher", "attach", "demo", "preload", "__main__", "reading.remote", "kernel.bpf")

# The new thread does the work, whoever's thread this is: the application's must not wait for our imports. One expression, so that
# nothing is bound in the namespace it runs in (PyRun_SimpleString: __main__), and nothing is raised into the application.
_ENTRY: Final = """\
try:
    import _thread as t
    def go(text=%r):
        try:
            import sys
            def standard(name):
                if name not in sys.modules and name not in sys.builtin_module_names:
                    home = sys.modules["os"].__file__.rpartition("/")[0]
                    spec = sys.modules["_frozen_importlib_external"].PathFinder.find_spec(name, [home, home + "/lib-dynload"])
                    return sys.modules["_frozen_importlib"]._load(spec) if spec else __import__(name)
                return __import__(name)
            code = standard("zlib").decompress(standard("binascii").a2b_base64(text))
            names = {"__name__": "hangwatch within"}
            exec(compile(code, "/<hangwatch>/within.py", "exec"), names)
            names["tell"]()
        except BaseException:
            pass
    t.start_new_thread(go, ())
except BaseException:
    pass
"""


def script(what: str, token: str, settings: dict[str, Any], guard: str = "") -> str:
    """Python for the target. ``what`` is ``install`` or ``uninstall``; ``token`` names where it tells what came of it.

    ``guard``: a path in the target; once that is gone, nothing is begun.
    """
    package = Path(__file__).resolve().parent.parent.parent
    sources = _sources(package, "") if what == "install" else {}
    given = {"SOURCES": sources, "DATA": _signatures(package), "TOKEN": token, "WHAT": what, "SETTINGS": settings, "GUARD": guard}
    within = Path(__file__).with_name("within.py").read_text(encoding="utf-8")
    # `from __future__` must stay first.
    text = within + "\n" + "".join(f"{name} = {value!r}\n" for name, value in given.items())
    packed = base64.b64encode(zlib.compress(text.encode(), 9)).decode()
    inner = _ENTRY % packed
    return f"exec(compile({inner!r}, '/<hangwatch>/entry.py', 'exec'), {{'__builtins__': __builtins__}})\n"


def _sources(folder: Path, prefix: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in folder.iterdir():
        name = prefix + entry.name.removesuffix(".py")
        if name in LEFT_OUT or entry.name == "__pycache__":
            continue
        if entry.is_dir():
            found.update(_sources(entry, name + "."))
        elif entry.name.endswith(".py"):
            found[name] = entry.read_text(encoding="utf-8")
    return found


def _signatures(package: Path) -> dict[str, str]:
    folder = package / "signatures"
    return {
        entry.name: json.dumps(tomllib.loads(entry.read_text(encoding="utf-8")))
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    }
