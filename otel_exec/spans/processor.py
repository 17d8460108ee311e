"""The user's own OpenTelemetry spans on their way into the run's spool.

What comes in: spans that the SDK starts and ends for the user's code and its instrumentations. What goes out: `SpanRecord`s with `exec.id` and no `exec.kind`,
to the recorder of the scope that they were started in. One that is started with the attributes `exec_id` and `node_id` is a phase as well: it is folded while
it is open, and its span has the instants of the fold, `exec.kind` and the rest. Spans outside of a run are passed over. Imports the SDK: only `provider.py` imports this file, when it must.

Contract of call: the SDK calls `on_start` and `on_end` on the thread of the user's code, where an exception would reach it; so both are guarded.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from opentelemetry import context as context_api
from opentelemetry.sdk import trace as sdk_trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator as SdkIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import get_current_span

from otel_exec.semconv import (
    ERROR_TYPE,
    EXEC_EDGE,
    EXEC_KIND,
    EXEC_OUTCOME,
    EXEC_PHASE,
    FOREIGN_EXEC_ID,
    FOREIGN_NODE_ID,
    NODE_ID,
    NODE_NAME,
    SCOPE_NAME,
    Kind,
    Outcome,
)
from otel_exec.spans import sanitise
from otel_exec.spans.failure import error_type_told
from otel_exec.spans.recorder import REMOTE_PARENT, TELEMETRY_FAILED
from otel_exec.spans.scope import frame_of
from otel_exec.spans.span_record import SpanLink, SpanRecord
from otel_exec.spans.tokens import tokens_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span
    from opentelemetry.trace import Link, SpanKind, TraceState
    from opentelemetry.util.types import Attributes

    from otel_exec.spans.ids import IdGenerator
    from otel_exec.spans.scope import TaskScope
    from otel_exec.spans.span_record import AttributeValue

__all__ = ["KeepAll", "OwnIds", "ScopeProcessor"]

# Spans that never end must not grow us: past this many open ones the oldest are forgotten.
_MAX_OPEN = 65_536
_STATUS_ERROR = 2


@dataclass(slots=True)
class _Open:
    """A span that has not ended. `ahead_ns`: how far its scope's clock is ahead of the wall clock that the SDK reads. `above`: the innermost phase that it is or lies in."""

    scope: TaskScope
    ahead_ns: int
    above: str
    phase: _AsPhase | None = None


@dataclass(slots=True)
class _AsPhase:
    """What makes it a phase; `node_id` is `None` for the step itself, `exec_id` for the run's own. `slot`: where it stands among the open spans."""

    name: str
    node_id: str | None
    exec_id: str | None
    start_ns: int
    spanned: bool
    slot: int = -1


class ScopeProcessor(SpanProcessor):
    """Gives finished spans of the user's own to the scope that they were started in."""

    def __init__(self) -> None:
        # By trace and span id, since the SDK ends another object than it starts.
        self._open: dict[tuple[int, int], _Open] = {}
        self._lock = threading.RLock()  # a finaliser that ends a span may come in while its thread holds it

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Remember the scope that the span was started in."""
        scope = None
        try:
            frame = frame_of(parent_context or context_api.get_current())
            ids = span.get_span_context()
            if frame is None or ids is None:
                return
            scope = frame.scope
            span_id = f"{ids.span_id:016x}"
            parent = span.parent
            with self._lock:
                inside = self._open.get((parent.trace_id, parent.span_id)) if parent is not None else None
            above = frame.span_id if inside is None else inside.above
            opened = _Open(scope, scope.recorder.clock.now_ns() - sdk_trace.time_ns(), above)  # type: ignore[attr-defined]  # the very clock that the SDK has read, whoever has patched it
            attributes = span.attributes or {}
            if FOREIGN_EXEC_ID in attributes and FOREIGN_NODE_ID in attributes:
                above_id = f"{parent.span_id:016x}" if parent is not None else ""
                opened.phase = _begin(scope, span_id, above_id, above, span.name, attributes)
                opened.above = span_id
            if opened.above != frame.span_id:
                scope.user_phases[span_id] = opened.above
            with self._lock:
                self._open[ids.trace_id, ids.span_id] = opened
                if len(self._open) > _MAX_OPEN:
                    del self._open[next(iter(self._open))]
        except Exception as error:
            if scope is not None:
                scope.recorder.warn(TELEMETRY_FAILED, error)

    def on_end(self, span: ReadableSpan) -> None:
        """Record the span, unless its task is past its limit of spans, or nobody waits for it any more."""
        scope = None
        try:
            ids = span.get_span_context()
            if ids is None:
                return
            with self._lock:
                opened = self._open.pop((ids.trace_id, ids.span_id), None)
            if opened is None:
                return
            scope = opened.scope
            scope.user_phases.pop(f"{ids.span_id:016x}", None)
            if opened.phase is not None:
                _end(span, opened, opened.phase)
                return
            with scope.lock:
                spanned = scope.take_span()
                scope.dropped += not spanned
            if spanned and scope.may_write():
                scope.recorder.finish((_record(span, scope, opened.ahead_ns),))
        except Exception as error:
            if scope is not None:
                scope.recorder.warn(TELEMETRY_FAILED, error)

    def shutdown(self) -> None:
        """Nothing to do: every span was written when it ended."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002  the SDK's signature
        """Nothing waits: every span was written when it ended."""
        return True


class KeepAll(Sampler):
    """Records every span; whether it may be exported is its parent's word, since the run decides that once for its trace."""

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,  # noqa: ARG002  the SDK's signature
        name: str,  # noqa: ARG002  the SDK's signature
        kind: SpanKind | None = None,  # noqa: ARG002  the SDK's signature
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,  # noqa: ARG002  the SDK's signature
        trace_state: TraceState | None = None,  # noqa: ARG002  the SDK's signature
    ) -> SamplingResult:
        """Return that the span is recorded, and sampled if its parent is (or if it has none)."""
        parent = get_current_span(parent_context).get_span_context()
        sampled = not parent.is_valid or parent.trace_flags.sampled
        return SamplingResult(Decision.RECORD_AND_SAMPLE if sampled else Decision.RECORD_ONLY, attributes, parent.trace_state if parent.is_valid else None)

    def get_description(self) -> str:
        """Return the sampler's name."""
        return "otel_exec.KeepAll"


class OwnIds(SdkIdGenerator):
    """Ids for the SDK that `random.seed` in the user's code does not make repeat."""

    def __init__(self, ids: IdGenerator) -> None:
        self._ids = ids

    def generate_span_id(self) -> int:
        """Return a span id, not 0."""
        return int(self._ids.span_id(), 16)

    def generate_trace_id(self) -> int:
        """Return a trace id, not 0."""
        return int(self._ids.trace_id(), 16)


def _record(span: ReadableSpan, scope: TaskScope, ahead_ns: int) -> SpanRecord:
    """Return the span as a record, shifted as a whole from the wall clock to the run's."""
    recorder = scope.recorder
    ids, parent = span.get_span_context(), span.parent
    start_ns = (span.start_time or 0) + ahead_ns
    attributes = _clean(span.attributes, scope)
    attributes.pop(EXEC_KIND, None)
    attributes.update(scope.base)
    return SpanRecord(
        f"{ids.trace_id:032x}" if ids is not None else recorder.trace_id,
        f"{ids.span_id:016x}" if ids is not None else recorder.ids.span_id(),
        f"{parent.span_id:016x}" if parent is not None and parent.is_valid else "",
        sanitise.said_name(span.name),
        "",
        start_ns,
        max(start_ns, (span.end_time or 0) + ahead_ns),
        attributes,
        tuple(_link(link, scope) for link in span.links),
        span.status.status_code.value,
        sanitise.said(span.status.description or "", sanitise.MAX_NAME),
        span.kind.value + 1,  # the API counts from 0, OTLP from 1
        tuple((event.timestamp + ahead_ns, sanitise.said_name(event.name), _clean(event.attributes, scope)) for event in span.events),
        sanitise.name(span.instrumentation_scope.name) if span.instrumentation_scope is not None else "",
        recorder.flags | (REMOTE_PARENT if parent is not None and parent.is_remote else 0),
        ids.trace_state.to_header() if ids is not None and ids.trace_state else "",
    )


def _begin(scope: TaskScope, span_id: str, parent: str, above: str, name: str, attributes: Mapping[str, object]) -> _AsPhase:
    """Open the span as a phase."""
    node_id: str | None = sanitise.identifier(attributes[FOREIGN_NODE_ID])
    exec_id: str | None = sanitise.identifier(attributes[FOREIGN_EXEC_ID])
    if not node_id or node_id in scope.own_names:
        node_id = None
    if not exec_id or exec_id == scope.recorder.exec_id:
        exec_id = None
    clean = sanitise.phase_name(name)
    with scope.folding() as sink:
        at_ns = scope.recorder.clock.now_ns()
        sink.opened(span_id, above, clean, at_ns, node_id=node_id)
        phase = _AsPhase(clean, node_id, exec_id, at_ns, scope.take_span())
        scope.unspanned += not phase.spanned
    table = scope.recorder.open_spans
    if phase.spanned and table is not None:
        phase.slot = table.open_span(span_id, parent, str(Kind.PHASE), clean, scope.node_id if node_id is None else node_id, at_ns)
    return phase


def _end(span: ReadableSpan, opened: _Open, phase: _AsPhase) -> None:
    """Close the phase, and write its span with the very instants that were folded."""
    scope = opened.scope
    record = _record(span, scope, opened.ahead_ns)
    failed = record.status == _STATUS_ERROR
    tokens = tokens_of(record.attributes)
    with scope.folding() as sink:
        end_ns = scope.recorder.clock.now_ns()
        sink.closed(record.span_id, end_ns, error=failed, tokens=tokens, spanned=phase.spanned)
        if phase.exec_id is not None:
            sink.foreign(phase.exec_id, phase.node_id or scope.node_id, phase.name, end_ns - phase.start_ns)
    if phase.spanned and scope.may_write(record.span_id):
        _write(record, scope, phase, end_ns, failed=failed)
    # Off the list only now: killed in between, it is in the spool and on the list, never in neither.
    if phase.slot > 0:
        scope.recorder.open_spans.close(phase.slot)  # type: ignore[union-attr]  # who gave the slot


def _write(record: SpanRecord, scope: TaskScope, phase: _AsPhase, end_ns: int, *, failed: bool) -> None:
    attributes = {**record.attributes, EXEC_PHASE: phase.name, EXEC_OUTCOME: str(Outcome.FAILURE if failed else Outcome.SUCCESS)}
    if phase.node_id is not None:
        attributes[NODE_ID] = attributes[NODE_NAME] = phase.node_id
    if failed and ERROR_TYPE not in attributes:
        attributes[ERROR_TYPE] = error_type_told(record.events)
    changed = {"kind": str(Kind.PHASE), "name": phase.name, "start_ns": phase.start_ns, "end_ns": end_ns, "attributes": attributes, "scope": SCOPE_NAME}
    scope.recorder.finish((msgspec.structs.replace(record, **changed),))


def _link(link: Link, scope: TaskScope) -> SpanLink:
    attributes = _clean(link.attributes, scope)
    attributes.pop(EXEC_EDGE, None)
    return SpanLink(f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}", "", attributes)


def _clean(attributes: Mapping[str, object] | None, scope: TaskScope) -> dict[str, AttributeValue]:
    limits = scope.recorder.limits
    return sanitise.attributes(attributes or {}, value_limit=limits.value_length, count_limit=limits.attributes)
