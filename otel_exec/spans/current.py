"""`current_span_id` under the name by which the executors import it; what it is stands in `spans.scope`."""

from __future__ import annotations

from otel_exec.spans.scope import current_span_id

__all__ = ["current_span_id"]
