"""Frozen dataclasses to plain JSON values and back; knows no particular record."""

from __future__ import annotations

import dataclasses
import types
import typing
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
    hints = _hints(kind)
    return kind(**{name: _revive(hints[name], data[name]) for name in hints if name in data})


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(kind: type) -> dict[str, Any]:
    if kind not in _HINTS:
        # The namespace it was made in, also where its module is not in sys.modules.
        resolved = typing.get_type_hints(kind, getattr(typing.cast(Any, kind).__init__, "__globals__", None))
        _HINTS[kind] = {f.name: resolved[f.name] for f in dataclasses.fields(kind)}
    return _HINTS[kind]


def _revive(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return _revive(options[0], value) if len(options) == 1 else value
    if origin is tuple:
        return tuple(_revive(typing.get_args(hint)[0], item) for item in value)
    if origin is dict:
        return dict(value)
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type, hint), value)
    return value
