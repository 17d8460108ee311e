"""A user's value as JSON for the record.

What comes in: any object. What goes out: mappings with text keys, lists, text, numbers that fit 64 bits, booleans and null; everything else by `repr`.
Reads the user's objects and never changes them. Secrets are masked by `otel_exec.secrets`, not here.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Final

__all__ = ["differing_keys", "to_json"]

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_LONGEST_REPR: Final = 10_000  # characters: a record is read by people; enough for any config value that means something
_MIN_INT, _MAX_INT = -(2**63), 2**63 - 1
_AS_IT_IS = frozenset({bool, type(None)})


def to_json(value: object) -> Any:
    """Return the value as strict JSON can hold it. Shared and cyclic objects are cut by `repr` past the interpreter's depth."""
    try:
        return _convert(value)
    except RecursionError:
        return _by_repr(value)


def _convert(value: object) -> Any:
    if type(value) is str:
        return value if value.isascii() else _clean(value)
    if type(value) in _AS_IT_IS:
        return value
    if isinstance(value, int):
        number = int(value)
        return number if _MIN_INT <= number <= _MAX_INT else _by_repr(value)
    if isinstance(value, float):
        return float(value) if value - value == 0 else repr(float(value))  # NaN and infinities are no JSON
    if isinstance(value, str):
        return _clean(str.__str__(value))
    if isinstance(value, dict):
        return {_clean(str.__str__(key)) if isinstance(key, str) else _by_repr(key): _convert(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_convert(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_convert(item) for item in value), key=lambda item: (type(item).__name__, repr(item)) if not isinstance(item, str) else ("", item))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _convert(getattr(value, field.name)) for field in dataclasses.fields(value) if hasattr(value, field.name)}
    return _by_repr(value)


def _clean(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def _by_repr(value: object) -> str:
    """Return the `repr` without addresses, which would differ at each run, and bounded."""
    if isinstance(value, (bytes, bytearray)) and len(value) > _LONGEST_REPR:
        return f"<{type(value).__name__} of {len(value)} bytes>"
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__qualname__}>"
    if len(text) > _LONGEST_REPR:
        text = text[:_LONGEST_REPR] + "..."
    return _clean(_ADDRESS.sub("", text))


def differing_keys(first: object, second: object, key: str = "") -> list[str]:
    """Return the dotted keys at which two values of `to_json` differ."""
    if isinstance(first, dict) and isinstance(second, dict):
        found: list[str] = []
        for name in dict.fromkeys((*first, *second)):
            below = f"{key}.{name}" if key else name
            if name in first and name in second:
                found += differing_keys(first[name], second[name], below)
            else:
                found.append(below)
        return found
    return [] if first == second and type(first) is type(second) else [key or "config"]
