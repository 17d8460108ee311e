"""Numbers of files that others may have written, brought within what a run comes to.

What comes in: a struct or a dataclass that was decoded, so every field has its type. What goes out: the same one, changed in place. Reads and writes nothing.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import msgspec

__all__ = ["bound"]

_MOST = (1 << 63) - 1


def bound(row: object) -> None:
    """Put its default (`null`; 0 for what has to be there) in the place of each number that is negative or past 64 bits, here and in all rows below."""
    for name, default in _fields(type(row)):  # type: ignore[arg-type]  # classes are hashable
        value = getattr(row, name)
        if isinstance(value, list):
            for each in value:
                bound(each)
        elif isinstance(value, int | float):
            if not 0 <= value <= _MOST:
                setattr(row, name, default)
        elif value is not None and not isinstance(value, str):  # most fields: not worth a call
            bound(value)


@cache
def _fields(kind: type) -> tuple[tuple[str, Any], ...]:
    """Return the names of a kind's fields with what stands for a number that is none; () of what has no fields."""
    if issubclass(kind, msgspec.Struct):
        return tuple((field.name, 0 if field.default is msgspec.NODEFAULT else field.default) for field in msgspec.structs.fields(kind))
    if dataclasses.is_dataclass(kind):
        return tuple((field.name, 0 if field.default is dataclasses.MISSING else field.default) for field in dataclasses.fields(kind))
    return ()
