"""Tasks, chains, holders and threads as seen from outside, beside what the target says of itself, on every CPython from 3.9."""

from __future__ import annotations

import pytest

from hangwatch.reading.view import number, plain
from tests.processes import until
from tests.reading.remote.target import VERSIONS, needs_ptrace, python_of, reader_of, target

# A venv with uvloop may have to be built first.
pytestmark = [needs_ptrace, pytest.mark.timeout(400)]
LOOPS = ("asyncio", "uvloop")


@pytest.fixture(scope="module", params=[(version, loop) for version in VERSIONS for loop in LOOPS], ids=lambda param: "-".join(param))
def seen(request):
    """A reader, the tasks by name, and the truth; the target lives for all tests of this module."""
    version, loop = request.param
    python = python_of(version, loop)
    with target(python, "tour.py", loop) as (pid, truth):
        reader = reader_of(pid)
        # It speaks a moment before its loop goes to sleep.
        until(lambda: reader.refresh() or [loop.asleep for loop in reader.loops()] == [True])
        yield reader, {task.name: task for task in reader.tasks()}, truth


def named(truth):
    return [name for name in truth if name != "loop"]


def test_every_task_is_there(seen):
    reader, tasks, truth = seen
    assert {name: tasks[name].id for name in named(truth) if name in tasks} == {name: truth[name]["id"] for name in named(truth)}
    assert len(reader.tasks()) == truth["loop"]["total"]
    assert reader.gaps == []


def test_chains_are_the_target_s_own(seen):
    _, tasks, truth = seen
    found = {name: [[frame.name, frame.file, frame.line] for frame in tasks[name].frames()] for name in named(truth)}
    assert found == {name: truth[name]["chain"] for name in named(truth)}


def test_open_context_managers_are_found_and_no_others(seen):
    _, tasks, truth = seen
    for name in named(truth):
        found = [held.id for frame in tasks[name].frames() for held in frame.held()]
        expected = truth[name]["holds"]
        assert len(found) == len(expected), name
        assert all(known is None or known == held for known, held in zip(expected, found, strict=False)), name


def test_what_is_awaited(seen):
    _, tasks, truth = seen
    waits = {name: [frame.local("self") for frame in tasks[name].frames()][-1] for name in ("holds_two", "enters", "deep", "closes_over")}
    assert {view.id for name, view in waits.items() if name != "enters"} == {truth["loop"]["event"]}
    assert waits["enters"].id == truth["loop"]["lock"]
    assert plain(waits["enters"], "_locked") is True
    assert tasks["gathers"].awaits().type_name == "asyncio.tasks._GatheringFuture"
    assert len(tasks["gathers"].awaits().attr("_children").items()) == 2
    assert plain(tasks["awaits_task"].awaits(), "_state") == "PENDING"
    assert tasks["awaits_task"].awaits().type_name == "_asyncio.Task"


def test_locals_through_cells(seen):
    _, tasks, truth = seen
    outer, inner = tasks["closes_over"].frames()[:2]
    assert outer.local("kept").id == inner.local("kept").id == truth["loop"]["event"]
    assert outer.local("nothing of the kind") is None
    assert tasks["deep"].frames()[0].local("depth").value() == 40


def test_context_variables(seen):
    _, tasks, _ = seen
    assert tasks["coloured"].context("colour").value() == "green"
    assert tasks["coloured"].context("other17").value() == 17
    assert tasks["deep"].context("colour") is None


def test_cancel_requests(seen):
    _, tasks, truth = seen
    assert {name: tasks[name].cancelling for name in named(truth)} == {name: truth[name]["cancelling"] for name in named(truth)}


def test_references_reach_the_event(seen):
    _, tasks, truth = seen
    assert truth["loop"]["event"] in {view.id for view in tasks["closes_over"].frames()[0].references()}


def test_the_loop_and_its_thread(seen):
    reader, _, truth = seen
    (loop,) = reader.loops()
    assert loop.id == truth["loop"]["id"]
    assert loop.thread_ident == truth["loop"]["ident"]
    assert loop.asleep is True
    thread = next(thread for thread in reader.threads() if thread.ident == loop.thread_ident)
    assert thread.native_id == truth["loop"]["native_id"]
    assert thread.name == "MainThread"


def test_a_thread_that_waits_for_a_lock_and_one_that_holds_it(seen):
    reader, _, truth = seen
    threads = {thread.name: thread for thread in reader.threads()}
    keeper, wanter = threads["keeper"].frames()[-1], threads["wanter"].frames()[-1]
    assert (keeper.name, wanter.name) == ("keeps_thread_lock", "wants_thread_lock")
    assert [held.id for held in keeper.held()] == [truth["loop"]["thread_lock"]]
    receiver, method = wanter.calling()
    assert (receiver.id, method) == (truth["loop"]["thread_lock"], "acquire")
    receiver, method = keeper.calling()
    assert (plain(receiver, "__name__"), method) == ("time", "sleep")


def test_another_look_agrees(seen):
    reader, tasks, _ = seen
    assert reader.moved() == set()
    before = {name: [frame.line for frame in task.frames()] for name, task in tasks.items()}
    reader.refresh()
    assert {task.name: [frame.line for frame in task.frames()] for task in reader.tasks()} == before
    assert number(next(iter(reader.tasks())).object(), "_num_cancels_requested") is not None
