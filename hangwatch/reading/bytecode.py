"""What a code object says about an instruction: which ``with`` blocks are open there, which method is being called.

A suspended coroutine shows its value stack to the garbage collector, a frame that is *running* in another thread does
not. There the open context managers are found from the compiled code: the ``with`` blocks around the instruction, and
the plain expression (``self._lock``, ``locks["a"]``, a name) that each was entered with. An expression with a call in it cannot
be evaluated again without running code, so it gives None.
"""

from __future__ import annotations

import dis
import sys
from dataclasses import dataclass
from types import CodeType
from typing import Any

#: ``("local", name)``, ``("global", name)``, ``("attr", name)``, ``("item", ("const", key) or ("local", name))``: first the base, then steps.
Expression = tuple[tuple[str, Any], ...]

_SKIPPED = frozenset({"CACHE", "NOP", "EXTENDED_ARG", "RESUME", "PRECALL", "PUSH_NULL", "NOT_TAKEN"})

_GET_AWAITABLE = dis.opmap["GET_AWAITABLE"]
#: What an ``await`` is compiled to after GET_AWAITABLE, up to where the frame is suspended.
_OF_AWAIT = frozenset(
    dis.opmap.get(name, -1)
    for name in ("LOAD_CONST", "LOAD_COMMON_CONSTANT", "SEND", "YIELD_VALUE", "YIELD_FROM", "RESUME", "CACHE", "NOP", "PUSH_NULL")
)
_BEFORE_ASYNC_WITH = dis.opmap.get("BEFORE_ASYNC_WITH", -1)


@dataclass(frozen=True, slots=True)
class With:
    """One ``with`` block: the instruction offsets it covers, and what it was entered with."""

    start: int
    end: int
    expression: Expression | None


@dataclass(frozen=True, slots=True)
class Outline:
    """What is worth knowing of one code object. ``spots`` maps an offset to the index of its instruction."""

    instructions: tuple[Any, ...]
    spots: dict[int, int]
    withs: tuple[With, ...]


_CACHE: dict[CodeType, Outline] = {}
#: Codes kept. The cache holds code objects alive, so it is bounded and simply emptied when full.
_CACHE_LIMIT = 512


def outline(code: CodeType) -> Outline:
    found = _CACHE.get(code)
    if found is None:
        if len(_CACHE) >= _CACHE_LIMIT:
            _CACHE.clear()
        instructions = tuple(item for item in dis.get_instructions(code) if item.opname not in _SKIPPED)
        spots = {item.offset: index for index, item in enumerate(instructions)}
        withs = _withs_by_table(code, instructions, spots) if sys.version_info >= (3, 11) else _withs_by_blocks(instructions)
        found = _CACHE[code] = Outline(instructions, spots, tuple(withs))
    return found


def open_withs(code: CodeType, offset: int) -> list[Expression | None]:
    """What the ``with`` blocks around ``offset`` were entered with, outermost first."""
    around = [block for block in outline(code).withs if block.start <= offset < block.end]
    return [block.expression for block in sorted(around, key=lambda block: block.start)]


def entering(code: CodeType, offset: int) -> bool:
    """The frame is suspended in the ``__aenter__`` of its innermost ``async with``: that one is not entered yet."""
    raw = code.co_code
    position = min(offset, len(raw) - 2)
    while position > 0 and raw[position] in _OF_AWAIT:
        position -= 2
    if raw[position] != _GET_AWAITABLE:
        return False
    if sys.version_info >= (3, 11):
        return raw[position + 1] == 1
    return position >= 2 and raw[position - 2] == _BEFORE_ASYNC_WITH


def called(code: CodeType, offset: int) -> tuple[Expression, str] | None:
    """Receiver and method name of the call at ``offset``; ``with x:`` gives ``(x, "__enter__")``."""
    known = outline(code)
    index = known.spots.get(offset)
    if index is None:
        return None
    item = known.instructions[index]
    if item.opname in ("BEFORE_WITH", "SETUP_WITH"):
        receiver = _expression(known.instructions, index - 1)
        return (receiver[0], "__enter__") if receiver else None
    if not item.opname.startswith(("CALL_METHOD", "CALL")):
        return None
    if index >= 2 and known.instructions[index - 1].opname == "LOAD_SPECIAL":
        return _entered_314(known.instructions, index - 1)
    position = _callee(known.instructions, index)
    if position is None or known.instructions[position].opname not in ("LOAD_METHOD", "LOAD_ATTR"):
        return None
    receiver = _expression(known.instructions, position - 1)
    return (receiver[0], str(known.instructions[position].argval)) if receiver else None


def _entered_314(instructions: tuple[Any, ...], index: int) -> tuple[Expression, str] | None:
    begin = _with_entry_314(instructions, index)
    receiver = _expression(instructions, begin) if begin is not None else None
    return (receiver[0], "__enter__") if receiver else None


def _with_entry_314(instructions: tuple[Any, ...], index: int) -> int | None:
    """3.14+ enters with ``COPY; LOAD_SPECIAL __exit__; SWAP; SWAP; LOAD_SPECIAL __enter__``: the index before the COPY."""
    for position in range(index, max(index - 6, -1), -1):
        if instructions[position].opname == "COPY":
            return position - 1
    return None


def _callee(instructions: tuple[Any, ...], index: int) -> int | None:
    """Index of the instruction that pushed the callable of the call at ``index``; arguments must be straight-line code."""
    item = instructions[index]
    need = (item.arg or 0) + (item.opname in ("CALL_KW", "CALL_FUNCTION_KW"))  # these two take a tuple of names as well
    position = index - 1
    while position >= 0 and need > 0:
        before = instructions[position]
        if before.opname == "KW_NAMES":
            position -= 1
            continue
        if "JUMP" in before.opname:
            return None
        try:
            need -= dis.stack_effect(before.opcode, before.arg, jump=False)
        except ValueError:
            return None
        position -= 1
    return position if position >= 0 and need == 0 else None


def _expression(instructions: tuple[Any, ...], index: int) -> tuple[Expression, int] | None:
    """The plain expression whose last instruction is at ``index``, and the index where it begins."""
    steps: list[tuple[str, Any]] = []
    while index >= 0:
        item = instructions[index]
        name = item.opname
        if name in ("LOAD_ATTR", "LOAD_METHOD"):
            steps.append(("attr", item.argval))
        elif name == "BINARY_SUBSCR" or (name == "BINARY_OP" and item.argrepr == "[]"):
            key = _key(instructions[index - 1]) if index > 0 else None
            if key is None:
                return None
            steps.append(("item", key))
            index -= 1
        else:
            base = _base(item)
            return ((base, *reversed(steps)), index) if base is not None else None
        index -= 1
    return None


def _base(item: Any) -> tuple[str, Any] | None:
    name = item.opname
    if isinstance(item.argval, tuple):
        return None  # LOAD_FAST_LOAD_FAST: the second belongs to us, but then the first is somebody else's operand
    if name.startswith("LOAD_FAST") or name in ("LOAD_DEREF", "LOAD_CLASSDEREF"):
        return ("local", item.argval)
    if name in ("LOAD_GLOBAL", "LOAD_NAME"):
        return ("global", item.argval)
    return None


def _key(item: Any) -> tuple[str, Any] | None:
    if item.opname in ("LOAD_CONST", "LOAD_SMALL_INT", "LOAD_COMMON_CONSTANT"):
        return ("const", item.argval) if type(item.argval) in (str, int, bytes, bool) else None
    return _base(item)


def _withs_by_table(code: CodeType, instructions: tuple[Any, ...], spots: dict[int, int]) -> list[With]:
    """3.11+: a ``with`` body is what the exception table sends to a handler that begins with WITH_EXCEPT_START."""
    bodies: dict[int, tuple[int, int]] = {}
    for start, end, target in exception_table(code):
        index = spots.get(target)
        if index is None or instructions[index].opname != "PUSH_EXC_INFO" or instructions[index + 1].opname != "WITH_EXCEPT_START":
            continue
        low, high = bodies.get(target, (start, end))
        bodies[target] = (min(low, start), max(high, end))
    return [With(start, end, _entered_with(instructions, spots, start)) for start, end in bodies.values()]


def _entered_with(instructions: tuple[Any, ...], spots: dict[int, int], start: int) -> Expression | None:
    index = next((spots[offset] for offset in range(start, start + 24, 2) if offset in spots), None)
    if index is None:
        return None
    for position in range(index, max(index - 10, -1), -1):
        name = instructions[position].opname
        if name in ("BEFORE_WITH", "BEFORE_ASYNC_WITH"):
            found = _expression(instructions, position - 1)
            return found[0] if found else None
        if name == "LOAD_SPECIAL":
            begin = _with_entry_314(instructions, position)
            found = _expression(instructions, begin) if begin is not None else None
            return found[0] if found else None
    return None


def _withs_by_blocks(instructions: tuple[Any, ...]) -> list[With]:
    """3.10: SETUP_WITH names its handler; the body ends at the last POP_BLOCK before that."""
    found = []
    for index, item in enumerate(instructions):
        if item.opname not in ("SETUP_WITH", "SETUP_ASYNC_WITH"):
            continue
        end = max(
            (other.offset for other in instructions[index:] if other.opname == "POP_BLOCK" and other.offset < item.argval),
            default=item.argval,
        )
        before = index - 1
        while before > 0 and instructions[before].opname in ("GET_AWAITABLE", "LOAD_CONST", "YIELD_FROM", "BEFORE_ASYNC_WITH"):
            before -= 1
        entered = _expression(instructions, before)
        found.append(With(item.offset + 2, end, entered[0] if entered else None))
    return found


def exception_table(code: CodeType) -> list[tuple[int, int, int]]:
    """``(start, end, target)`` byte offsets of a 3.11+ exception table (format: CPython's InternalDocs/exception_handling.md)."""
    table = iter(code.co_exceptiontable)  # type: ignore[attr-defined, unused-ignore]
    entries = []
    try:
        while True:
            start = _varint(table) * 2
            length = _varint(table) * 2
            target = _varint(table) * 2
            _varint(table)
            entries.append((start, start + length, target))
    except StopIteration:
        return entries


def _varint(table: Any) -> int:
    byte = next(table)
    number = byte & 63
    while byte & 64:
        byte = next(table)
        number = (number << 6) | (byte & 63)
    return int(number)
