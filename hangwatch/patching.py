"""The only place that replaces attributes. What it replaced it can put back, identical.

A `Patcher` is made by the agent, handed to each integration's ``install(patcher, ledger, config)``, and undone with
``restore_all()``. Modules that are not imported yet are patched when they are (``when_imported``): hangwatch imports
nothing of the application's by itself.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

#: Stands for "the class had no such attribute of its own".
_ABSENT: Final = object()


class _Wrapped:
    __slots__ = ("name", "owner", "raw", "wrapper")

    def __init__(self, owner: Any, name: str, raw: Any, wrapper: Any) -> None:
        self.owner = owner
        self.name = name
        self.raw = raw
        self.wrapper = wrapper

    def in_place(self) -> bool:
        return vars(self.owner).get(self.name, _ABSENT) is self.wrapper

    def restore(self) -> bool:
        """False when someone wrapped our wrapper since: taking it out would take theirs out too."""
        if not self.in_place():
            return vars(self.owner).get(self.name, _ABSENT) is self.raw
        if self.raw is _ABSENT:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self.raw)
        return True


class Patcher:
    """Replaced attributes and awaited modules of one agent.

    ``failures`` counts, by ``owner.name``, what could not be wrapped or unplugged itself; ``notes`` says it in sentences.
    """

    def __init__(self) -> None:
        self._wrapped: list[_Wrapped] = []
        self._finder: _Finder | None = None
        self.failures: dict[str, int] = {}
        self.notes: list[str] = []
        self.active = True

    def wrap(self, owner: Any, name: str, make_wrapper: Callable[[Any], Any]) -> bool:
        """Puts ``make_wrapper(original)`` in place of ``owner.name``; False (and a note) when that cannot be done.

        ``owner`` is a class or a module. An attribute that a class only inherited is deleted again at restore.
        """
        raw = vars(owner).get(name, _ABSENT)
        original: Any = getattr(owner, name, _ABSENT)
        try:
            if original is _ABSENT:
                raise AttributeError(f"there is no {name}")
            wrapper = make_wrapper(original)
            functools.update_wrapper(wrapper, original)
            setattr(owner, name, wrapper)
        except Exception as error:
            self._failed(owner, name, f"was left alone: {error}")
            return False
        self._wrapped.append(_Wrapped(owner, name, raw, wrapper))
        return True

    def unplug(self, owner: Any, name: str, error: BaseException | None = None) -> None:
        """A wrapper that failed takes itself out; the application sees the original from the next call on."""
        for wrapped in self._wrapped:
            if wrapped.owner is owner and wrapped.name == name:
                self._failed(owner, name, f"was taken out: {type(error).__name__}: {error}" if error else "was taken out")
                wrapped.restore()
                self._wrapped.remove(wrapped)
                return

    def before(self, owner: Any, name: str, look: Callable[..., None]) -> bool:
        """Runs ``look(*args, **kwargs)`` before each call of a plain function; it unplugs itself when ``look`` fails. Not for hot paths."""

        def make(original: Any) -> Any:
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                try:
                    look(*args, **kwargs)
                except Exception as error:
                    self.unplug(owner, name, error)
                return original(*args, **kwargs)

            return wrapper

        return self.wrap(owner, name, make)

    def when_imported(self, module: str, callback: Callable[[ModuleType], None]) -> None:
        """Calls ``callback(module)`` once it is imported, now if it is already. A callback that raises is noted, not passed on."""
        loaded = sys.modules.get(module)
        if loaded is not None and not _initializing(loaded):
            self._call(module, callback, loaded)
            return
        if self._finder is None:
            self._finder = _Finder(self._call)
        self._finder.add(module, callback)

    def _call(self, module: str, callback: Callable[[ModuleType], None], loaded: ModuleType) -> None:
        if not self.active:
            return
        try:
            callback(loaded)
        except Exception as error:
            self._failed(loaded, "", f"is not watched: {type(error).__name__}: {error}")

    def restore_all(self) -> list[str]:
        """Puts every original back, last replaced first. Returns what had to stay, as someone else has wrapped it since."""
        self.active = False
        if self._finder is not None:
            self._finder.remove()
            self._finder = None
        stayed = [_label(wrapped.owner, wrapped.name) for wrapped in reversed(self._wrapped) if not wrapped.restore()]
        self._wrapped.clear()
        return stayed

    def _failed(self, owner: Any, name: str, what: str) -> None:
        label = _label(owner, name)
        self.failures[label] = self.failures.get(label, 0) + 1
        if len(self.notes) < 100:
            self.notes.append(f"{label} {what}")


def _label(owner: Any, name: str) -> str:
    module = getattr(owner, "__module__", None)
    path = f"{module}.{owner.__qualname__}" if module else getattr(owner, "__name__", repr(owner))
    return f"{path}.{name}" if name else path


def _initializing(module: ModuleType) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


class _Finder:
    """First on ``sys.meta_path``: lets the others find a module we wait for, and calls back after it was executed."""

    def __init__(self, call: Callable[[str, Callable[[ModuleType], None], ModuleType], None]) -> None:
        self._awaited: dict[str, list[Callable[[ModuleType], None]]] = {}
        self._call = call

    def add(self, module: str, callback: Callable[[ModuleType], None]) -> None:
        self._awaited.setdefault(module, []).append(callback)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def remove(self) -> None:
        self._awaited.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname not in self._awaited:
            return None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            spec: ModuleSpec | None = find(fullname, path, target)
            if spec is not None:
                self._follow(fullname, spec)
                return spec
        return None

    def _follow(self, fullname: str, spec: ModuleSpec) -> None:
        loader = spec.loader
        execute = getattr(loader, "exec_module", None)
        if loader is None or execute is None:
            return

        def exec_module(module: ModuleType) -> None:
            # An attribute of this one loader object, gone before the module's own code can see it.
            vars(loader).pop("exec_module", None)
            execute(module)
            for callback in self._awaited.pop(fullname, ()):
                self._call(fullname, callback, module)

        try:
            loader.exec_module = exec_module  # type: ignore[method-assign]
        except (AttributeError, TypeError):
            self._awaited.pop(fullname, None)
