"""Cleaning what the user's code hands in, so that every receiver takes it.

What comes in: names and attribute values of any type. What goes out: text without lone surrogates and without secrets that are known by value, and values that OTLP can carry: str, bool,
64-bit int, finite float, flat lists of one of them. Never raises, whatever a value's own `__str__` does. Imports no OpenTelemetry.

Source: OpenTelemetry specification 1.49, "Attribute"; receivers refuse a whole request for one NaN, null or lone surrogate (measured: docs/decisions/008).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from otel_exec.known_secrets import cut, suspect
from otel_exec.secrets import MASK, is_secret_field
from otel_exec.semconv import NODES_ROW, OTHERS_ROW, UNACCOUNTED_ROW

if TYPE_CHECKING:
    from otel_exec.spans.span_record import AttributeValue

__all__ = [
    "MAX_ITEMS",
    "MAX_KEY",
    "MAX_NAME",
    "MAX_TEXT",
    "attribute",
    "attributes",
    "identifier",
    "is_clean",
    "name",
    "phase_name",
    "said",
    "said_name",
    "text",
]

# A request stays below gRPC's default limit of 4 MB even with many attributes at these bounds.
MAX_NAME = 1024
MAX_KEY = 256
MAX_TEXT = 16 * 1024
MAX_ITEMS = 1024
_ROWS = frozenset({NODES_ROW, OTHERS_ROW, UNACCOUNTED_ROW})
_MAX_INT = (1 << 63) - 1
_MIN_INT = -(1 << 63)


def text(value: object, limit: int = MAX_TEXT) -> str:
    """Return `value` as text of at most `limit` characters, without lone surrogates; bytes are read as UTF-8."""
    try:
        if isinstance(value, str):
            result = str.__str__(value)
        elif isinstance(value, bytes | bytearray | memoryview):
            result = bytes(value[: 4 * limit]).decode("utf-8", "replace")
        else:
            result = str(value)
    except Exception:
        result = f"<{type(value).__name__}>"
    if len(result) > limit:
        result = result[:limit]
    if not result.isascii():
        # A surrogate pair becomes its character, a lone one the replacement character.
        result = result.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return result


def said(value: object, limit: int = MAX_TEXT) -> str:
    """Return `value` as `text` does, without the secrets that are known by value: what the user's code or somebody else's said."""
    return cut(text(value, limit + MAX_TEXT), limit)


def name(value: object) -> str:
    """Return `value` as a span's, phase's or event's name."""
    if type(value) is str and len(value) <= MAX_NAME and value.isascii():
        return value
    return text(value, MAX_NAME)


def said_name(value: object) -> str:
    """Return `value` as `name` does, without known secrets."""
    clean = name(value)
    return said(value, MAX_NAME) if suspect(clean) or len(clean) == MAX_NAME else clean


def phase_name(value: object) -> str:
    """Return `value` as a phase's name: as `said_name`, but what is the name of a row of ours (`(nodes)`) stands in quotes, so that it is not counted there."""
    clean = said_name(value)
    return f"'{clean}'" if clean in _ROWS else clean


def identifier(value: object) -> str:
    """Return `value` as an id, "" for `None`."""
    return "" if value is None else name(value)


def attribute(value: object, limit: int = MAX_TEXT) -> AttributeValue | None:
    """Return `value` as an attribute value, `None` where there is nothing to say (`None` itself).

    Numbers that JSON or 64 bits can't hold become text; a list of mixed types becomes a list of texts; anything else becomes its `str`.
    """
    if isinstance(value, list | tuple | set | frozenset):
        return _flat_list(value, limit)
    return _scalar(value, limit)


def attributes(values: Mapping[str, object], *, value_limit: int | None = None, count_limit: int = 128) -> dict[str, AttributeValue]:
    """Return `values` cleaned, at most `count_limit` of them.

    Args:
        values: key to value; keys that are not text become text, empty ones are dropped (the specification forbids them).
        value_limit: longest text in characters (`OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT`); never more than `MAX_TEXT`.
        count_limit: `OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT`.
    """
    limit = MAX_TEXT if value_limit is None else min(value_limit, MAX_TEXT)
    cleaned: dict[str, AttributeValue] = {}
    for key, value in values.items():
        plain = attribute(value, limit)
        if plain is None:
            continue
        clean_key = said(key, MAX_KEY) if suspect(text(key)) else text(key, MAX_KEY)
        if is_secret_field(clean_key, plain):
            plain = MASK
        if not clean_key or (len(cleaned) >= count_limit and clean_key not in cleaned):
            continue
        cleaned[clean_key] = plain
    return cleaned


def is_clean(values: Mapping[str, AttributeValue]) -> bool:
    """Whether `attributes` would surely leave `values` as they are, but for secrets known by value. Fast; says no to lists and to text that is not ASCII, which may be clean as well."""
    for key, value in values.items():
        kind = type(value)
        if kind is str:
            if not value.isascii() or len(value) > MAX_TEXT:  # type: ignore[union-attr,arg-type]  # mypy does not narrow by `type() is`
                return False
        elif kind is int:
            if not _MIN_INT <= value <= _MAX_INT:  # type: ignore[operator]  # as above
                return False
        elif kind is not bool:
            return False
        if not key.isascii() or not key:
            return False
        suspect = _suspects.get(key)
        if suspect is None:
            if len(_suspects) >= _MAX_SUSPECTS:  # a user who makes keys up endlessly must not grow us
                _suspects.clear()
            suspect = _suspects[key] = is_secret_field(key, "text")
        if suspect:
            return False
    return True


# Of each key whether its value may be a secret.
_suspects: dict[str, bool] = {}
_MAX_SUSPECTS = 4096


def _scalar(value: object, limit: int) -> str | bool | int | float | None:
    if value is None or isinstance(value, bool):
        return value
    try:
        if isinstance(value, int):
            number = int(value)
            return number if _MIN_INT <= number <= _MAX_INT else _long_int(number, limit)
        if isinstance(value, float):
            real = float(value)
            return real if math.isfinite(real) else _not_finite(real)
        if not isinstance(value, str | bytes) and hasattr(value, "item") and getattr(value, "shape", None) == ():
            # A number of an array library, such as numpy.int64: its own Python value.
            plain = value.item()
            if isinstance(plain, bool | int | float | str):
                return _scalar(plain, limit)
    except Exception:
        return said(value, limit)
    plain = text(value, limit)
    return said(value, limit) if len(plain) >= limit or suspect(plain) else plain


def _long_int(number: int, limit: int) -> str:
    # str() refuses more than 4300 digits, hex() does not.
    return (str(number) if number.bit_length() < 4096 else hex(number))[:limit]


def _not_finite(real: float) -> str:
    if math.isnan(real):
        return "NaN"
    return "Infinity" if real > 0 else "-Infinity"


def _flat_list(values: list[object] | tuple[object, ...] | set[object] | frozenset[object], limit: int) -> list[str | bool | int | float]:
    ordered = sorted(values, key=lambda value: text(value, limit)) if isinstance(values, set | frozenset) else values
    scalars = [scalar for scalar in (_scalar(value, limit) for value in ordered[:MAX_ITEMS]) if scalar is not None]
    if len({type(scalar) for scalar in scalars}) <= 1:
        return scalars
    if all(type(scalar) in (int, float) for scalar in scalars):
        return [float(scalar) for scalar in scalars]
    return [scalar if isinstance(scalar, str) else text(scalar, limit) for scalar in scalars]
