"""Records survive the way to disk and back, also between versions."""

from __future__ import annotations

import dataclasses
import json

import pytest

from hangwatch import records
from hangwatch.records import Finding, Frame, Hold, Incident, Primitive, Signature, Snapshot, Stall, Task, from_json, to_json

FRAME = Frame("/srv/app.py", 12, "transfer")
SNAPSHOT = Snapshot(
    schema=records.SCHEMA,
    taken_at=1.5,
    at_ns=2,
    pid=3,
    source="agent",
    tasks=(Task("task:1", "one", "loop:1", "parked", (FRAME,), "lock:2", (Hold("lock:1", FRAME),)),),
    primitives=(Primitive("lock:1", "lock", "asyncio.Lock", "asyncio", {"locked": True}, ("task:2",), ("task:1",)),),
)
SIGNATURE = Signature("uvicorn-748", "uvicorn", "t", "0.12.2", "<0.12.3", "0.12.3", "issue", "fix")
INCIDENT = Incident(
    "i",
    "f",
    "shop",
    Stall("request", "request:1", 1, 2),
    SNAPSHOT,
    findings=(Finding("deadlock", "t", culprit=(FRAME,), signature=SIGNATURE),),
)


def test_there_and_back():
    assert from_json(Incident, json.loads(json.dumps(to_json(INCIDENT)))) == INCIDENT


def test_unknown_keys_of_a_newer_version_are_ignored():
    data = to_json(INCIDENT) | {"mood": "calm"}
    data["snapshot"]["tasks"][0]["colour"] = "red"
    assert from_json(Incident, data) == INCIDENT


def test_missing_keys_take_their_default():
    data = to_json(INCIDENT)
    del data["evidence"], data["count"]
    assert from_json(Incident, data) == INCIDENT


def test_not_an_object_is_refused():
    with pytest.raises(ValueError, match="JSON object"):
        from_json(Incident, ["x"])


@pytest.mark.parametrize("kind", [k for k in vars(records).values() if dataclasses.is_dataclass(k)])
def test_every_record_is_frozen_and_slotted(kind):
    assert kind.__dataclass_params__.frozen
    assert "__slots__" in vars(kind)
