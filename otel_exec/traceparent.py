"""The `traceparent` header, read and written.

What comes in: a text, or ids. What goes out: the other. Pure; touches no context, no environment and no OpenTelemetry.

Source: W3C Trace Context, level 2 (2024), "traceparent Header".
"""

from __future__ import annotations

import re

__all__ = ["format_traceparent", "parse_traceparent"]

_TRACEPARENT = re.compile(r"\A([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z", re.ASCII)


def parse_traceparent(text: str) -> tuple[str, str, bool] | None:
    """Return (trace id, span id, sampled) of a `traceparent`, `None` where it is not a valid one.

    Later versions may have more after the flags; version 00 may not, and ff is forbidden.
    """
    found = _TRACEPARENT.match(text.strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return trace_id, span_id, bool(int(flags, 16) & 1)


def format_traceparent(trace_id: str, span_id: str, *, sampled: bool) -> str:
    """Return the `traceparent` of a span; ids are lower-case hex of 32 and 16 digits."""
    return f"00-{trace_id}-{span_id}-{'01' if sampled else '00'}"
