import dataclasses
import textwrap

from hangwatch.records import Frame
from hangwatch.rules import cancel_swallowed
from tests.cases import Scene


def stopping(before=1, now=1, frames=("app.py:_run:22", "asyncio/tasks.py:wait_for")):
    scene = Scene()
    end = scene.primitive("task", "task shipper")
    task = scene.task("shipper", list(frames), scene.primitive("queue-get"), cancelling=now)
    scene.change(end, holders=(task,))
    scene.request("POST", "/stop", ["app.py:stop:33"], end)
    earlier = scene.snapshot(tasks=tuple(dataclasses.replace(t, cancelling=before) if t.id == task else t for t in scene.tasks.values()))
    return scene, earlier, task


def test_it_goes_on_and_its_end_is_awaited():
    scene, earlier, _ = stopping()
    (finding,) = cancel_swallowed.check(scene.case(earlier=earlier))
    assert finding.confidence == "likely"
    assert finding.title == "task 'shipper' was cancelled once and goes on; POST /stop waits for its end"
    assert {frame.function for frame in finding.culprit} == {"stop", "_run"}


def test_the_handler_is_named(tmp_path):
    file = tmp_path / "events.py"
    file.write_text(
        textwrap.dedent("""
        async def events():
            while True:
                try:
                    await get()
                except BaseException:
                    continue
    """)
    )
    scene, _, task = stopping(now=40)
    scene.change(task, frames=(Frame(str(file), 5, "events"),))
    (finding,) = cancel_swallowed.check(scene.case())
    assert finding.culprit[0] == Frame(str(file), 6, "events")
    # It moves all the time: the second look may have caught it with its outermost frame only.
    earlier = scene.snapshot()
    scene.change(task, frames=(Frame("/venv/site-packages/anyio/_core/_tasks.py", 327, "TaskHandle._run_coro"),))
    (finding,) = cancel_swallowed.check(scene.case(earlier=earlier))
    assert finding.culprit[0] == Frame(str(file), 6, "events")


def test_twin_it_was_told_just_now():
    scene, earlier, _ = stopping(before=0)
    assert list(cancel_swallowed.check(scene.case(earlier=earlier))) == []


def test_twin_not_told():
    scene, earlier, _ = stopping(now=0)
    assert list(cancel_swallowed.check(scene.case(earlier=earlier))) == []
