"""What runs inside the target: hangwatch's own modules out of memory, imported where nobody else can see them.

This file is handed over as text and imports nothing of hangwatch; ``SOURCES``, ``DATA``, ``TOKEN``, ``WHAT`` and ``SETTINGS`` are put
behind it. Its modules have an ``__import__`` of their own (through their ``__builtins__``): names of hangwatch come from here, names of
the standard library from where the interpreter keeps it (never from a folder of the application's that has a file of that name), and
others only when the application has imported them. ``sys.path`` and ``sys.meta_path`` stay as they are, ``sys.modules`` has a module of
ours only while its body runs, as dataclasses want. What happened is told in a memfd named after ``TOKEN``.
"""

from __future__ import annotations

import sys
from types import ModuleType

TYPE_CHECKING = False  # typing's own may have to be imported, from wherever the application's path says
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

SOURCES: dict[str, str] = {}
DATA: dict[str, str] = {}
TOKEN = ""
WHAT = ""
SETTINGS: dict[str, Any] = {}

#: An attribute of the module ``_thread``: fork and exit hooks cannot be taken back, so a second entry takes up what the first has left.
HANDLE = "_hangwatch"
PRIVATE = "_hangwatch_inside"
#: Time between two modules, for the application: compiling one keeps the GIL.
REST_S = 0.002
#: For so long what happened can be read.
TOLD_S = 10.0


def standard(name: str) -> Any:
    """A module of the standard library, past the application's own search path."""
    found = sys.modules.get(name)
    if found is not None:
        return found
    if name in sys.builtin_module_names or name.partition(".")[0] not in sys.stdlib_module_names:
        return __import__(name)
    bootstrap: Any = sys.modules["_frozen_importlib"]
    external: Any = sys.modules["_frozen_importlib_external"]
    outer = name.rpartition(".")[0]
    where = standard(outer).__path__ if outer else stdlib_folders()
    spec = external.PathFinder.find_spec(name, where)
    if spec is None:
        return __import__(name)  # frozen, or in an archive
    return bootstrap._load(spec)


def stdlib_folders() -> list[str]:
    home = str(sys.modules["os"].__file__).rpartition("/")[0]
    return [home, home + "/lib-dynload"]


class Within:
    """The modules, and the agent made of them. ``known``: name without ``hangwatch.`` -> module; ``""`` is the package."""

    def __init__(self, sources: dict[str, str], data: dict[str, str]) -> None:
        self.sources, self.data = sources, data
        self.known: dict[str, Any] = {}
        self.lock = standard("threading").RLock()
        builtins = sys.modules["builtins"]
        self.real = builtins.__import__
        self.builtins = {**vars(builtins), "__import__": self.import_}

    def import_(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: tuple[str, ...] | None = (),
        level: int = 0,
    ) -> Any:
        ours = name.partition(".")
        if level == 0 and ours[0] in ("hangwatch", PRIVATE):
            module = self.load(ours[2])
            for wanted in fromlist or ():
                if not hasattr(module, wanted) and self.has(f"{ours[2]}.{wanted}".lstrip(".")):
                    self.load(f"{ours[2]}.{wanted}".lstrip("."))
            return module if fromlist else self.load("")
        if name in ("tomllib", "tomli"):
            return self.as_json()
        if name == "importlib" and "resources" in (fromlist or ()):
            return Resources(self.data)
        top = ours[0]
        if level == 0 and top in sys.stdlib_module_names:
            standard(name)
        elif level == 0 and top not in sys.modules:
            raise ImportError(f"{name}: only the standard library is used in here", name=name)
        return self.real(name, globals, locals, fromlist, level)

    def as_json(self) -> Any:
        """Signatures are handed over as JSON, as 3.10 has no tomllib."""
        made: Any = ModuleType("tomllib")
        made.loads = standard("json").loads
        return made

    def has(self, name: str) -> bool:
        return name in self.sources or name + ".__init__" in self.sources or not name

    def load(self, name: str) -> Any:
        with self.lock:
            if name in self.known:
                return self.known[name]
            package = name + ".__init__" if name else "__init__"
            is_package = package in self.sources
            key = package if is_package else name
            if key not in self.sources:
                raise ImportError(f"hangwatch.{name} is not in here", name=f"hangwatch.{name}")
            if name:
                self.load(name.rpartition(".")[0])
            return self.run(name, key, is_package)

    def run(self, name: str, key: str, is_package: bool) -> ModuleType:
        full = f"{PRIVATE}.{name}" if name else PRIVATE
        module = ModuleType(full)
        file = f"/<hangwatch>/hangwatch/{key.replace('.', '/')}.py"
        module.__dict__.update(__builtins__=self.builtins, __file__=file, __package__=full if is_package else full.rpartition(".")[0])
        self.known[name] = module
        sys.modules[full] = module
        try:
            exec(compile(self.sources[key], file, "exec", dont_inherit=True), module.__dict__)
        except BaseException:
            del self.known[name]
            raise
        finally:
            sys.modules.pop(full, None)
        if name:
            outer, _, own = name.rpartition(".")
            setattr(self.known[outer], own, module)
        standard("time").sleep(REST_S)
        return module

    # the agent

    def install(self, settings: dict[str, Any]) -> dict[str, Any]:
        agent, patching = self.load("agent"), self.load("patching")
        # What is not imported by now is not used; waiting for it would put a finder on sys.meta_path.
        when_imported = patching.Patcher.when_imported
        patching.Patcher.when_imported = lambda patcher, name, call: when_imported(patcher, name, call) if name in sys.modules else None
        agent.install(**settings)
        if agent.current() is None:
            return {"error": "HANGWATCH_DISABLED is set there, or its hooks cannot be placed (its stderr says why)"}
        return {"spool": str(agent.current().config.spool), "loops": len(agent.current().ledger.loops)}

    def uninstall(self) -> dict[str, Any]:
        agent = self.load("agent")
        if agent.current() is None:
            return {"error": "no agent was brought in"}
        agent.uninstall()
        return {}

    def running(self) -> bool:
        return "agent" in self.known and bool(self.known["agent"].current())


class Resources:
    """The part of ``importlib.resources`` that finds the signatures: one folder of texts."""

    def __init__(self, data: dict[str, str]) -> None:
        self.resources, self.data = self, data

    def files(self, package: str) -> Resources:
        return self

    def joinpath(self, folder: str) -> Resources:
        return self

    def iterdir(self) -> list[Text]:
        return [Text(name, text) for name, text in sorted(self.data.items())]


class Text:
    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.text


def act() -> dict[str, Any]:
    """Install, or uninstall; what came of it."""
    thread = sys.modules["_thread"]
    before: Within | None = getattr(thread, HANDLE, None)
    own: Any = sys.modules.get("hangwatch.agent")
    if own is not None and own.current() is not None:
        return {"error": "the application has hangwatch inside already, put there by itself"}
    if WHAT == "uninstall":
        return before.uninstall() if before is not None else {"error": "no agent was brought in"}
    if before is not None and before.running():
        return {"already": True, "spool": str(before.known["agent"].current().config.spool)}
    if before is None or before.sources != SOURCES:
        before = Within(SOURCES, DATA)
        setattr(thread, HANDLE, before)
    return before.install(SETTINGS)


def forget_this_thread() -> None:
    """`threading` notes every foreign thread that asks who it is; this one must not stay in its list."""
    threading: Any = sys.modules["threading"]
    noted = threading._active.get(threading.get_ident())
    if isinstance(noted, threading._DummyThread):
        threading._active.pop(threading.get_ident(), None)


def tell() -> None:
    os, json, time = standard("os"), standard("json"), standard("time")
    try:
        said = act()
    except BaseException as error:
        said = {"error": f"{type(error).__name__}: {error}"}
    forget_this_thread()
    try:
        file = os.memfd_create(f"hangwatch-{TOKEN}", os.MFD_CLOEXEC)
        os.write(file, json.dumps(said).encode() + b"\n")
        time.sleep(TOLD_S)
        os.close(file)
    except OSError:
        os.write(2, f"hangwatch: {said.get('error', 'done')}\n".encode())
