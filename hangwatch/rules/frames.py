"""Which frames a person should open: the application's own first, then the library's that waits.

A frame belongs to the application when its file is neither in a folder of installed packages, nor in the standard library, nor ours.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Sequence

from hangwatch import records
from hangwatch.graph import WaitGraph
from hangwatch.records import Frame

#: More frames than this are no pointer but a stack.
MAX_CULPRITS = 6

#: Functions of asyncio below which a loop's callbacks run.
_TURNS = ("_run_once", "run_forever")
_OURS = os.path.dirname(os.path.abspath(records.__file__)) + os.sep
_INSTALLED = re.compile(r"[/\\](site|dist)-packages[/\\]")
_NATIVE = re.compile(r"\.so(\.[\d.]+)?$|\.(c|cc|cpp|h|pyx|rs|dll|dylib)$|^\[")
_STANDARD = re.compile(r"[/\\]lib(64)?[/\\]python\d(\.\d+)?t?[/\\]|[/\\]python\d+\.zip[/\\]|^<|^$")


def is_installed(file: str) -> bool:
    """In a folder of installed packages."""
    return _INSTALLED.search(file) is not None


def is_standard(file: str) -> bool:
    """Of the standard library (frozen modules and code without a file included)."""
    return not is_installed(file) and _STANDARD.search(file) is not None


def is_native(file: str) -> bool:
    """A shared object or its source, as tools that read native stacks name them."""
    return _NATIVE.search(file) is not None


def is_ours(file: str) -> bool:
    return file.startswith(_OURS) or "site-packages/hangwatch/" in file


@functools.lru_cache(8192)
def is_application(file: str) -> bool:
    return not (is_installed(file) or is_standard(file) or is_ours(file) or is_native(file))


def shown(frames: Iterable[Frame]) -> list[Frame]:
    """Without our own wrappers' frames."""
    return [frame for frame in frames if not is_ours(frame.file)]


def application(frames: Sequence[Frame]) -> list[Frame]:
    """The application's frames, innermost first. A service that is itself an installed package: its outermost frames that are
    of no well-known library cannot be told, so the innermost frame outside the standard library stands for it."""
    own = [frame for frame in reversed(frames) if is_application(frame.file)]
    if own:
        return own if len(own) < 2 or own[-1].function != "<module>" else [f for f in own if f.function != "<module>"] or own
    installed = [frame for frame in reversed(frames) if is_installed(frame.file) and not is_ours(frame.file)]
    return installed[:1]


def innermost(frames: Sequence[Frame]) -> Frame | None:
    """The application's innermost frame."""
    return next(iter(application(frames)), None)


def library_wait(frames: Sequence[Frame]) -> list[Frame]:
    """The installed library's frame that waits, below the application's innermost; then the one that the application called."""
    below: list[Frame] = []
    for frame in reversed(frames):
        if is_application(frame.file):
            break
        if is_installed(frame.file) and not is_ours(frame.file):
            below.append(frame)
    if not below:
        return []
    return [below[0], below[-1]] if len(below) > 1 else below


def inside_the_loop(frames: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """What the loop runs, without what runs the loop: the main program that started the server is not what blocks it."""
    at = max(
        (i for i, f in enumerate(frames) if f.function.split(".")[-1] in _TURNS and is_standard(f.file) and "asyncio" in f.file), default=0
    )
    if at == 0:
        at = max(
            (i for i, f in enumerate(frames) if f.function.split(".")[-1] in ("run", "run_until_complete") and "asyncio/runners" in f.file),
            default=0,
        )
    return frames[at:]


def spinning(stacks: list[tuple[Frame, ...]]) -> list[Frame]:
    """The frames that are on all stacks at the same depth, innermost first: of a loop that spins, the first is the one that does not return,
    and what it calls is seen by chance. Empty where there is one stack only."""
    common = []
    for level in zip(*stacks, strict=False):
        if len({(frame.file, frame.function) for frame in level}) > 1:
            break
        common.append(level[0])
    return common[::-1] if len(stacks) > 1 else []


def frames_of(graph: WaitGraph, waiter_id: str) -> tuple[Frame, ...]:
    """The stack of a task, a thread or a request's task; of a running task that of its loop's thread, which has its inner frames."""
    node = graph.node(waiter_id)
    if node in graph.threads:
        return graph.threads[node].frames
    return graph.tasks[node].frames if node in graph.tasks else ()


def pick(*groups: Iterable[Frame | None]) -> tuple[Frame, ...]:
    """One list of culprits out of several, in order, a function named once, at most ``MAX_CULPRITS``."""
    found: dict[tuple[str, str], Frame] = {}
    for group in groups:
        for frame in group:
            if frame is not None and not is_ours(frame.file):
                found.setdefault((frame.file, frame.function), frame)
    return tuple(found.values())[:MAX_CULPRITS]


def where(graph: WaitGraph, waiter_ids: Iterable[str], depth: int = 1) -> list[Frame]:
    """The ``depth`` innermost application frames of each waiter's stack; every stack's innermost before any's second."""
    # Ten thousand parked tasks have the same few stacks: equal ones are one object within a snapshot, and say nothing more the second time.
    different: dict[int, str] = {}
    for waiter_id in waiter_ids:
        different.setdefault(id(frames_of(graph, waiter_id)), waiter_id)
    stacks = [_own_stack(graph, waiter_id)[:depth] for waiter_id in different.values()]
    return [stack[level] for level in range(depth) for stack in stacks if level < len(stack)]


def _own_stack(graph: WaitGraph, waiter_id: str) -> list[Frame]:
    """Of a library's own task, which is in nobody's code: the frames of the one that waits for it come first."""
    own = application(frames_of(graph, waiter_id))
    if own and not is_application(own[0].file):
        asked = [p for p in graph.held_by(waiter_id) if p in graph.primitives]  # not a loop: everybody waits for that
        asking = [w for p in asked for w in graph.waiters(p) if w in graph.tasks and w != waiter_id]
        stacks = [application(frames_of(graph, w)) for w in asking[:20]]
        return next((stack[:1] for stack in stacks if stack and is_application(stack[0].file)), []) + own
    return own


def waits_in(graph: WaitGraph, waiter_ids: Iterable[str]) -> list[Frame]:
    """The library frames in which these wait, one waiter after the other."""
    return [frame for waiter_id in waiter_ids for frame in library_wait(frames_of(graph, waiter_id))]


def taken_at(graph: WaitGraph, owner_ids: Iterable[str], primitive_id: str) -> list[Frame]:
    """Where these owners took hold of it, as far as that was read."""
    owners = [graph.tasks.get(i) or graph.threads.get(i) for i in owner_ids]
    return [h.frame for owner in owners if owner for h in owner.holds if h.primitive_id == primitive_id and h.frame]


def place(frame: Frame | None) -> str:
    """``transfer() (app.py:27)``, empty for None."""
    return f"{frame.function}() ({os.path.basename(frame.file)}:{frame.line})" if frame else ""
