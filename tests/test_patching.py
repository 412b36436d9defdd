"""What is replaced can be put back, identical; a module is patched when it comes."""

from __future__ import annotations

import asyncio
import importlib
import sys

import pytest

from hangwatch.config import Config
from hangwatch.integrations import asyncio_hooks, uvicorn_hooks
from hangwatch.ledger import Ledger
from hangwatch.patching import Patcher


class Base:
    def inherited(self):
        return "base"

    @staticmethod
    def static():
        return "static"


class Derived(Base):
    def own(self, number, *, double=False):
        return number * 2 if double else number


def noisy(seen):
    def make(original):
        def wrapper(*args, **kwargs):
            seen.append(original.__name__)
            return original(*args, **kwargs)

        return wrapper

    return make


def test_every_kind_of_attribute_comes_back_identical():
    before = {cls: dict(vars(cls)) for cls in (Base, Derived)}
    patcher, seen = Patcher(), []
    for owner, name in ((Derived, "own"), (Derived, "inherited"), (Base, "static"), (Derived, "own")):
        assert patcher.wrap(owner, name, noisy(seen))
    assert (Derived().own(2, double=True), Derived().inherited()) == (4, "base")
    assert seen == ["own", "own", "inherited"]
    assert patcher.restore_all() == []
    for cls, attributes in before.items():
        assert set(vars(cls)) == set(attributes)
        assert all(vars(cls)[name] is attributes[name] for name in attributes)


def test_what_somebody_wrapped_since_stays_and_is_named():
    patcher = Patcher()
    original = Derived.own
    patcher.wrap(Derived, "own", noisy([]))
    ours = Derived.own
    Derived.own = lambda self, number: ours(self, number) + 1
    try:
        assert patcher.restore_all() == [f"{__name__}.Derived.own"]
        assert Derived().own(1) == 2
    finally:
        Derived.own = original


def test_what_cannot_be_wrapped_is_noted_and_left_alone():
    patcher = Patcher()
    assert not patcher.wrap(Derived, "gone", noisy([]))
    assert not patcher.wrap(int, "bit_length", noisy([]))
    assert [note.split(" was")[0] for note in patcher.notes] == [f"{__name__}.Derived.gone", "builtins.int.bit_length"]
    assert patcher.restore_all() == []


def test_a_wrapper_whose_look_fails_unplugs_itself_and_the_call_goes_through():
    patcher, original = Patcher(), Derived.own

    def look(*args, **kwargs):
        raise ZeroDivisionError

    patcher.before(Derived, "own", look)
    assert Derived().own(3) == 3
    assert Derived.own is original
    assert patcher.failures == {f"{__name__}.Derived.own": 1}


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "arrives_later.py").write_text("def f():\n    return 1\n\n\nLOADER = type(__loader__).__name__\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "arrives_later"
    sys.modules.pop("arrives_later", None)


def test_a_module_is_patched_when_it_is_imported_and_looks_as_ever(module):
    patcher, came = Patcher(), []
    finders = list(sys.meta_path)
    patcher.when_imported(module, came.append)
    assert came == []
    loaded = importlib.import_module(module)
    assert came == [loaded]
    assert loaded.LOADER == "SourceFileLoader"
    assert "exec_module" not in vars(loaded.__spec__.loader)
    patcher.when_imported(module, came.append)
    assert came == [loaded, loaded]
    patcher.restore_all()
    assert sys.meta_path == finders


def test_after_restore_nothing_is_patched_any_more(module):
    patcher, came = Patcher(), []
    patcher.when_imported(module, came.append)
    patcher.restore_all()
    importlib.import_module(module)
    assert came == []


def test_a_callback_that_fails_does_not_fail_the_import(module):
    patcher = Patcher()

    def callback(loaded):
        raise ZeroDivisionError

    patcher.when_imported(module, callback)
    assert importlib.import_module(module).f() == 1
    assert "ZeroDivisionError" in patcher.notes[0]
    patcher.restore_all()


def test_every_hook_finds_its_target_and_puts_it_back():
    """Fails by name when a patched attribute moves upstream."""
    uvloop = pytest.importorskip("uvloop")
    for name, _, _ in uvicorn_hooks.CYCLES:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    import uvicorn.server

    owners = [asyncio.Event, asyncio.Lock, asyncio.Semaphore, asyncio.Condition, asyncio.BaseEventLoop, uvloop.Loop, uvicorn.server.Server]
    owners += [getattr(sys.modules[name], cls) for name, cls, _ in uvicorn_hooks.CYCLES if name in sys.modules]
    before = [dict(vars(owner)) for owner in owners]
    patcher, ledger = Patcher(), Ledger()
    for hooks in (asyncio_hooks, uvicorn_hooks):
        hooks.install(patcher, ledger, Config())
    assert patcher.notes == []
    changed = [owner for owner, attributes in zip(owners, before, strict=True) if dict(vars(owner)) != attributes]
    assert changed == owners
    assert patcher.restore_all() == []
    for owner, attributes in zip(owners, before, strict=True):
        assert set(vars(owner)) == set(attributes), owner
        assert all(vars(owner)[name] is value for name, value in attributes.items()), owner
    assert not any(type(finder).__module__ == "hangwatch.patching" for finder in sys.meta_path)


def test_an_application_that_replaced_the_wait_of_events_keeps_it(monkeypatch):
    called = []

    async def wait(self):
        called.append(self)
        return "theirs"

    monkeypatch.setattr(asyncio.Event, "wait", wait)
    patcher = Patcher()
    asyncio_hooks.install(patcher, Ledger(), Config())

    async def main():
        event = asyncio.Event()
        event.set()
        return await event.wait()

    assert asyncio.run(main()) == "theirs"
    assert len(called) == 1
    assert patcher.restore_all() == []
    assert asyncio.Event.wait is wait
