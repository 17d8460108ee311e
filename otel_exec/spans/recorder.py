"""The recorder: makes spans for one run in one process and hands the finished ones to the spool, then to a sink.

What comes in: names, times and attributes. What goes out: `SpanRecord`s. Never depends on sampling or on the SDK; every method is guarded:
the first error is logged, all are counted in `warnings` until they are taken home. Imports no OpenTelemetry.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from otel_exec.semconv import ERROR_TYPE, EXEC_ID, EXEC_OUTCOME, SCOPE_NAME
from otel_exec.spans import sanitise
from otel_exec.spans.ids import IdGenerator
from otel_exec.spans.span_record import SpanLimits, SpanRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from otel_exec.clock import Clock
    from otel_exec.spans.open_spans import OpenSpanTable
    from otel_exec.spans.span_record import AttributeValue, SpanLink

__all__ = ["TELEMETRY_FAILED", "Recorder", "Spool"]

# Codes of `Recorder.warnings`.
TELEMETRY_FAILED = "telemetry_failed"
SPANS_LOST = "spans_lost"
NOT_WRITTEN = "finished spans could not be written to the spool"
_SAID = {TELEMETRY_FAILED: "spans could not be made or handed on", SPANS_LOST: NOT_WRITTEN}

REMOTE_PARENT = 0x200
_STATUS_ERROR = 2
_NO_ERROR = (None, "success", "skip")

_NO_LIMITS = SpanLimits()

_log = logging.getLogger("otel_exec.spans")


class Spool(Protocol):
    """Where finished spans go first: a file (`SpoolWriter`), or what hands them on. May be called from any thread; never raises.

    `error` is the first thing that went wrong, `lost` counts the spans that could not be kept.
    """

    error: Exception | None
    lost: int

    def write(self, records: Sequence[SpanRecord]) -> None:
        """Take in finished spans."""
        ...

    def line_of(self, record: SpanRecord) -> str:
        """Return a record's line, as `put` takes it."""
        ...

    def put(self, line: str, at_ns: int) -> None:
        """Take in one line, of those that come by the thousand; `at_ns` is the present instant."""
        ...

    def flush(self) -> None:
        """Have what was put reach whoever follows."""
        ...


class Recorder:
    """Makes spans of one run.

    Args:
        exec_id: on every span as `exec.id`.
        trace_id: the run's trace.
        clock: the run's clock.
        spool: where finished spans go, or `None` (tests, memory).
        sink: called with each batch of finished records after it was written; guarded. May be called from any thread.
        open_spans: where phases are listed while they are open, or `None`.
        sampled: whether an exporter may send them (trace flags).
        trace_state: the inbound `tracestate` header, or "".
        ids: where ids come from.
        limits: how much of the user's own a span keeps.
    """

    exec_id: str
    trace_id: str
    clock: Clock
    ids: IdGenerator
    spool: Spool | None
    open_spans: OpenSpanTable | None
    sampled: bool
    trace_state: str
    limits: SpanLimits
    warnings: dict[str, int]

    def __init__(
        self,
        *,
        exec_id: str,
        trace_id: str,
        clock: Clock,
        spool: Spool | None = None,
        sink: Callable[[Sequence[SpanRecord]], None] | None = None,
        open_spans: OpenSpanTable | None = None,
        sampled: bool = True,
        trace_state: str = "",
        ids: IdGenerator | None = None,
        limits: SpanLimits = _NO_LIMITS,
    ) -> None:
        self.exec_id = exec_id
        self.trace_id = trace_id
        self.clock = clock
        self.spool = spool
        self.open_spans = open_spans
        self.sampled = sampled
        self.trace_state = trace_state
        self.ids = ids if ids is not None else IdGenerator()
        self.limits = limits
        self.warnings = {}
        self._reasons: dict[str, str] = {}
        self.flags = 1 if sampled else 0
        self._sink = sink
        self._lost = 0

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
        remote: bool = False,
    ) -> SpanRecord:
        """Return a finished span (not yet written).

        `exec.id` and `exec.outcome` are added; an outcome other than success and skip sets status error; `error_type` sets `error.type`.

        Args:
            kind: its `exec.kind`.
            name: the span's name; cleaned.
            start_ns: its start; an end before it is moved to it.
            end_ns: its end.
            span_id: its id where it was given out before; else a new one.
            parent: the parent's span id, or "".
            attributes: cleaned where they need it.
            links: to other spans; the first ones where there are more than a span keeps.
            outcome: a word of `semconv.Outcome`.
            error_type: `error.type`.
            message: the status message; kept on errors alone, as OTLP asks.
            span_kind: OTLP's number.
            remote: whether the parent is in another process.
        """
        values: dict[str, AttributeValue] = {EXEC_ID: self.exec_id}
        if attributes:
            values.update(attributes if sanitise.is_clean(attributes) else sanitise.attributes(attributes, count_limit=1024))
        status = 0
        if outcome is not None:
            values[EXEC_OUTCOME] = outcome if type(outcome) is str else str(outcome)
        if error_type is not None:
            values[ERROR_TYPE] = sanitise.name(error_type)
        if error_type is not None or outcome not in _NO_ERROR:
            status = _STATUS_ERROR
        return SpanRecord(
            self.trace_id,
            span_id or self.ids.span_id(),
            parent,
            sanitise.name(name),
            kind if type(kind) is str else str(kind),
            start_ns,
            max(end_ns, start_ns),
            values,
            tuple(links if self.limits.links is None else links[: self.limits.links]),
            status,
            sanitise.text(message, sanitise.MAX_NAME) if status and message else "",
            span_kind,
            (),
            SCOPE_NAME,
            self.flags | REMOTE_PARENT if remote else self.flags,
            self.trace_state,
        )

    def finish(self, records: Sequence[SpanRecord]) -> None:
        """Write finished spans to the spool with one system call, then give them to the sink. Never raises."""
        spool = self.spool
        if spool is not None:
            spool.write(records)
            if spool.lost != self._lost:
                self._count_lost(spool)
        if self._sink is not None:
            try:
                self._sink(records)
            except Exception as error:
                self.warn(TELEMETRY_FAILED, error)

    def line_of(self, record: SpanRecord) -> str | None:
        """Return the line of a span, for `finish_line`; `None` where spans are not only written, or where its text is not clean."""
        if self.spool is None or self._sink is not None:
            return None
        return self.spool.line_of(record)

    def finish_line(self, line: str, at_ns: int) -> None:
        """Take a finished span that is a line already. Never raises."""
        spool = self.spool
        assert spool is not None, "who has a line had a spool"
        spool.put(line, at_ns)
        if spool.lost != self._lost:
            self._count_lost(spool)

    def finish_one(self, record: SpanRecord, at_ns: int) -> None:
        """Take one finished span, of those that come by the thousand. Never raises."""
        spool = self.spool
        if spool is None or self._sink is not None:
            self.finish((record,))
        else:
            self.finish_line(spool.line_of(record), at_ns)

    def flush(self) -> None:
        """Have what was finished reach the spool's file now, for those who follow it. Never raises."""
        if self.spool is not None:
            self.spool.flush()

    def _count_lost(self, spool: Spool) -> None:
        lost, self._lost = spool.lost - self._lost, spool.lost
        if lost > 0:  # it begins anew in a forked child
            self.warn(SPANS_LOST, spool.error, lost)

    def warn(self, code: str, error: BaseException | None = None, count: int = 1) -> None:
        """Count a failure of telemetry; the first of its code is logged. Never raises."""
        try:
            self.warnings[code] = self.warnings.get(code, 0) + count
            if code not in self._reasons:
                self._reasons[code] = f"{_SAID.get(code, code)}: {error if error is not None else 'unknown'}"
                _log.warning("telemetry went wrong (%s), the run goes on: %s", code, error if error is not None else "unknown")
        except Exception:
            return

    def take_warnings(self) -> list[tuple[str, str, int]]:
        """Return what was counted since the last call: (code, one sentence with the first one's reason, how many). From any thread."""
        if not self.warnings:
            return []
        counted, self.warnings = self.warnings, {}
        return [(code, self._reasons.get(code, code), count) for code, count in counted.items()]
