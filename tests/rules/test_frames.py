import pytest

from hangwatch.records import Frame
from hangwatch.rules import frames, source
from tests.cases import frame


@pytest.mark.parametrize(("file", "answer"), [
    ("/srv/shop/app.py", True), ("/srv/shop/.venv/lib/python3.11/site-packages/uvicorn/server.py", False), ("/usr/lib/python3.11/asyncio/locks.py", False),
    ("/usr/lib/python3/dist-packages/aiohttp/web.py", False), ("<frozen importlib._bootstrap>", False), ("<string>", False),
    ("/root/.pyenv/versions/3.13.0/lib/python3.13/queue.py", False), ("/home/me/hangwatch/tests/hangs/x/app.py", True), ("C:\\shop\\app.py", True),
    ("/usr/lib/python3.13t/queue.py", False), (frames.__file__, False), ("/x/python311.zip/queue.py", False),
])  # fmt: skip
def test_whose_file(file, answer):
    assert frames.is_application(file) is answer


def test_a_service_that_is_an_installed_package_still_has_a_culprit():
    stack = [frame("uvicorn/server.py:serve"), frame("shop/views.py:order"), frame("asyncio/locks.py:acquire")]
    assert frames.innermost(stack).function == "order"


def test_the_library_frame_that_waits_lies_below_the_application():
    stack = [
        frame("uvicorn/x.py:outer"),
        frame("app.py:a"),
        frame("redis/client.py:execute"),
        frame("redis/pool.py:get_connection"),
        frame("asyncio/locks.py:wait_for"),
    ]
    assert [f.function for f in frames.library_wait(stack)] == ["get_connection", "execute"]


def test_a_function_is_named_once():
    assert len(frames.pick([frame("app.py:a:1")], [frame("app.py:a:2"), frame("app.py:b:1"), None])) == 2


def test_source_says_what_a_handler_catches(tmp_path):
    file = tmp_path / "m.py"
    file.write_text(
        "async def f():\n    try:\n        await g()\n    except Exception:\n        pass\n\nasync def h():\n    try:\n        await g()\n    except:\n        raise\n"
    )
    assert source.catches_cancel(Frame(str(file), 3, "f")) is None
    assert source.catches_cancel(Frame(str(file), 9, "h")) is None
    assert source.calls_in(Frame(str(file), 3, "f")) == {"g"}
    assert source.line_of(Frame(str(file), 3, "f")) == "await g()"


@pytest.mark.parametrize("file", ["/no/such/file.py", "", "<string>", "\0"])
def test_source_that_cannot_be_read_says_nothing(file):
    assert source.line_of(Frame(file, 1, "f")) == ""
    assert source.calls_in(Frame(file, 1, "f")) == frozenset()
