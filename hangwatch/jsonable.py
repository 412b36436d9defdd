"""Frozen dataclasses to plain JSON values and back; knows no particular record."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, Union

R = TypeVar("R")


def to_json(record: Any) -> Any:
    """A record (or a tuple, dict or plain value of them) as plain JSON values."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {f.name: to_json(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if isinstance(record, (list, tuple)):
        return [to_json(item) for item in record]
    if isinstance(record, dict):
        return {str(key): to_json(item) for key, item in record.items()}
    return record


def from_json(kind: type[R], data: Any) -> R:
    """Reads ``to_json``'s output back into ``kind``; unknown keys are ignored, missing ones take their default.

    Raises TypeError or ValueError when the data cannot be of that kind.
    """
    if not isinstance(data, dict):
        raise ValueError(f"a {kind.__name__} is a JSON object, not {type(data).__name__}")
    values = {}
    for name, revive in _revivers(kind):
        if name in data:
            value = data[name]
            values[name] = value if revive is None or value is None else revive(value)
    return kind(**values)


Reviver = Callable[[Any], Any]
_REVIVERS: dict[type, list[tuple[str, Reviver | None]]] = {}


def _revivers(kind: type) -> list[tuple[str, Reviver | None]]:
    """Of each field, made once: a snapshot has a hundred thousand of them to read."""
    if kind not in _REVIVERS:
        # The namespace it was made in, also where its module is not in sys.modules.
        resolved = typing.get_type_hints(kind, getattr(typing.cast(Any, kind).__init__, "__globals__", None))
        _REVIVERS[kind] = [(f.name, _reviver(resolved[f.name])) for f in dataclasses.fields(kind)]
    return _REVIVERS[kind]


def _reviver(hint: Any) -> Reviver | None:
    """None for what is right as JSON has it. Values are never None."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return _reviver(options[0]) if len(options) == 1 else None
    if origin is tuple:
        within = _reviver(typing.get_args(hint)[0])
        if within is None:
            return tuple
        return lambda items: tuple([None if item is None else within(item) for item in items])
    if origin is dict:
        return dict
    if dataclasses.is_dataclass(hint):
        return partial(from_json, typing.cast(type, hint))
    return None
