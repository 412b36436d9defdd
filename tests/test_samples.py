"""Stacks of a loop's thread that computes: several looks, and none where they would show the same."""

from __future__ import annotations

import dataclasses
import threading
from types import SimpleNamespace

import pytest

from hangwatch import samples
from tests.cases import Scene


@pytest.fixture
def spinner():
    done, begun = threading.Event(), threading.Event()

    def helper() -> int:
        return sum(range(50))

    def spin() -> None:
        begun.set()
        while not done.is_set():
            helper()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    begun.wait()
    yield SimpleNamespace(ident=thread.ident, native_id=thread.native_id)
    done.set()
    thread.join()


def seen(mark, **fields):
    snapshot = Scene().snapshot()
    threads = (dataclasses.replace(snapshot.threads[0], native_id=mark.native_id, **fields),)
    return samples.stacks(mark, dataclasses.replace(snapshot, threads=threads))


def test_every_look_has_the_function_that_does_not_return(spinner):
    (evidence,) = seen(spinner, waits_on=None, syscall="futex wait")
    (told,) = evidence.data["threads"]
    assert len(told["stacks"]) == samples.STACKS
    assert all(any(frame["function"].endswith("spin") for frame in stack) for stack in told["stacks"])


@pytest.mark.parametrize("fields", [{"waits_on": "peer:1"}, {"waits_on": None, "syscall": "recvfrom tcp 10.0.0.1:5432"}])
def test_one_that_waits_is_not_looked_at_again(spinner, fields):
    assert seen(spinner, **fields) == ()
