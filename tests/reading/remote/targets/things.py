"""Objects of every shape a reader must decode; prints what they are. Runs on 3.9 and later."""

import asyncio
import collections
import enum
import functools
import json
import queue
import threading
import time
import weakref


class Plain:
    kind = "of the class"

    def __init__(self):
        self.name = "plain"
        self.number = 7

    @property
    def computed(self):
        raise SystemExit("a property ran")


class Slotted:
    __slots__ = ("left", "unset")

    def __init__(self):
        self.left = "slot"


class SlottedWithDict(Slotted):
    def __init__(self):
        super().__init__()
        self.extra = "in the dict"


class Text(str):
    pass


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 9


class Item:
    pass


Point = collections.namedtuple("Point", "x y")


def many():
    thing = Plain()
    for number in range(60):
        setattr(thing, f"field{number}", number)
    return thing


def materialised():
    thing = Plain()
    thing.__dict__["later"] = "added through the dict"
    return thing


def shortened():
    thing = Plain()
    del thing.name
    return thing


def function(argument, *, word=1):
    """Has a closure below."""
    cell = argument

    def inner():
        return cell

    return inner


def turned_queue():
    found = queue.SimpleQueue()
    for number in range(20):
        found.put(number)
        if number % 2:
            found.get()
    return found


def counts():
    yield 1


def holed_set():
    found = set(range(100))
    for number in range(0, 100, 2):
        found.discard(number)
    return found


def turned_deque():
    found = collections.deque(range(200))
    found.rotate(37)
    for _ in range(70):
        found.popleft()
    return found


def holed_dict():
    found = {f"key{number}": number for number in range(40)}
    for number in range(0, 40, 3):
        del found[f"key{number}"]
    found[5] = "an int key"
    return found


KEEP = [Item() for _ in range(5)]
WEAK = weakref.WeakSet(KEEP)
ORDERED = collections.OrderedDict([("a", 1), ("b", 2)])
BYTEARRAY = bytearray(b"abcdef" * 30)
del BYTEARRAY[:6]

VALUES = {
    "none": None,
    "true": True,
    "false": False,
    "zero": 0,
    "small": 5,
    "negative": -17,
    "large": 2**70 + 11,
    "large_negative": -(2**65) - 3,
    "float": 2.5,
    "empty": "",
    "ascii": "plain text",
    "latin": "caf\xe9",
    "greek": "\u03b1\u03b2\u03b3",
    "emoji": "ok \U0001f600",
    "long": "x" * 5000,
    "subclass": Text("a subclass \u03b1"),
    "level": Level.HIGH,
}
OBJECTS = {
    "plain": Plain(),
    "many": many(),
    "materialised": materialised(),
    "shortened": shortened(),
    "slotted": Slotted(),
    "both": SlottedWithDict(),
    "list": [1, 2, 3],
    "empty_list": [],
    "tuple": (1, (2, 3)),
    "point": Point(1, 2),
    "deque": turned_deque(),
    "set": holed_set(),
    "frozenset": frozenset([1, 2]),
    "dict": holed_dict(),
    "ordered": ORDERED,
    "weakset": WEAK,
    "bytes": b"raw\x00bytes",
    "bytearray": BYTEARRAY,
    "enum": Colour.RED,
    "partial": functools.partial(function, 3, word=4),
    "method": Plain().__init__,
    "function": function,
    "closure": function("kept"),
    "builtin": len,
    "reference": weakref.ref(KEEP[0]),
    "class": Plain,
    "lock": threading.Lock(),
    "rlock": threading.RLock(),
    "queue": turned_queue(),
    "generator": counts(),
    "taken": threading.Lock(),
    "entered": threading.RLock(),
}
OBJECTS["taken"].acquire()
OBJECTS["entered"].acquire()
OBJECTS["entered"].acquire()


async def futures():
    loop = asyncio.get_running_loop()
    for name in ("pending", "cancelled", "finished", "failed", "watched"):
        OBJECTS[name] = loop.create_future()
    OBJECTS["cancelled"].cancel()
    OBJECTS["finished"].set_result("the result")
    OBJECTS["failed"].set_exception(ValueError("the failure"))
    OBJECTS["failed"].exception()
    OBJECTS["watched"].add_done_callback(function)
    OBJECTS["watched"].add_done_callback(print)
    print(
        json.dumps(
            {
                "ids": {name: id(thing) for name, thing in OBJECTS.items()},
                "items": {name: list(OBJECTS[name]) for name in ("list", "tuple", "point", "deque", "frozenset")},
                "set": sorted(OBJECTS["set"]),
                "dict": [[k, v] for k, v in OBJECTS["dict"].items()],
                "keep": sorted(map(id, KEEP)),
                "first_line": function.__code__.co_firstlineno,
                "ident": threading.get_ident(),
            }
        ),
        flush=True,
    )
    time.sleep(1000)


asyncio.run(futures())
