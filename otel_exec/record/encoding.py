"""Values as JSON that every reader takes: no NaN, no lone surrogates, no number that a parser trips over.

What comes in: msgspec structs and whatever the user's configs hold. What goes out: UTF-8 bytes. Never raises for a value: telemetry must not fail on what a step was given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = ["encode"]

# Deeper than this no reader follows: the standard library's and msgspec's parsers are recursive.
_DEPTH = 200
# A longer integer is only met here when its value could not be encoded as it stood: a number of thousands of digits, which no parser takes back.
_BITS = 64


def encode(value: object) -> bytes:
    """Return a value as JSON.

    NaN and infinities become null; what JSON has no form for becomes its `repr`. Text that is no Unicode (lone surrogates) is escaped,
    integers that can't be written as a number become text, and what is nested too deeply becomes its `repr`.
    """
    try:
        return _encoder.encode(value)
    except (UnicodeError, ValueError, OverflowError, TypeError, RecursionError):
        return _encoder.encode(_clean(value, _DEPTH))


def _text(value: object) -> str:
    """Return `repr(value)`, or the type's name where even that raises; without lone surrogates."""
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__module__}.{type(value).__qualname__}>"
    return _unicode(text)


def _unicode(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _clean(value: object, depth: int) -> Any:
    """Return the same value made of what the encoder is sure to take."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return _unicode(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return int(value) if value.bit_length() <= _BITS else hex(value)
    if depth == 0:
        return f"<{type(value).__qualname__} nested too deeply to be recorded>"
    if isinstance(value, msgspec.Struct):
        omit = value.__struct_config__.omit_defaults
        pairs = ((field, getattr(value, field.name)) for field in msgspec.structs.fields(value))
        return {field.encode_name: _clean(held, depth - 1) for field, held in pairs if held is not msgspec.UNSET and not (omit and held is None)}
    if isinstance(value, Mapping):
        return {_unicode(key) if isinstance(key, str) else _text(key): _clean(held, depth - 1) for key, held in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(held, depth - 1) for held in value]
    return _text(value)


_encoder = msgspec.json.Encoder(enc_hook=_text)
