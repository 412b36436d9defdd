"""Which context managers a suspended frame has entered and not left, read off what the garbage collector sees of its value stack."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Final

from hangwatch.reading.live_objects import class_dict, mro

_EXITS: Final = ("__aexit__", "__exit__")
_BOUND: Final = (types.MethodType, types.BuiltinFunctionType, types.MethodWrapperType)
_UNBOUND: Final = (types.FunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
_CALLABLE: Final = frozenset((*_BOUND, *_UNBOUND))


def may_hold(referents: list[Any]) -> bool:
    """A first look, before anybody reads locals."""
    return any(type(item) in _CALLABLE and _is_exit(item) for item in referents)


def entered(referents: list[Any], code: types.CodeType, variables: Mapping[str, Any]) -> list[Any]:
    """The objects whose exit method waits on the value stack, in the order they were entered.

    Up to 3.13 ``with`` pushes the bound exit method; 3.14 pushes the plain function, then the object (CPython's
    LOAD_SPECIAL). A local variable may refer to such a method too, so locals are taken away first.
    """
    stack = _without_locals(referents, code, variables)
    found = []
    for index, item in enumerate(stack):
        kind = type(item)
        if kind in _BOUND and _is_exit(item):
            found.append(item.__self__)
        elif kind in _UNBOUND and _is_exit(item) and index + 1 < len(stack) and _has_method(stack[index + 1], item):
            found.append(stack[index + 1])
    return found


def _is_exit(item: Any) -> bool:
    kind = type(item)
    if kind is types.MethodType:
        item = item.__func__
        kind = type(item)
        if kind.__name__ == "cython_function_or_method":
            return item.__name__ in _EXITS
    return (kind in _UNBOUND or kind in _BOUND) and kind is not types.MethodType and item.__name__ in _EXITS


def _has_method(obj: Any, function: Any) -> bool:
    return any(class_dict(cls).get(function.__name__) is function for cls in mro(obj))


def _without_locals(referents: list[Any], code: types.CodeType, variables: Mapping[str, Any]) -> list[Any]:
    plain = set(code.co_varnames).difference(code.co_cellvars)
    taken: dict[int, int] = {}
    for name, value in variables.items():
        if name in plain:
            taken[id(value)] = taken.get(id(value), 0) + 1
    left = []
    own_function = False
    for item in referents:
        if not own_function and type(item) is types.FunctionType and item.__code__ is code:
            own_function = True  # the frame's own function comes before its locals
        elif taken.get(id(item), 0):
            taken[id(item)] -= 1
        else:
            left.append(item)
    return left
