"""Which CPython the target is, and where its structures' fields lie: found out, then checked, then believed.

3.13 and later carry a table of offsets in ``_PyRuntime``; for 3.9 to 3.12 there is one per minor version (`offsets`). Either
way the root of everything, ``sys.modules``, must be found where the layout says (or nearby, then the offset is corrected),
``sys.hexversion`` must name the version that was assumed, and the fields of code objects must be where the interpreter's
own member table says. A target that fails is refused with the reason: never read on with a guess.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from hangwatch.errors import CannotLook
from hangwatch.reading.remote import debug_offsets, elf, offsets
from hangwatch.reading.remote.heap import Heap
from hangwatch.reading.remote.memory import Memory, Unreadable
from hangwatch.reading.remote.offsets import Layout

COOKIE = b"xdebugpy"
_SUPPORTED = "CPython 3.9 to 3.15"
_NEXT_STEP = "`py-spy dump --pid` may still show its threads. If this is a newer Python, a newer hangwatch may know it; `hangwatch doctor` says which versions this one reads."


@dataclass(slots=True)
class Roots:
    """Where a look begins."""

    layout: Layout
    runtime: int
    interpreter: int
    modules: int
    full_version: str
    #: sizes the target itself states (3.13+), for recognising the asyncio module's table
    sizes: dict[str, int]
    image: str


def find(memory: Memory, executable: str) -> Roots:
    """The roots of a CPython process. Raises CannotLook for anything that is none, or none that this version reads."""
    runtime, image, version = _runtime(memory, executable)
    if memory.read(runtime, 8) == COOKIE:
        return _by_own_table(memory, runtime, image)
    candidates = [version] if version else _by_name(image)
    for candidate in candidates:
        if candidate not in offsets.TABLES:
            raise CannotLook(f"this is Python {candidate[0]}.{candidate[1]}; hangwatch reads {_SUPPORTED} from outside", _NEXT_STEP)
        roots = _checked(memory, Layout(candidate, dict(offsets.TABLES[candidate])), runtime, image, {})
        if roots:
            return roots
    names = " or ".join(f"{major}.{minor}" for major, minor in candidates)
    raise CannotLook(f"this looks like Python {names}, but its memory is not laid out like any build that hangwatch knows", _NEXT_STEP)


def _runtime(memory: Memory, executable: str) -> tuple[int, str, tuple[int, int] | None]:
    """Address of ``_PyRuntime``, the image that holds it, and the version where a symbol tells it (3.11+)."""
    other = ""
    for region in elf.images(memory.regions, executable):
        found = elf.symbols(memory, region.start, ("_PyRuntime", "Py_Version"))
        if "_PyRuntime" in found:
            version = None
            if "Py_Version" in found:
                word = memory.u32(found["Py_Version"])
                version = (word >> 24 & 255, word >> 16 & 255)
            return found["_PyRuntime"], region.path, version
        other = other or _not_cpython(memory, region.start, region.path, executable)
    raise CannotLook(other or "this process has no CPython in it (no image defines _PyRuntime)", _NEXT_STEP)


def _not_cpython(memory: Memory, start: int, path: str, executable: str) -> str:
    name = path.rsplit("/", 1)[-1]
    if "pypy" in name:
        return "this is PyPy: its tasks cannot be read from outside"
    if path.removesuffix(" (deleted)") == executable and elf.elf_class(memory, start) == 32:
        return "this is a 32-bit program: only 64-bit targets can be read from outside"
    return ""


def _by_name(image: str) -> list[tuple[int, int]]:
    """Versions to try when no symbol tells: the one in the image's name, else all that lack the symbol."""
    named = re.search(r"python(\d)\.(\d+)", image.rsplit("/", 1)[-1])
    return [(int(named[1]), int(named[2]))] if named else [(3, 10), (3, 9)]


def _by_own_table(memory: Memory, runtime: int, image: str) -> Roots:
    word = memory.u64(runtime + 8)
    version = (word >> 24 & 255, word >> 16 & 255)
    names = debug_offsets.names(version)
    if names is None or version not in offsets.TABLES:
        raise CannotLook(f"this is Python {version[0]}.{version[1]}; hangwatch reads {_SUPPORTED} from outside", _NEXT_STEP)
    carried = dict(zip(names, memory.words(runtime, len(names)), strict=True))
    if carried["free_threaded"]:
        raise CannotLook(
            "this is a free-threaded build of Python: its objects are laid out differently and cannot be read from outside yet",
            "Install the agent in the service (hangwatch.install() or `hangwatch run`): it works in free-threaded builds.",
        )
    if any(value > 1 << 20 for name, value in carried.items() if name not in ("cookie", "version")):
        raise CannotLook(f"the debug offsets of this Python {version[0]}.{version[1]} are damaged or of an unknown pre-release", _NEXT_STEP)
    table = dict(offsets.TABLES[version])
    table.update({ours: carried[theirs] for theirs, ours in offsets.CARRIED.items() if theirs in carried})
    table["interpreter_collecting"] = carried["interpreter_state.gc"] + carried["gc.collecting"]
    sizes = {name: value for name, value in carried.items() if name.endswith(".size")}
    roots = _checked(memory, Layout(version, table), runtime, image, sizes)
    if roots is None:
        raise CannotLook(f"the memory of this Python {version[0]}.{version[1]} does not match the offsets it states itself", _NEXT_STEP)
    return roots


def _checked(memory: Memory, layout: Layout, runtime: int, image: str, sizes: dict[str, int]) -> Roots | None:
    """The roots, once the target has confirmed the layout; None when it does not."""
    heap = Heap(memory, layout)
    try:
        interpreter = memory.u64(runtime + layout.interpreters_head)
        # The list holds the newest first; the main interpreter is its last, and has id 0 first created.
        while memory.u64(interpreter + layout.interpreter_next):
            interpreter = memory.u64(interpreter + layout.interpreter_next)
        modules = _modules(heap, interpreter)
        if modules is None:
            return None
        text = _stated_version(heap, modules)
        if text is None or not text.startswith(f"{layout.version[0]}.{layout.version[1]}."):
            return None
        _adopt_members(heap, modules)
        return Roots(layout, runtime, interpreter, modules, text, sizes, image)
    except (Unreadable, struct.error):
        return None


def _modules(heap: Heap, interpreter: int) -> int | None:
    """``sys.modules``: a dict with ``sys`` and ``builtins``. Looked for nearby when a patch release moved the field."""
    layout, memory = heap.layout, heap.memory
    for offset in (layout.modules, *range(0, 16384, 8)):
        try:
            address = memory.u64(interpreter + offset)
            if not address or heap.class_of(address).name != "dict":
                continue
            first = [heap.text(key) for key, _ in heap.dict_pairs(address, 8)]
            if "sys" in first and "builtins" in first and heap.class_of(heap.find_in_dict(address, "sys")).name == "module":
                layout.change("modules", offset)
                return address
        except Unreadable:
            continue
    return None


def _stated_version(heap: Heap, modules: int) -> str | None:
    """``3.12.1`` from ``sys.hexversion``."""
    namespace = heap.memory.u64(heap.find_in_dict(modules, "sys") + heap.layout.module_dict)
    at = heap.find_in_dict(namespace, "hexversion")
    if not at:
        return None
    number = heap.integer(at)
    return f"{number >> 24 & 255}.{number >> 16 & 255}.{number >> 8 & 255}"


#: Names in the interpreter's own member table of code objects -> our names.
_CODE_MEMBERS = {
    "co_filename": "code_filename", "co_name": "code_name", "co_qualname": "code_qualname", "co_linetable": "code_lines",
    "co_lnotab": "code_lines", "co_exceptiontable": "code_exceptions",
}  # fmt: skip


def _adopt_members(heap: Heap, modules: int) -> None:
    """Corrects the fields of code objects by the member table of their class, and checks it on a function at hand."""
    namespace = heap.memory.u64(heap.find_in_dict(modules, "os") + heap.layout.module_dict) if heap.find_in_dict(modules, "os") else 0
    for _, value in heap.text_pairs(namespace) if namespace else ():
        info = heap.class_of(value)
        if info.name != "function":
            continue
        code = heap.memory.u64(value + heap.layout.function_code)
        code_class = heap.class_of(code)
        if code_class.name != "code":
            raise Unreadable("functions are laid out otherwise")
        for theirs, ours in _CODE_MEMBERS.items():
            if theirs in code_class.members and heap.layout.has(ours):
                heap.layout.change(ours, code_class.members[theirs])
        heap.text(heap.memory.u64(code + heap.layout.code_filename))
        heap.text(heap.memory.u64(value + heap.layout.function_qualname))
        return
