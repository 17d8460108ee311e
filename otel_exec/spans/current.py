"""Which span the calling code is in.

What comes in: the OpenTelemetry context. What goes out: a span id of ours. Imports OpenTelemetry's API alone.
"""

from __future__ import annotations

from opentelemetry import context as context_api

from otel_exec.spans.scope import _parent_of, frame_of

__all__ = ["current_span_id"]


def current_span_id() -> str:
    """Return the id of the span that a child made here would have as parent: a phase, a span of the user's own, the task; "" outside of a task."""
    context = context_api.get_current()
    frame = frame_of(context)
    return _parent_of(frame, context) if frame is not None else ""
