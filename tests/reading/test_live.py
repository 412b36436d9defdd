"""The reader of this process, against real suspended coroutines and running threads."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import gc
import pathlib
import subprocess
import sys
import threading
import time
import types
import weakref

import pytest

from hangwatch.reading import reach
from hangwatch.reading.live import LiveReader
from hangwatch.reading.live_frames import suspended
from hangwatch.reading.live_objects import MAX_REFERENTS, LiveObject, referents
from hangwatch.reading.view import MISSING
from tests.parked import look_at


class Trap:
    """Everything that a careless reader would run."""

    def __init__(self):
        object.__setattr__(self, "ran", [])
        object.__setattr__(self, "kept", 7)

    def __getattr__(self, name):
        self.ran.append(f"getattr {name}")
        return 1

    def __getattribute__(self, name):
        if name not in ("ran",):
            object.__getattribute__(self, "ran").append(f"getattribute {name}")
        return object.__getattribute__(self, name)

    def __eq__(self, other):
        self.ran.append("eq")
        return True

    def __hash__(self):
        self.ran.append("hash")
        return 1

    def __repr__(self):
        self.ran.append("repr")
        return "trap"

    def __bool__(self):
        self.ran.append("bool")
        return False

    def __len__(self):
        self.ran.append("len")
        return 3

    def __iter__(self):
        self.ran.append("iter")
        return iter(())

    @property
    def priced(self):
        self.ran.append("property")
        return 2

    @functools.cached_property
    def cached(self):
        self.ran.append("cached")
        return 3

    @property
    def __class__(self):
        object.__getattribute__(self, "ran").append("class")
        return dict

    @property
    def __dict__(self):
        object.__getattribute__(self, "ran").append("dict")
        return {}


def test_reading_an_object_runs_none_of_its_code():
    trap = Trap()
    view = LiveObject(trap)
    assert view.type_name == f"{__name__}.Trap"
    assert view.base_names == (f"{__name__}.Trap",)
    assert view.attr("kept").value() == 7
    assert view.attr("priced") is None
    assert view.attr("cached") is None
    assert view.attr("no_such") is None
    assert view.items() == [] and view.pairs() == [] and view.length() is None
    assert view.value() is MISSING
    assert view == LiveObject(trap) and view.neighbours()
    assert object.__getattribute__(trap, "ran") == []


def test_a_cached_property_is_read_once_it_is_stored():
    class Costly:
        @functools.cached_property
        def answer(self):
            return 42

    costly = Costly()
    assert LiveObject(costly).attr("answer") is None
    assert costly.answer == 42
    assert LiveObject(costly).attr("answer").value() == 42


def test_slots_class_attributes_and_instance_over_class():
    class Slotted:
        __slots__ = ("one", "unset")
        shared = "class"

        def __init__(self):
            self.one = 1

    class Child(Slotted):
        shared = "child"

    child = Child()
    child.shared = "instance"
    view = LiveObject(child)
    assert view.attr("one").value() == 1
    assert view.attr("unset") is None
    assert view.attr("shared").value() == "instance"
    assert LiveObject(Slotted()).attr("shared").value() == "class"


def test_a_class_whose_metaclass_lies_about_its_name():
    class Meta(type):
        def __getattribute__(cls, name):
            raise AssertionError("ran")

        def __hash__(cls):
            raise AssertionError("ran")

    named = Meta("Named", (), {})
    view = LiveObject(object.__new__(named))
    assert view.type_name == f"{__name__}.Named" and view.attr("missing") is None and view.items() == []


def test_the_fields_every_reader_knows():
    async def main():
        future = asyncio.get_running_loop().create_future()

        async def wait():
            await future

        task = asyncio.create_task(wait(), name="named")
        await asyncio.sleep(0)
        assert LiveObject(future).attr("_callbacks").items()[0].items()[0].attr("__self__").id == id(task)
        task.cancel()
        view = LiveObject(task)
        read = {name: view.attr(name) for name in ("_state", "_callbacks", "_loop", "_fut_waiter", "_coro", "_must_cancel", "_name")}
        assert read["_state"].value() == "PENDING"
        assert read["_loop"].id == id(asyncio.get_running_loop())
        assert read["_fut_waiter"].id == id(future)
        assert read["_coro"].id == id(task.get_coro())
        assert read["_name"].value() == "named"
        assert read["_must_cancel"].value() is False
        cancels = view.attr("_num_cancels_requested").value()
        assert cancels == (1 if sys.version_info >= (3, 11) else 0)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_functions_methods_partials_weak_references_cells():
    cell_value = ["kept"]

    def function():
        return cell_value

    view = LiveObject(function)
    assert view.attr("__qualname__").value().endswith("function")
    assert view.attr("__closure__").items()[0].attr("cell_contents").id == id(cell_value)
    assert view.attr("__code__").attr("co_freevars").items()[0].value() == "cell_value"

    class Owner:
        def method(self):
            pass

    owner = Owner()
    method = LiveObject(owner.method)
    assert method.attr("__self__").id == id(owner)
    assert method.attr("__func__").attr("__name__").value() == "method"
    partial = LiveObject(functools.partial(function, 5))
    assert partial.attr("func").id == id(function)
    assert partial.attr("args").items()[0].value() == 5
    assert LiveObject(weakref.ref(owner)).attr("target").id == id(owner)


def test_containers_and_their_limits():
    assert [view.value() for view in LiveObject(collections.deque(range(5))).items(3)] == [0, 1, 2]
    assert LiveObject(set()).items() == [] and LiveObject(set()).length() == 0
    assert [(key.value(), value.value()) for key, value in LiveObject(collections.OrderedDict(a=1)).pairs()] == [("a", 1)]
    assert LiveObject("x" * 5000).value() == "x" * 4096
    assert LiveObject("x" * 5000).length() == 5000
    assert LiveObject(b"ab").value() == b"ab"

    class Sized(list):
        def __iter__(self):
            raise AssertionError("ran")

        def __len__(self):
            raise AssertionError("ran")

    assert [view.value() for view in LiveObject(Sized([1, 2])).items()] == [1, 2]
    assert LiveObject(Sized([1, 2])).length() == 2
    member = type("Word", (str,), {"__str__": lambda self: "lie"})("truth")
    assert LiveObject(member).value() == "truth"


def test_thread_locks_tell_their_state_and_owner():
    lock, owned = threading.Lock(), threading.RLock()
    assert LiveObject(lock).attr("locked").value() is False
    with lock, owned:
        assert LiveObject(lock).attr("locked").value() is True
        assert LiveObject(owned).attr("owner").value() == threading.get_ident()
    assert LiveObject(owned).attr("owner").value() is None


# Await chains


class Awaitable:
    def __await__(self):
        async def inner():
            await asyncio.Event().wait()

        return inner().__await__()


class Yielding:
    def __await__(self):
        yield from asyncio.Event().wait().__await__()


class Iterating:
    """An ``__await__`` iterator in Python that drives a coroutine, as instrumentation libraries make them."""

    def __init__(self, coroutine):
        self.coroutine = coroutine

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.coroutine.send(None)

    def send(self, value):
        return self.coroutine.send(value)

    def close(self):
        self.coroutine.close()


@contextlib.asynccontextmanager
async def manager():
    await asyncio.Event().wait()
    yield


async def numbers():
    await asyncio.Event().wait()
    yield 1


@types.coroutine
def generator_based():
    yield from asyncio.Event().wait().__await__()


def chains():
    async def enters():
        async with manager():
            pass

    async def awaits_object():
        await Awaitable()

    async def awaits_yielding():
        await Yielding()

    async def iterates():
        async for _ in numbers():
            pass

    async def nexts():
        await anext(numbers(), None)

    async def old_style():
        await generator_based()

    async def closes():
        generator = resists()
        await generator.asend(None)
        await generator.aclose()

    async def resists():
        try:
            yield 1
        finally:
            await asyncio.Event().wait()

    async def drives():
        await Iterating(awaits_object())

    return {
        "enters": (enters, ["enters", "__aenter__", "manager", "wait"]),
        "awaits_object": (awaits_object, ["awaits_object", "inner", "wait"]),
        "awaits_yielding": (awaits_yielding, ["awaits_yielding", "__await__", "wait"]),
        "iterates": (iterates, ["iterates", "numbers", "wait"]),
        "nexts": (nexts, ["nexts", "numbers", "wait"]),
        "old_style": (old_style, ["old_style", "generator_based", "wait"]),
        "closes": (closes, ["closes", "resists", "wait"]),
        "drives": (drives, ["drives", "awaits_object", "inner", "wait"]),
    }


@pytest.mark.parametrize("name", list(chains()))
def test_the_await_chain_is_whole(name):
    function, expected = chains()[name]

    def read(reader):
        return {task.name: [frame.name for frame in task.frames()] for task in reader.tasks()}

    assert look_at(lambda: {name: function()}, read)[name] == expected


def test_a_chain_that_drives_itself_ends():
    class Ring:
        def __init__(self):
            self.ring = self

    assert suspended(Ring()) == []


def test_frames_have_places_locals_and_free_variables():
    gate = "free"

    async def waits(argument):
        local = [argument, gate]
        await asyncio.Event().wait()
        return local

    def read(reader):
        frame = next(task for task in reader.tasks() if task.name == "waits").frames()[0]
        return frame.file, frame.line, frame.function, frame.local_names(), frame.local("argument").value(), frame.local("gate").value()

    file, line, function, names, argument, free = look_at(lambda: {"waits": waits(5)}, read)
    assert file == __file__ and "Event().wait()" in pathlib.Path(file).read_text().splitlines()[line - 1]
    assert function.endswith("test_frames_have_places_locals_and_free_variables.<locals>.waits" if sys.version_info >= (3, 11) else "waits")
    assert {"argument", "local", "gate"} <= set(names) and (argument, free) == (5, "free")


def test_reading_locals_keeps_nothing_alive():
    class Kept:
        pass

    async def main():
        gate, go_on = asyncio.Event(), asyncio.Event()
        kept = Kept()
        reference = weakref.ref(kept)

        async def uses(thing):
            await gate.wait()
            del thing
            go_on.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(uses(kept))
        del kept
        await asyncio.sleep(0)
        for frame in suspended(task.get_coro()):
            frame.local("thing")
            frame.held()
        del frame
        gate.set()
        await go_on.wait()
        assert reference() is None
        task.cancel()

    asyncio.run(main())


# What a frame has entered


def test_what_is_entered_is_held_and_what_is_only_named_is_not():
    first, second, third = asyncio.Lock(), asyncio.Lock(), threading.Lock()

    async def holds():
        mentioned = second
        exit_method = second.__aexit__
        async with first:
            with third:
                await asyncio.Event().wait()
        return mentioned, exit_method

    async def enters():
        async with second, first:
            pass

    def read(reader):
        return {task.name: [view.id for frame in task.frames() for view in frame.held()] for task in reader.tasks()}

    found = look_at(lambda: {"holds": holds(), "enters": enters()}, read)
    assert found["holds"] == [id(first), id(third)]
    assert found["enters"] == [id(second)]


def test_an_exit_function_in_a_local_beside_its_object_is_not_a_hold():
    lock = asyncio.Lock()

    async def stores():
        exit_function = type(lock).__aexit__
        beside = lock
        await asyncio.Event().wait()
        return exit_function, beside

    def read(reader):
        return [view for task in reader.tasks() if task.name == "stores" for frame in task.frames() for view in frame.held()]

    assert look_at(lambda: {"stores": stores()}, read) == []


def test_the_frame_of_an_exit_method_does_not_hold_its_own_object():
    class Slow:
        async def __aenter__(self):
            return self

        async def __aexit__(self, *error):
            await asyncio.Event().wait()

    async def leaves():
        async with Slow():
            pass

    def read(reader):
        return [view.type_name for task in reader.tasks() if task.name == "leaves" for frame in task.frames() for view in frame.held()]

    assert look_at(lambda: {"leaves": leaves()}, read) == []


def test_what_a_context_manager_made_of_a_generator_holds():
    lock = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def inner():
        async with lock:
            yield

    @contextlib.asynccontextmanager
    async def outer():
        async with inner():
            yield

    async def uses():
        async with outer():
            await asyncio.Event().wait()

    def read(reader):
        return [view.id for task in reader.tasks() if task.name == "uses" for frame in task.frames() for view in frame.held()]

    assert id(lock) in look_at(lambda: {"uses": uses()}, read)


LOCK = threading.Lock()


class Guarded:
    def __init__(self):
        self.lock = threading.Lock()
        self.by_name = {"a": threading.Lock()}


def running_withs():
    """(function, how many of its locks are held where it sleeps, in order)."""
    guarded = Guarded()
    first, second = threading.Lock(), threading.Lock()

    def by_name(stay):
        with first:
            stay()
        return [first]

    def by_attribute(stay, it=guarded):
        with it.lock:
            stay()
        return [it.lock]

    def by_global(stay):
        with LOCK as taken:
            stay()
        return [LOCK], taken

    def by_key(stay, it=guarded, key="a"):
        with it.by_name[key]:
            stay()
        return [it.by_name["a"]]

    def nested(stay):
        with first, second:
            for _ in range(2):
                if stay:
                    try:
                        stay()
                    except ValueError:
                        return None
        return [first, second]

    def left(stay):
        with first:
            pass
        with second:
            if not stay:
                return None
        stay()
        return []

    return {
        "by_name": (by_name, [first]),
        "by_attribute": (by_attribute, [guarded.lock]),
        "by_global": (by_global, [LOCK]),
        "by_key": (by_key, [guarded.by_name["a"]]),
        "nested": (nested, [first, second]),
        "left": (left, []),
    }


@pytest.mark.parametrize("name", list(running_withs()))
def test_with_blocks_of_a_running_thread(name):
    function, expected = running_withs()[name]
    inside, leave = threading.Event(), threading.Event()

    def stay():
        inside.set()
        leave.wait(10)

    thread = threading.Thread(target=function, args=(stay,), name="holder")
    thread.start()
    try:
        assert inside.wait(10)
        time.sleep(0.02)
        view = next(view for view in LiveReader().threads() if view.name == "holder")
        frame = next(frame for frame in view.frames() if frame.name == name)
        assert [held.id for held in frame.held()] == [id(lock) for lock in expected]
    finally:
        leave.set()
        thread.join()


def calls():
    guarded = Guarded()
    lock = threading.Lock()

    def acquires():
        lock.acquire()

    def acquires_with_arguments(it=guarded, seconds=20):
        it.lock.acquire(True, timeout=seconds + 1)

    def enters(it=guarded):
        with it.lock:
            pass

    return {
        "acquires": (acquires, lock, "acquire"),
        "acquires_with_arguments": (acquires_with_arguments, guarded.lock, "acquire"),
        "enters": (enters, guarded.lock, "__enter__"),
    }


@pytest.mark.parametrize("name", list(calls()))
def test_what_a_thread_calls(name):
    function, lock, method = calls()[name]
    lock.acquire()
    thread = threading.Thread(target=function, name="caller")
    thread.start()
    try:
        time.sleep(0.05)
        view = next(view for view in LiveReader().threads() if view.name == "caller")
        receiver, called = view.frames()[-1].calling()
        assert (receiver.id, called) == (id(lock), method)
        if view.syscall is not None:
            assert view.syscall.startswith("futex")
    finally:
        lock.release()
        thread.join()


# Tasks, loops, threads


def test_a_running_task_has_the_frames_of_its_thread():
    release = threading.Event()

    async def outer():
        await blocks()

    async def blocks():
        synchronous()

    def synchronous():
        release.wait(10)

    loop = asyncio.new_event_loop()

    def run():
        loop.run_until_complete(outer())

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.1)
    try:
        running = [task for task in LiveReader([loop]).tasks() if task.running and task.loop_id == id(loop)]
        assert [frame.name for frame in running[0].frames()][:3] == ["outer", "blocks", "synchronous"]
        view = next(view for view in LiveReader([loop]).loops() if view.id == id(loop))
        assert view.asleep is False and view.thread_ident == thread.ident
    finally:
        release.set()
        thread.join()
        loop.close()


def test_a_sleeping_loop_is_asleep():
    def read(reader):
        return [(view.kind, view.asleep, view.thread_ident) for view in reader.loops()]

    found = look_at(dict, read)
    assert ("asyncio", True, threading.get_ident()) in found


def test_loops_are_found_without_being_told():
    found = look_at(lambda: {"waits": asyncio.Event().wait()}, lambda _: [task.name for task in LiveReader().tasks()])
    assert "waits" in found


def test_context_variables_of_a_task():
    import contextvars

    variable = contextvars.ContextVar("who")

    async def waits():
        variable.set("me")
        await asyncio.Event().wait()

    def read(reader):
        view = next(task for task in reader.tasks() if task.name == "waits")
        return view.context("who").value(), view.context("nobody")

    assert look_at(lambda: {"waits": waits()}, read) == ("me", None)


def test_find_gives_what_an_id_was_given_for():
    async def waits():
        event = asyncio.Event()
        await event.wait()

    def read(reader):
        view = next(task for task in reader.tasks() if task.name == "waits")
        event = view.frames()[0].local("event")
        return reader.find(event.id).type_name, reader.find(view.id).id == view.id, reader.find(1)

    assert look_at(lambda: {"waits": waits()}, read) == ("asyncio.locks.Event", True, None)


GLOBAL_EVENT = []


@pytest.fixture
def unhurried(monkeypatch):
    """The search gives up, with None, after its time or its number of objects. A test process among others, with the heap of a thousand tests
    behind it, may need more than a service is made to pay."""
    monkeypatch.setattr(reach, "TIME_LIMIT_NS", 60_000_000_000)
    monkeypatch.setattr(reach, "OBJECT_LIMIT", 100_000_000)


@pytest.mark.usefixtures("unhurried")
def test_reachability_tells_the_forgotten_event_from_the_remembered_one():
    def make():
        remembered = asyncio.Event()
        GLOBAL_EVENT[:] = [remembered]

        async def waits(event):
            await event.wait()

        return {"forgotten": waits(asyncio.Event()), "remembered": waits(remembered)}

    def read(reader):
        parked = [task for task in reader.tasks() if task.name in ("forgotten", "remembered")]
        return {task.name: reader.reachable_from_live(task.frames()[0].local("event"), parked) for task in parked}

    assert look_at(make, read) == {"forgotten": False, "remembered": True}


def test_a_search_that_takes_too_long_says_nothing(monkeypatch):
    monkeypatch.setattr(reach, "TIME_LIMIT_NS", 0)

    def read(reader):
        (task,) = [task for task in reader.tasks() if task.name == "forgotten"]
        return reader.reachable_from_live(task.frames()[0].local("self"), [task])

    assert look_at(lambda: {"forgotten": asyncio.Event().wait()}, read) is None


@pytest.mark.usefixtures("unhurried")
def test_a_task_that_can_be_woken_opens_the_door_to_what_it_would_set():
    def make():
        first, second = asyncio.Event(), asyncio.Event()
        GLOBAL_EVENT[:] = [first]

        async def sets():
            await first.wait()
            second.set()

        async def waits():
            await second.wait()

        return {"sets": sets(), "waits": waits()}

    def read(reader):
        parked = [task for task in reader.tasks() if task.name in ("sets", "waits")]
        target = next(task for task in parked if task.name == "waits").frames()[0].local("second")
        return reader.reachable_from_live(target, parked)

    assert look_at(make, read) is True


def test_the_collectors_view_of_a_module_is_its_namespace_only():
    """``gc.get_referents`` of 3.12's ``_asyncio`` hands out dead objects of its free list and breaks the interpreter."""
    import _asyncio

    assert [id(item) for item in referents(_asyncio)] == [id(vars(_asyncio))]


def test_reading_before_asyncio_is_imported_leaves_asyncio_whole():
    """Imported alone, first, ``_asyncio`` comes to life twice on 3.12, and no task is ever the current one."""
    code = (
        "import hangwatch.reading.live, asyncio\n"
        "async def main():\n"
        "    assert asyncio.current_task() in asyncio.all_tasks()\n"
        "    assert [task.running for task in hangwatch.reading.live.LiveReader().tasks()] == [True]\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr


def test_versions_name_what_is_imported():
    versions = LiveReader().versions()
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["pytest"] == pytest.__version__


def test_reading_running_threads_all_the_time_disturbs_nobody():
    """Every look into frames that run meanwhile, for a second, while the threads check their own results."""
    stop = threading.Event()
    wrong = []

    def generates(limit):
        yield from range(limit)

    def works(seed):
        lock = threading.Lock()
        while not stop.is_set():
            with lock:
                expected = [number + seed for number in generates(50)]
                got = [number + seed for number in range(50)]
            if expected != got or sum(expected) != sum(got):
                wrong.append((expected, got))

    threads = [threading.Thread(target=works, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 1
    rounds = 0
    while time.monotonic() < deadline:
        for view in LiveReader().threads():
            for frame in view.frames():
                _ = frame.held(), frame.references(), frame.calling(), frame.line
                gc.get_referents(frame.frame)
        rounds += 1
    stop.set()
    for thread in threads:
        thread.join()
    assert rounds > 3 and wrong == []


def test_looking_leaves_the_collector_as_it_was():
    assert gc.isenabled()
    with LiveReader().looking():
        assert not gc.isenabled()
        with LiveReader().looking():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with LiveReader().looking():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


class Kept(list):
    pass


@pytest.mark.parametrize("make", [list, tuple, Kept, lambda rows: dict(enumerate(rows)), collections.deque])
def test_of_a_large_container_only_the_first_members_are_neighbours(make):
    """And nothing behind them: a million dictionaries would be gone through to answer for one list."""
    inner = object()
    rows = [{"inner": inner} for _ in range(2 * MAX_REFERENTS)]
    found = LiveObject(make(rows)).neighbours()
    assert id(rows[0]) in found and id(rows[-1]) not in found and id(inner) not in found
    assert len(found) <= 2 * MAX_REFERENTS


def test_neighbours_reach_through_an_instance_dictionary_and_a_subclass_of_a_container():
    held, owner, kept = object(), types.SimpleNamespace(), Kept()
    owner.held = kept.held = held
    kept.append(owner)
    assert id(held) in LiveObject(owner).neighbours()
    assert {id(held), id(owner)} <= LiveObject(kept).neighbours()
