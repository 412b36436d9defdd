"""A target that runs all the time: whatever is shown without a warning must have been true at some moment."""

from __future__ import annotations

import pytest

from hangwatch.errors import CannotLook
from tests.processes import until
from tests.reading.remote.target import VERSIONS, needs_ptrace, python_of, reader_of, target

pytestmark = needs_ptrace
LOOKS = 15

#: The chains in which a worker can be (its own functions, outermost first); running ones have library frames inside.
POSSIBLE = {
    ("works",),
    ("works", "inside"),
    ("works", "inside", "hop"),
    ("works", "hop"),
    ("works", "hop", "sleep"),
    ("works", "inside", "hop", "sleep"),
}


def own(frames):
    """The chain without asyncio's own frames but for the sleep that everybody ends in."""
    known = {"works", "inside", "hop", "sleep"}
    return tuple(frame.name for frame in frames if frame.name in known)


@pytest.mark.parametrize("version", VERSIONS)
def test_only_possible_chains_and_only_own_locks(version):
    with target(python_of(version), "busy.py") as (pid, truth):
        reader = reader_of(pid)
        seen = moved = 0
        for _ in range(LOOKS):
            try:
                reader.refresh()
                tasks = reader.tasks()
            except CannotLook:
                moved += 1  # said, not guessed
                continue
            names = {task.name for task in tasks}
            assert "parked" in names
            for task in tasks:
                if not task.name.startswith("worker") or task.moving or task.running:
                    moved += task.moving
                    continue
                chain = own(task.frames())
                assert chain in POSSIBLE, (task.name, chain)
                held = [view.id for frame in task.frames() for view in frame.held()]
                assert held in ([], [truth["locks"][task.name]]), (task.name, held)
                assert ("inside" in chain) <= bool(held), (task.name, chain)
                seen += 1
        assert seen > LOOKS, "nearly everything was refused: the test says nothing"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_parked_task_among_moving_ones_is_read_right(version):
    with target(python_of(version), "busy.py") as (pid, _):
        reader = reader_of(pid)
        for _ in range(LOOKS):
            reader.refresh()
            parked = [task for task in reader.tasks() if task.name == "parked"]
            assert [[frame.name for frame in task.frames()] for task in parked] == [["wait"]]
            assert not any(task.id in reader.moved() for task in parked)


def test_a_running_task_stands_on_the_stack_of_a_thread():
    """Else the stacks are of another moment, and the task is read again; one that is on none however often (a greenlet's) is no task in motion."""
    with target(python_of("3.11"), "blocked.py", "spin") as (pid, _):
        reader = reader_of(pid)
        until(lambda: reader.refresh() or any(task.running for task in reader.tasks()))
        (task,) = [task for task in reader.tasks() if task.running]
        whole = [frame.name for frame in task.frames()]
        assert not task.unplaced and not task.moving
        task.read([])
        assert task.running and task.unplaced and len(task.frames()) < len(whole)
        assert reader._again(task, []) and not task.moving
        assert reader._again(task, reader._thread_states()) and not task.unplaced
        assert [frame.name for frame in task.frames()] == whole
