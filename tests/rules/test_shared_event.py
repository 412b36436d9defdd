import textwrap

from hangwatch.records import Frame
from hangwatch.rules import shared_event
from tests.cases import Scene

UVICORN = ["uvicorn/protocols/http/httptools_impl.py:RequestResponseCycle.run_asgi", "app.py:add_note:20", "app.py:read_body:12",
           "uvicorn/protocols/http/httptools_impl.py:RequestResponseCycle.receive", "asyncio/locks.py:Event.wait"]  # fmt: skip


def eaten(**fields):
    scene = Scene()
    event = scene.primitive(
        "event",
        "message_event",
        library="uvicorn",
        **{"state": {"shared": True, "set": False, "body_complete": True}, "ready": True, **fields},
    )
    scene.request("POST", "/notes", UVICORN, event, body_complete=True)
    return scene


def test_the_body_is_there_and_the_receiver_sleeps():
    (finding,) = shared_event.check(eaten().case())
    assert finding.confidence == "proved"
    assert [frame.function for frame in finding.culprit[:2]] == ["RequestResponseCycle.receive", "read_body"]


def test_one_look_is_a_hint_only():
    (finding,) = shared_event.check(eaten().case(twice=False))
    assert finding.confidence == "likely"


def test_twin_the_body_has_not_arrived():
    (finding,) = shared_event.check(eaten(ready=False).case())
    assert finding.confidence == "suspected"


def test_twin_an_event_of_its_own():
    assert list(shared_event.check(eaten(state={"set": False}, ready=False).case())) == []


def source(tmp_path, text):
    file = tmp_path / "reports.py"
    file.write_text(textwrap.dedent(text))
    return str(file)


LEADER = """
    async def get(self, name):
        if name in self.building:
            await self.building[name].wait()
            return self.done[name]
        ready = self.building[name] = asyncio.Event()
        self.done[name] = await build(name)
        ready.set()
"""


def followers(tmp_path, text, setters=()):
    scene = Scene()
    event = scene.primitive("event", "asyncio.Event", state={"set": False}, ready=False, setters=setters)
    for _ in range(3):
        task = scene.request("GET", "/report", [], event)
        scene.change(task, frames=(Frame(source(tmp_path, text), 4, "ReportCache.get"),))
    return scene


def test_the_one_that_worked_for_all_is_gone(tmp_path):
    (finding,) = shared_event.check(followers(tmp_path, LEADER).case())
    assert finding.confidence == "likely"
    assert finding.culprit[0].function == "ReportCache.get"
    assert finding.frees == 3
    assert "finally" in finding.advice


def test_twin_the_leader_lives(tmp_path):
    assert list(shared_event.check(followers(tmp_path, LEADER, setters=("task:99",)).case())) == []


def test_twin_somebody_else_sets_it(tmp_path):
    text = "\n\nasync def get(self, name):\n    await self.event.wait()\n"
    assert list(shared_event.check(followers(tmp_path, text).case())) == []
