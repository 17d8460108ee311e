"""Phases from their opening to their end: the hot path of everything that is timed.

What comes in: a name and metadata from the user's code, in a scope. What goes out: two calls to the task's sink, a place among the open spans, a line in the spool.
Never raises. Imports OpenTelemetry's API alone.

What a phase costs decides how finely users time (measured: bench/phases.py), so a plain one makes no `SpanRecord`: its line is put together from
pieces that are the same each time (`PhaseShape`), and one copy of the context makes it current.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, cast

from opentelemetry import context as context_api
from opentelemetry.trace import Status, StatusCode

from otel_exec.known_secrets import suspect
from otel_exec.semconv import ERROR_TYPE, EXEC_KIND, EXEC_OUTCOME, Outcome
from otel_exec.spans import sanitise, scope
from otel_exec.spans.context_access import attach_context, current_context
from otel_exec.spans.failure import error_type, error_type_told, outcome_of
from otel_exec.spans.line_codec import encode_attributes
from otel_exec.spans.outside import PhaseHandle
from otel_exec.spans.phase_shape import shape_of
from otel_exec.spans.recorder import TELEMETRY_FAILED
from otel_exec.spans.scope import FRAME_KEY, SPAN_KEY, Frame, frame_of, parent_of
from otel_exec.spans.tokens import tokens_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context

    from otel_exec.spans.phase_shape import PhaseShape
    from otel_exec.spans.scope import TaskScope
    from otel_exec.spans.span_record import AttributeValue, SpanRecord

__all__ = ["OpenPhase", "open_phase"]

_STATUS_ERROR = 2


class OpenPhase(Frame, PhaseHandle):
    """A phase that has not ended.

    What code does to the current span by OpenTelemetry's API lands here too. Only a new name (`update_name`) is not taken: a phase is counted under its own.
    """

    start_ns: int
    slot = -1
    ended = False
    _events: list[tuple[int, str, dict[str, AttributeValue]]] | None = None
    _status: tuple[int, str] | None = None

    def __init__(self, within: TaskScope, outer: Frame, shape: PhaseShape, parent_span_id: str, metadata: dict[str, object], previous: Context) -> None:
        self.scope = within
        self.span_id = within.new_id()
        self.outer = outer
        self.shape = shape
        self.parent_span_id = parent_span_id
        self.metadata = metadata
        self.previous = previous
        self.epoch = scope.fork_epoch

    def set(self, /, **attributes: object) -> None:
        """Add attributes to the phase's span."""
        self.metadata = {**self.metadata, **attributes}

    def event(self, name: str, /, **attributes: object) -> None:
        """Add an event to the phase's span, at this instant."""
        self.add_event(name, cast("Any", attributes))

    def is_recording(self) -> bool:
        """Whether attributes that are set are kept: until it ends."""
        return not self.ended

    def set_attribute(self, key: str, value: object) -> None:
        """Add an attribute to the phase's span."""
        self.metadata = {**self.metadata, key: value}

    def set_attributes(self, attributes: Mapping[str, object]) -> None:
        """Add attributes to the phase's span."""
        self.metadata = {**self.metadata, **attributes}

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        """Add an event to the phase's span."""
        recorder = self.scope.recorder
        try:
            if self._events is None:
                self._events = []
            if len(self._events) < recorder.limits.events:
                at_ns = recorder.clock.now_ns() if timestamp is None else int(timestamp)
                self._events.append((at_ns, sanitise.said_name(name), sanitise.attributes(attributes or {}, value_limit=recorder.limits.value_length)))
        except Exception as error:
            recorder.warn(TELEMETRY_FAILED, error)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add an exception to the phase's span, as an event. Whether the phase failed is another matter: the one that ends it says so, or `set_status`."""
        try:
            stack = "".join(traceback.format_exception(exception))
        except Exception:  # its own text raises
            stack = ""
        told = {
            "exception.type": error_type(exception),
            "exception.message": sanitise.said(exception),
            "exception.stacktrace": sanitise.said(stack),
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", {**told, **(attributes or {})}, timestamp)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Say how the phase went. OK is final, and UNSET says nothing, as the specification of the API has it; an exception that ends the phase is a failure all the same."""
        try:
            code = (status.status_code if isinstance(status, Status) else status).value
            said = status.description if isinstance(status, Status) else description
            if code and (self._status is None or self._status[0] == _STATUS_ERROR):
                self._status = code, sanitise.said(said or "", sanitise.MAX_NAME) if code == _STATUS_ERROR else ""
        except Exception as error:
            self.scope.recorder.warn(TELEMETRY_FAILED, error)

    def close(self, error: BaseException | None, *, current: bool = False) -> None:
        """End it with the exception that ended it, or `None`. Never raises. Once. `current`: it was asked whether it is."""
        within = self.scope
        try:
            if current or current_context().get(FRAME_KEY) is self:
                attach_context(self.previous)
            else:
                scope.leave(self, self.previous)
            if self.epoch != scope.fork_epoch:
                return  # opened before a fork: the parent process ends it
            self.ended = True
            shape, metadata = self.shape, self.metadata
            # A generator that is closed in order has not failed.
            raised = error is not None and not isinstance(error, GeneratorExit)
            failed = raised or (self._status is not None and self._status[0] == _STATUS_ERROR)
            tokens = self._tokens() if metadata else None
            spanned = self.nearest is None
            with within.lock:
                sink, within.sink = within.sink, within.late  # `folding`, without a generator
                try:
                    end_ns = within.tick() + within.offset_ns
                    if shape.plain and not metadata:
                        sink.own.closed(self.span_id, end_ns, failed, spanned)
                    else:
                        sink.closed(self.span_id, end_ns, error=failed, tokens=tokens, spanned=spanned)
                        if shape.exec_id is not None:
                            sink.foreign(shape.exec_id, shape.node_id or within.node_id, shape.name, end_ns - self.start_ns)
                    if within.late.calls and sink is not within.late:
                        within.late.hand_on()
                finally:
                    within.sink = sink
            if spanned and within.may_write(self.span_id):
                self._write(end_ns, error if raised else None)
            # Off the list only now: killed in between, it is in the spool and on the list, never in neither.
            if self.slot > 0:
                within.recorder.open_spans.close(self.slot)  # type: ignore[union-attr]  # who gave the slot
        except Exception as problem:
            within.recorder.warn(TELEMETRY_FAILED, problem)

    def _write(self, end_ns: int, error: BaseException | None) -> None:
        pieces, recorder = self.shape.pieces, self.scope.recorder
        own = self._own_text() if self.metadata else ""
        if own is None or error is not None or pieces is None or self._events is not None or self._status is not None:
            recorder.finish_one(self._record(end_ns, error), end_ns)
            return
        head, before_parent, before_start, before_end, after_end, tail = pieces
        recorder.finish_line(
            f"{head}{self.span_id}{before_parent}{self.parent_span_id}{before_start}{self.start_ns}{before_end}{end_ns}{after_end}{own}{tail}", end_ns
        )

    def _tokens(self) -> dict[str, int] | None:
        """Return the numbers of tokens that its span has."""
        limits = self.scope.recorder.limits
        return tokens_of(self.metadata if len(self.metadata) <= limits.attributes else sanitise.attributes(self.metadata, count_limit=limits.attributes))

    def _own_text(self) -> str | None:
        """Return the metadata as it goes into the line; `None` where it does not simply go in: too many attributes, unclean ones, names of ours or secrets among them."""
        metadata, limits = cast("dict[str, AttributeValue]", self.metadata), self.scope.recorder.limits
        if (
            limits.value_length is not None
            or len(metadata) > limits.attributes
            or not self.shape.reserved.isdisjoint(metadata)
            or not sanitise.is_clean(metadata)
        ):
            return None
        text = f",{encode_attributes(metadata)}"
        return None if suspect(text) else text

    def _record(self, end_ns: int, error: BaseException | None) -> SpanRecord:
        """Return the finished span."""
        recorder = self.scope.recorder
        limits = recorder.limits
        given = sanitise.attributes(self.metadata, value_limit=limits.value_length, count_limit=limits.attributes) if self.metadata else {}
        given.pop(EXEC_KIND, None)
        status, message = self._status or (0, "")
        outcome, failure = "success", ""
        if error is not None:
            outcome, failure, message = outcome_of(error)
        elif status == _STATUS_ERROR:
            outcome, failure = Outcome.FAILURE, error_type_told(self._events or ())
        attributes = {**given, **self.shape.attributes, EXEC_OUTCOME: str(outcome)}
        if failure:
            attributes[ERROR_TYPE] = failure
        return self.shape.record(
            self.span_id,
            self.parent_span_id,
            self.start_ns,
            end_ns,
            attributes,
            status=_STATUS_ERROR if failure else status,
            message=message,
            events=tuple(self._events or ()),
        )


def open_phase(name: object, metadata: dict[str, object], node_id: str | None = None, exec_id: str | None = None, *, current: bool = True) -> OpenPhase | None:
    """Open a phase under the current frame and make it current; `None` outside of a run. Never raises.

    Args:
        name: the phase's; cleaned.
        metadata: attributes of its span; never changed.
        node_id: the node that it counts for, where that is not the step.
        exec_id: what the user's code calls its execution.
        current: `False` leaves the context alone.
    """
    context = current_context()
    found: Any = context.get(FRAME_KEY)
    if found is None:
        if not scope.entered:  # no run anywhere in the process: the way that must cost next to nothing
            return None
        found = frame_of(context)
        if found is None:
            return None
    frame: Frame = found
    within = frame.scope
    recorder = within.recorder
    try:
        shape = within.shapes.get(name) if type(name) is str and node_id is None and exec_id is None else None
        if shape is None:
            shape = shape_of(within, name, node_id, exec_id)
        visible, outer_id = frame.nearest or frame, frame.span_id
        if context.get(SPAN_KEY) is visible:
            parent = visible.span_id
        else:
            parent = parent_of(frame, context)
            outer_id = within.user_phases.get(parent, outer_id)
        phase = OpenPhase(within, frame, shape, parent, metadata, context)
        with within.lock:
            sink, within.sink = within.sink, within.late  # `folding`, without a generator
            try:
                phase.start_ns = at_ns = within.tick() + within.offset_ns
                spanned = within.spans_left > 0  # `take_span`, without a call
                if spanned:
                    within.spans_left -= 1
                else:
                    within.unspanned += 1
                if shape.plain:
                    sink.own.opened(phase.span_id, outer_id, shape.name, at_ns)
                else:
                    sink.opened(phase.span_id, outer_id, shape.name, at_ns, node_id=shape.node_id)
                if within.late.calls and sink is not within.late:
                    within.late.hand_on()
            finally:
                within.sink = sink
        if not spanned:
            phase.nearest = visible
        elif recorder.open_spans is not None:
            phase.slot = recorder.open_spans.open_listing(shape.listing, phase.span_id, parent, at_ns)
        if current:
            # One copy of the context for both keys: the two setters in a row would cost four.
            attach_context(context_api.Context({**context, FRAME_KEY: phase, SPAN_KEY: phase} if spanned else {**context, FRAME_KEY: phase}))
    except Exception as error:
        recorder.warn(TELEMETRY_FAILED, error)
        return None
    return phase
