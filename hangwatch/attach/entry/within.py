"""What runs inside the target: hangwatch's own modules out of memory, imported where nobody else can see them.

This file is handed over as text and imports nothing of hangwatch; ``SOURCES``, ``DATA``, ``TOKEN``, ``WHAT`` and ``SETTINGS`` are put
behind it. Its modules have an ``__import__`` of their own (through their ``__builtins__``): names of hangwatch come from here, names of
the standard library from where the interpreter keeps it (never from a folder of the application's that has a file of that name), and
others only when the application has imported them. ``sys.path`` and ``sys.meta_path`` stay as they are, ``sys.modules`` has a module of
ours only while its body runs, as dataclasses want. What happened is told in a memfd named after ``TOKEN``, through which whoever asked can
also call it off (`answer`); so does the absence of the file ``GUARD``, where there is one.
"""

from __future__ import annotations

import sys
from types import ModuleType

TYPE_CHECKING = False  # typing's own may have to be imported, from wherever the application's path says
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

SOURCES: dict[str, str] = {}
DATA: dict[str, str] = {}
TOKEN = ""
WHAT = ""
SETTINGS: dict[str, Any] = {}
GUARD = ""

#: An attribute of the module ``_thread``: fork and exit hooks cannot be taken back, so a second entry takes up what the first has left.
HANDLE = "_hangwatch"
PRIVATE = "_hangwatch_inside"
#: Time between two modules, for the application: compiling one keeps the GIL.
REST_S = 0.002
#: For so long what happened can be read, and how often it is looked whether it was.
TOLD_S = 10.0
LOOKED_S = 0.02
#: As in `answer`.
WORD_AT, STEPS_AT = 1 << 20, (1 << 20) + 8


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


class CalledOff(Exception):
    pass


class Asker:
    """Whoever wants this: hears what came of it, and may have changed their mind."""

    def __init__(self) -> None:
        self.os = standard("os")
        self.file = self.os.memfd_create(f"hangwatch-{TOKEN}", self.os.MFD_CLOEXEC)
        self.steps = 0

    def word(self) -> bytes:
        said: bytes = self.os.pread(self.file, 1, WORD_AT).strip(b"\0")
        return said

    def check(self) -> None:
        """Raises CalledOff. First the memfd, then this: who removes the file and finds no memfd knows that nothing happens."""
        if self.word() == b"w" or (GUARD and not self.os.path.exists(GUARD)):
            raise CalledOff
        self.steps += 1
        self.os.pwrite(self.file, self.steps.to_bytes(8, "little"), STEPS_AT)

    def tell(self, said: dict[str, Any]) -> bytes:
        """What was answered, b"" when nothing was."""
        time = standard("time")
        self.os.pwrite(self.file, standard("json").dumps(said).encode() + b"\n", 0)
        end = time.monotonic() + TOLD_S
        while not (word := self.word()) and time.monotonic() < end:
            time.sleep(LOOKED_S)
        return word


def stdlib_folders() -> list[str]:
    home = str(sys.modules["os"].__file__).rpartition("/")[0]
    return [home, home + "/lib-dynload"]


class Within:
    """The modules, and the agent made of them. ``known``: name without ``hangwatch.`` -> module; ``""`` is the package."""

    def __init__(self, sources: dict[str, str], data: dict[str, str]) -> None:
        self.sources, self.data = sources, data
        self.known: dict[str, Any] = {}
        self.asker: Asker | None = None
        self.hidden: dict[str, Any] = {}
        self.unfinished: set[str] = set()
        self.lock = standard("threading").RLock()
        standard("os").register_at_fork(after_in_child=self.forked)
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
        if level == 0 and name in self.hidden:
            return self.hidden[name if fromlist else top]
        if level == 0 and top in sys.stdlib_module_names:
            return self.import_standard(name, lambda: self.real(name, globals, locals, fromlist, level))
        if level == 0 and top not in sys.modules:
            raise ImportError(f"{name}: only the standard library is used in here", name=name)
        return self.real(name, globals, locals, fromlist, level)

    def import_standard(self, name: str, take: Callable[[], Any]) -> Any:
        """What the application's path has of the same name is what it must find when it asks for that: ours is then for us alone."""
        if name in sys.modules:
            return take()
        shown = {hidden: module for hidden, module in self.hidden.items() if hidden not in sys.modules}
        before = set(sys.modules)
        sys.modules.update(shown)  # what the standard library imports for itself
        try:
            standard(name)
            return take()
        finally:
            for hidden in shown:
                sys.modules.pop(hidden, None)
            self.hide({loaded: module for loaded, module in list(sys.modules.items()) if loaded not in before})

    def hide(self, new: dict[str, Any]) -> None:
        finder: Any = sys.modules["_frozen_importlib_external"].PathFinder
        for top in {loaded.partition(".")[0] for loaded in new} & sys.stdlib_module_names & set(new):
            origin, spec = getattr(new[top], "__file__", None), finder.find_spec(top)
            if origin is not None and spec is not None and spec.origin != origin:
                for loaded in [loaded for loaded in new if loaded == top or loaded.startswith(top + ".")]:
                    self.hidden[loaded] = sys.modules.pop(loaded, new[loaded])

    def forked(self) -> None:
        """In the child: a thread that was loading has stayed with the parent, with our lock."""
        self.lock = standard("threading").RLock()
        for name in self.unfinished:
            self.known.pop(name, None)
        self.unfinished.clear()

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
        if self.asker is not None:
            self.asker.check()
        full = f"{PRIVATE}.{name}" if name else PRIVATE
        module = ModuleType(full)
        file = f"/<hangwatch>/hangwatch/{key.replace('.', '/')}.py"
        module.__dict__.update(__builtins__=self.builtins, __file__=file, __package__=full if is_package else full.rpartition(".")[0])
        self.known[name] = module
        self.unfinished.add(name)
        sys.modules[full] = module
        try:
            exec(compile(self.sources[key], file, "exec", dont_inherit=True), module.__dict__)
        except BaseException:
            del self.known[name]
            raise
        finally:
            self.unfinished.discard(name)
            sys.modules.pop(full, None)
        if name:
            outer, _, own = name.rpartition(".")
            setattr(self.known[outer], own, module)
        standard("time").sleep(REST_S)
        return module

    # the agent

    def install(self, settings: dict[str, Any], asker: Asker) -> dict[str, Any]:
        self.asker = asker
        try:
            agent, patching = self.load("agent"), self.load("patching")
            asker.check()
            # What is not imported by now is not used; waiting for it would put a finder on sys.meta_path.
            when_imported = patching.Patcher.when_imported
            patching.Patcher.when_imported = lambda patcher, name, call: when_imported(patcher, name, call) if name in sys.modules else None
            agent.install(**settings)
        finally:
            self.asker = None
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


def act(asker: Asker) -> dict[str, Any]:
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
    said = before.install(SETTINGS, asker)
    setattr(thread, HANDLE, before)
    return said


def forget_this_thread() -> None:
    """`threading` notes every foreign thread that asks who it is; this one must not stay in its list."""
    threading: Any = sys.modules["threading"]
    noted = threading._active.get(threading.get_ident())
    if isinstance(noted, threading._DummyThread):
        threading._active.pop(threading.get_ident(), None)


def tell() -> None:
    """All of it. Raises nothing."""
    asker = Asker()
    try:
        asker.check()
        try:
            said = act(asker)
        except CalledOff:
            raise
        except BaseException as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        forget_this_thread()
        if asker.tell(said) == b"w" and WHAT == "install" and "spool" in said and "already" not in said:
            getattr(sys.modules["_thread"], HANDLE).uninstall()
    except CalledOff:
        pass
    finally:
        forget_this_thread()
        asker.os.close(asker.file)
