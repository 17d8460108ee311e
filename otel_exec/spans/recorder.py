"""The recorder: makes spans for one run in one process and hands the finished ones to the spool, then to a sink.

What comes in: names, times and attributes. What goes out: `SpanRecord`s. Never depends on sampling or on the SDK; every method is guarded:
the first error is logged, the rest are counted in `warnings`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from otel_exec.clock import Clock
    from otel_exec.spans.open_spans import OpenSpanTable
    from otel_exec.spans.span_record import AttributeValue, SpanLink, SpanRecord
    from otel_exec.spans.spool import SpoolWriter

__all__ = ["IdGenerator", "Recorder"]


class IdGenerator:
    """Random ids from a generator of its own, so that `random.seed(0)` in a step changes nothing; seeded anew after a fork. Thread-safe."""

    def span_id(self) -> str:
        """Return 16 hex digits, not all zero."""
        raise NotImplementedError

    def trace_id(self) -> str:
        """Return 32 hex digits, not all zero."""
        raise NotImplementedError


class Recorder:
    """Makes spans of one run.

    Args:
        exec_id: on every span as `exec.id`.
        trace_id: the run's trace.
        clock: the run's clock.
        spool: where finished spans go, or `None` (tests, memory).
        sink: called with each batch of finished records after it was written; guarded.
        sampled: whether an exporter may send them (trace flags).
    """

    def __init__(
        self,
        *,
        exec_id: str,
        trace_id: str,
        clock: Clock,
        spool: SpoolWriter | None = None,
        sink: Callable[[Sequence[SpanRecord]], None] | None = None,
        open_spans: OpenSpanTable | None = None,
        sampled: bool = True,
        trace_state: str = "",
        ids: IdGenerator | None = None,
    ) -> None:
        raise NotImplementedError

    exec_id: str
    trace_id: str
    clock: Clock
    ids: IdGenerator
    open_spans: OpenSpanTable | None
    warnings: dict[str, int]

    def make(
        self,
        kind: str,
        name: str,
        start_ns: int,
        end_ns: int,
        *,
        span_id: str | None = None,
        parent: str = "",
        attributes: Mapping[str, AttributeValue] | None = None,
        links: Sequence[SpanLink] = (),
        outcome: str | None = None,
        error_type: str | None = None,
        message: str = "",
        span_kind: int = 1,
    ) -> SpanRecord:
        """Return a finished span (not yet written). `exec.id` and `exec.outcome` are added; an outcome other than success and skip sets status error; `error_type` sets `error.type`."""
        raise NotImplementedError

    def finish(self, records: Sequence[SpanRecord]) -> None:
        """Write finished spans to the spool with one system call, then give them to the sink."""
        raise NotImplementedError
