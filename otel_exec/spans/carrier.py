"""The trace context as text, so that it crosses processes.

What comes in: the current OpenTelemetry context, or W3C headers. What goes out: the other. A propagator of our own does it, whatever the user set globally.
OpenTelemetry is imported by the functions that need it: reading a `TRACEPARENT` needs none.

Source: W3C Trace Context, level 2 (2024), "traceparent Header".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context

__all__ = ["carrier_of_current", "context_from", "parse_traceparent"]

_TRACEPARENT = re.compile(r"\A([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z", re.ASCII)


def carrier_of_current() -> dict[str, str]:
    """Return the headers (`traceparent`, `tracestate`) of the span that the code is in; {} where it is in none."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier


def context_from(carrier: Mapping[str, str]) -> Context:
    """Return an OpenTelemetry context whose current span is the carrier's, remote; one without a span where the carrier has none or a broken one."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({key.lower(): value for key, value in carrier.items()}, context=Context())


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
