"""Objects decoded from memory beside what the target made, on every CPython from 3.9."""

from __future__ import annotations

import pytest

from hangwatch.reading.view import MISSING, plain
from tests.reading.remote.target import VERSIONS, needs_ptrace, python_of, reader_of, target

pytestmark = needs_ptrace


@pytest.fixture(scope="module", params=VERSIONS)
def seen(request):
    """The target's VALUES and OBJECTS as views by name, and the truth."""
    with target(python_of(request.param), "things.py") as (pid, truth):
        main = reader_of(pid).module("__main__")
        tables = [{key.value(): value for key, value in main.attr(name).pairs()} for name in ("VALUES", "OBJECTS")]
        yield (*tables, truth)


def test_plain_values(seen):
    values, _, _ = seen
    expected = {
        "none": None, "true": True, "false": False, "zero": 0, "small": 5, "negative": -17, "large": 2**70 + 11, "large_negative": -(2**65) - 3,
        "float": 2.5, "empty": "", "ascii": "plain text", "latin": "café", "greek": "αβγ", "emoji": "ok 😀", "long": "x" * 4096,
        "subclass": "a subclass α", "level": 9,
    }  # fmt: skip
    found = {name: view.value() for name, view in values.items()}
    assert found == expected
    assert {name: type(value) for name, value in found.items()} == {name: type(value) for name, value in expected.items()}


def test_views_are_of_the_objects_themselves(seen):
    _, objects, truth = seen
    assert {name: view.id for name, view in objects.items()} == truth["ids"]


def test_instance_attributes(seen):
    _, objects, _ = seen
    read = {name: (plain(objects[name], "name"), plain(objects[name], "number")) for name in ("plain", "many", "materialised", "shortened")}
    assert read == {"plain": ("plain", 7), "many": ("plain", 7), "materialised": ("plain", 7), "shortened": (None, 7)}
    assert [plain(objects["many"], f"field{number}") for number in range(60)] == list(range(60))
    assert plain(objects["materialised"], "later") == "added through the dict"
    assert plain(objects["plain"], "kind") == "of the class"
    assert objects["plain"].attr("computed") is None
    assert objects["plain"].attr("no such name") is None
    assert objects["materialised"].attr("__dict__").length() == 3


def test_slots(seen):
    _, objects, _ = seen
    assert plain(objects["slotted"], "left") == plain(objects["both"], "left") == "slot"
    assert objects["slotted"].attr("unset") is None
    assert plain(objects["both"], "extra") == "in the dict"


def test_containers(seen):
    _, objects, truth = seen
    for name in ("list", "point", "deque", "frozenset"):
        assert [view.value() for view in objects[name].items()] == truth["items"][name], name
        assert objects[name].length() == len(truth["items"][name]), name
    assert [view.value() for view in objects["deque"].items(limit=80)] == truth["items"]["deque"][:80]
    assert objects["empty_list"].items() == [] and objects["empty_list"].length() == 0
    assert [view.value() for view in objects["queue"].items()] == list(range(10, 20))
    inner = objects["tuple"].items()[1]
    assert [view.value() for view in inner.items()] == [2, 3]
    assert sorted(view.value() for view in objects["set"].items()) == truth["set"]
    assert objects["set"].length() == len(truth["set"])
    assert [[key.value(), value.value()] for key, value in objects["dict"].pairs()] == truth["dict"]
    assert objects["dict"].length() == len(truth["dict"])
    assert [(key.value(), value.value()) for key, value in objects["ordered"].pairs()] == [("a", 1), ("b", 2)]
    assert sorted(view.id for view in objects["weakset"].items()) == truth["keep"]
    assert objects["bytes"].value() == b"raw\0bytes"
    assert objects["bytearray"].value() == b"abcdef" * 29
    assert objects["plain"].value() is MISSING and objects["plain"].length() is None


def test_names_of_types(seen):
    _, objects, _ = seen
    names = {
        name: objects[name].type_name
        for name in ("plain", "list", "deque", "ordered", "weakset", "function", "method", "builtin", "lock", "pending", "point")
    }
    assert names == {
        "plain": "__main__.Plain", "list": "list", "deque": "collections.deque", "ordered": "collections.OrderedDict",
        "weakset": "_weakrefset.WeakSet", "function": "function", "method": "method", "builtin": "builtin_function_or_method",
        "lock": "_thread.lock", "pending": "_asyncio.Future", "point": "__main__.Point",
    }  # fmt: skip
    assert objects["both"].base_names == ("__main__.SlottedWithDict", "__main__.Slotted")
    assert objects["point"].base_names == ("__main__.Point", "tuple")


def test_callables(seen):
    _, objects, truth = seen
    assert plain(objects["function"], "__qualname__") == "function"
    assert plain(objects["function"], "__module__") == "__main__"
    assert plain(objects["closure"], "__qualname__") == "function.<locals>.inner"
    assert objects["closure"].attr("__closure__").items()[0].attr("cell_contents").value() == "kept"
    code = objects["closure"].attr("__code__")
    assert [view.value() for view in code.attr("co_freevars").items()] == ["cell"]
    assert (plain(code, "co_name"), plain(code, "co_filename")[-9:]) == ("inner", "things.py")
    assert plain(objects["function"].attr("__code__"), "co_firstlineno") == truth["first_line"]
    assert plain(objects["generator"], "__name__") == plain(objects["generator"].attr("gi_code"), "co_name") == "counts"
    assert plain(objects["method"], "__qualname__") == "Plain.__init__"
    assert objects["method"].attr("__self__").type_name == "__main__.Plain"
    assert objects["method"].attr("__func__").type_name == "function"
    assert plain(objects["builtin"], "__name__") == "len"
    assert objects["partial"].attr("func").id == objects["function"].id
    assert objects["partial"].attr("args").items()[0].value() == 3
    assert objects["class"].attr("kind").value() == "of the class"
    assert plain(objects["class"], "__qualname__") == "Plain"


def test_weak_references_and_locks(seen):
    _, objects, truth = seen
    assert objects["reference"].attr("target").id in truth["keep"]
    assert [plain(objects[name], "locked") for name in ("lock", "taken")] == [False, True]
    assert plain(objects["rlock"], "owner") is None
    assert plain(objects["entered"], "owner") == truth["ident"]


def test_futures(seen):
    _, objects, _ = seen
    states = {name: plain(objects[name], "_state") for name in ("pending", "cancelled", "finished", "failed")}
    assert states == {"pending": "PENDING", "cancelled": "CANCELLED", "finished": "FINISHED", "failed": "FINISHED"}
    assert plain(objects["finished"], "_result") == "the result"
    assert objects["failed"].attr("_exception").type_name == "ValueError"
    assert objects["pending"].attr("_callbacks").value() is None
    callbacks = objects["watched"].attr("_callbacks").items()
    assert [plain(pair.items()[0], "__name__") for pair in callbacks] == ["function", "print"]
    assert objects["pending"].attr("_loop").base_names[-1] == "asyncio.events.AbstractEventLoop"
