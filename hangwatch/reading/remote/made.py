"""Views of what is no object over there: values in C fields, and lists that C code would make on the spot."""

from __future__ import annotations

from collections.abc import Sequence

from hangwatch.reading.view import MISSING, Missing, ObjectView
from hangwatch.records import Plain


class Constant:
    """The view of a value that lies in a C field and so is no object over there."""

    __slots__ = ("_id", "_value")

    def __init__(self, value: Plain, address: int = 0) -> None:
        self._value = value
        self._id = address

    def __repr__(self) -> str:
        return f"<Constant {self._value!r}>"

    @property
    def id(self) -> int:
        return self._id

    @property
    def type_name(self) -> str:
        return type(self._value).__name__

    @property
    def base_names(self) -> tuple[str, ...]:
        return (self.type_name,)

    def attr(self, name: str) -> ObjectView | None:
        return None

    def items(self, limit: int = 1000) -> list[ObjectView]:
        return []

    def pairs(self, limit: int = 1000) -> list[tuple[ObjectView, ObjectView]]:
        return []

    def neighbours(self) -> frozenset[int]:
        return frozenset()

    def parts(self, limit: int = 300) -> Sequence[ObjectView]:
        return ()

    def length(self) -> int | None:
        return len(self._value) if isinstance(self._value, str) else None

    def value(self) -> Plain | bytes | Missing:
        return self._value


class Made(Constant):
    """The view of a list or tuple that C code would make on the spot (``Future._callbacks``)."""

    __slots__ = ("_kind", "_members")

    def __init__(self, kind: str, members: Sequence[ObjectView], address: int = 0) -> None:
        super().__init__(None, address)
        self._kind = kind
        self._members = list(members)

    @property
    def type_name(self) -> str:
        return self._kind

    def items(self, limit: int = 1000) -> list[ObjectView]:
        return self._members[:limit]

    def length(self) -> int | None:
        return len(self._members)

    def value(self) -> Plain | bytes | Missing:
        return MISSING
