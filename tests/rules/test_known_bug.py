import dataclasses
from importlib import resources

import pytest

from hangwatch.records import CAUSES, Evidence
from hangwatch.rules import blocked_loop_cpu, known_bug, shared_event
from hangwatch.rules.versions import satisfies
from tests.cases import Scene, blocked_case, frame
from tests.rules.test_shared_event import eaten


def recognised(version):
    scene = eaten()
    if version:
        scene.versions["uvicorn"] = version
    case = scene.case()
    (finding,) = shared_event.check(case)
    return known_bug.recognise(case, finding)


def test_the_first_of_all():
    finding = recognised("0.12.2")
    assert finding.signature.id == "uvicorn-748"
    assert finding.signature.installed == "0.12.2"
    assert finding.signature.fixed_in == "0.12.3"
    assert finding.signature.fix.endswith("/848")
    assert finding.advice.startswith("Upgrade uvicorn to 0.12.3 or later (installed: 0.12.2).")
    assert finding.confidence == "proved"


def test_a_fixed_release_is_not_it_however_alike():
    assert recognised("0.12.3").signature is None


def test_an_unknown_version_may_be_it():
    assert recognised(None).signature.installed is None


def test_the_same_wait_in_another_place_is_not_it():
    scene = eaten()
    scene.versions["uvicorn"] = "0.12.2"
    task = next(iter(scene.tasks.values()))
    scene.change(task.id, frames=(task.frames[1], task.frames[-1]))
    case = scene.case()
    (finding,) = shared_event.check(case)
    assert known_bug.recognise(case, finding).signature is None


def test_what_is_installed_here():
    found = known_bug.installed_bugs({"uvicorn": "0.12.2", "anyio": "3.6.1", "asyncpg": "0.32.0", "python": "3.11.7"})
    ids = {signature.id for signature in found}
    assert {"uvicorn-748", "anyio-475", "cpython-86296"} <= ids
    assert "asyncpg-5" not in ids  # misuse: no release ends it
    assert "uvicorn-2145" not in ids  # needs Python 3.12
    assert {s.id for s in known_bug.installed_bugs({"uvicorn": "0.23.2", "python": "3.12.1"})} == {"uvicorn-2145", "cpython-112182"}


def test_every_shipped_file_can_be_read():
    files = [file for file in resources.files("hangwatch").joinpath("signatures").iterdir() if file.name.endswith(".toml")]
    assert sum(len(list(known_bug.parse(file.read_text()))) for file in files) == len(known_bug.known_bugs()) >= 20


@pytest.mark.parametrize("bug", known_bug.known_bugs(), ids=lambda bug: bug.signature.id)
def test_every_signature_says_what_a_person_needs(bug):
    signature = bug.signature
    assert bug.causes and set(bug.causes) <= set(CAUSES)
    assert bug.frames or bug.any_frames
    assert signature.issue.startswith("https://")
    assert all((signature.mechanism, signature.trigger, signature.workaround, signature.verify, signature.not_when, signature.source))
    if signature.fixed_in:
        assert satisfies(signature.fixed_in, signature.affected) is False
    assert all("/" in file or file.startswith("importlib") for file, _ in bug.frames + bug.any_frames)


def test_a_bad_file_is_refused():
    with pytest.raises(ValueError):
        list(known_bug.parse("[[bug]]\nid = 'x'\n"))
    with pytest.raises(ValueError):
        list(known_bug.parse("[[bug]]\nid='x'\nproject='p'\ntitle='t'\naffected='*'\nissue='i'\n[bug.seen]\nframes=['nocolon']\n"))


def test_signature_round_trip():
    from hangwatch.records import Finding, from_json, to_json

    finding = recognised("0.12.2")
    assert from_json(Finding, to_json(finding)) == finding
    assert dataclasses.asdict(finding)["signature"]["id"] == "uvicorn-748"


def spinning_in(*library):
    """The loop's thread was in the application at both samples, and further looks saw what it called."""
    scene = Scene()
    scene.versions["aiohttp"] = "3.8.5"
    scene.task("PUT /blobs", ["app.py:put_blob:18"], state="running")
    below = ["asyncio/base_events.py:BaseEventLoop._run_once", "app.py:put_blob:18"]
    scene.loop_thread(below)
    stack = [dataclasses.asdict(frame(place)) for place in (*below, *library)]
    case = blocked_case(scene, evidence=(Evidence("samples", data={"threads": [{"native_id": 1, "stacks": [stack]}]}),))
    (finding,) = blocked_loop_cpu.check(case)
    return known_bug.recognise(case, finding)


def test_what_further_looks_saw_tells_the_bug():
    assert spinning_in("aiohttp/streams.py:ChunkTupleAsyncStreamIterator.__anext__").signature.id == "aiohttp-7616"


def test_twin_they_saw_something_else():
    assert spinning_in("aiohttp/web_log.py:log").signature is None
