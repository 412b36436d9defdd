"""All captures together: nothing that one of them does takes the others' answers away."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import types

import pytest

from hangwatch import evidence
from hangwatch.evidence import CAPTURES, Target, collect
from hangwatch.records import Evidence
from tests.processes import waiting


def test_one_answer_of_each_in_order_with_its_time():
    with waiting("recv") as facts:
        found = collect(Target(facts["pid"]), deadline_s=30)
    assert [e.tool for e in found] == [module.NAME for module in CAPTURES]
    assert all(e.took_ms > 0 for e in found)
    assert {e.tool for e in found if e.error is None} >= {"process", "sockets"}


def test_only_what_was_asked_for():
    assert [e.tool for e in collect(Target(os.getpid()), which=["sockets", "process", "no-such-tool"])] == ["process", "sockets"]
    assert collect(Target(os.getpid()), which=[]) == ()


@pytest.fixture
def captures(monkeypatch):
    """Three captures: one raises, one never ends, one answers."""
    end = threading.Event()

    def breaks(target):
        raise ZeroDivisionError("of ours")

    def hangs(target):
        end.wait()
        return Evidence("hangs")

    made = [("breaks", breaks), ("hangs", hangs), ("answers", lambda target: Evidence("answers", text=str(target.deadline_s)))]
    monkeypatch.setattr(evidence, "CAPTURES", tuple(types.SimpleNamespace(NAME=name, capture=capture) for name, capture in made))
    yield
    end.set()


def test_a_capture_that_raises_or_hangs_costs_only_itself(captures):
    breaks, hangs, answers = collect(Target(os.getpid(), deadline_s=60), deadline_s=0.5)
    assert breaks.error == "ZeroDivisionError: of ours"
    assert hangs.error == "gave no answer within 0.5 s"
    assert answers.error is None
    assert float(answers.text) < 0.5


def test_a_process_that_may_start_no_thread_gets_an_answer(monkeypatch):
    def refused(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert all("can't start new thread" in e.error for e in collect(Target(os.getpid())))


def test_all_of_a_process_that_is_gone():
    child = subprocess.Popen(["true"])
    child.wait()
    assert all(e.error for e in collect(Target(child.pid)))


def test_importing_it_loads_no_third_party_module():
    program = "import sys, hangwatch.evidence; print([m for m in ('psutil', 'click', 'opentelemetry', 'ctypes') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


def test_what_is_prepared_is_not_imported_at_the_stall():
    program = """
import sys, os, hangwatch.evidence as e
e.prepare()
before = set(sys.modules)
found = e.collect(e.Target(os.getpid()), which=["process", "sockets", "faulthandler"], deadline_s=60)
print(sorted(name for name in set(sys.modules) - before))
"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


def test_captures_run_while_their_owner_does_something_else(monkeypatch):
    begun, end = threading.Event(), threading.Event()

    def waits(target):
        begun.set()
        end.wait()
        return Evidence("waits")

    monkeypatch.setattr(evidence, "CAPTURES", (types.SimpleNamespace(NAME="waits", capture=waits),))
    collection = evidence.Collection(Target(os.getpid()), deadline_s=60)
    assert begun.wait(60)
    end.set()
    assert [e.error for e in collection.gather()] == [None]
