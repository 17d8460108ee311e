"""The scope of a task: what the code that runs in it is in, and where its phases go.

What comes in: a task's ids, attributes and sink. What goes out: frames (the task, and each phase open in it) that travel in the OpenTelemetry context,
so that whatever carries that (asyncio, instrumented threads) carries them, and finished phase spans, handed to the task's recorder.
A frame is at the same time the context's current span: spans that the user's code starts have it as parent. Imports OpenTelemetry's API alone.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Protocol, cast

from opentelemetry import context as context_api
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, SpanContext, TraceFlags, TraceState, get_current_span, set_span_in_context

from otel_exec.semconv import ERROR_TYPE, EXEC_ID, EXEC_KIND, EXEC_OUTCOME, EXEC_PHASE, FOREIGN_EXEC_ID, NODE_ID, NODE_NAME, SCOPE_NAME, Kind
from otel_exec.spans import sanitise
from otel_exec.spans.failure import outcome_of
from otel_exec.spans.outside import PhaseHandle
from otel_exec.spans.phase_sink import Ended, PhaseSink, Totals
from otel_exec.spans.recorder import TELEMETRY_FAILED
from otel_exec.spans.span_record import SpanRecord

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from opentelemetry.context import Context

    from otel_exec.spans.recorder import Recorder
    from otel_exec.spans.span_record import AttributeValue

__all__ = [
    "Frame",
    "OpenPhase",
    "TaskScope",
    "close_phase",
    "current_scope",
    "current_span_id",
    "enter_scope",
    "frame_of",
    "open_phase",
    "running_totals",
    "scope_here",
]

_KEY = context_api.create_key("otel_exec-frame")
# The API keeps the key of the current span to itself; a context that holds nothing else tells it.
(_SPAN_KEY,) = set_span_in_context(NonRecordingSpan(INVALID_SPAN_CONTEXT), context_api.Context())
_PHASE = str(Kind.PHASE)
_TOKEN_KEYS = ("tokens", "input_tokens", "output_tokens")
_STATUS_ERROR = 2


class Frame(NonRecordingSpan):
    """The task or a phase in it, as the context's current span; its `SpanContext` is made when somebody asks for it.

    `visible` is the frame whose id user spans and child phases take as parent: itself, or, past the limit of spans, the nearest that has a span.
    """

    def __init__(self, scope: TaskScope, span_id: str) -> None:  # the base's `_context` is made lazily instead
        self.scope = scope
        self.span_id = span_id
        self.outer: Frame | None = None
        self.visible: Frame = self
        self._made: SpanContext | None = None

    def get_span_context(self) -> SpanContext:
        """Return the ids as OpenTelemetry wants them."""
        made = self._made
        if made is None:
            recorder = self.scope.recorder
            made = self._made = SpanContext(
                int(recorder.trace_id, 16),
                int(self.span_id, 16),
                is_remote=False,
                trace_flags=TraceFlags(recorder.flags),
                trace_state=TraceState.from_header([recorder.trace_state]) if recorder.trace_state else None,
            )
        return made

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.span_id}>"


class OpenPhase(Frame, PhaseHandle):
    """A phase that has not ended. Attributes that code sets on the current span by OpenTelemetry's API land here too."""

    name: str
    node_id: str | None
    exec_id: str | None
    parent_span_id: str
    start_ns: int
    slot: int
    epoch: int
    previous: Context
    metadata: dict[str, object]

    def __init__(self, scope: TaskScope, span_id: str, metadata: dict[str, object]) -> None:
        super().__init__(scope, span_id)
        self.metadata = metadata
        self.slot = -1
        self._events: list[tuple[int, str, dict[str, AttributeValue]]] = []

    def set(self, **attributes: object) -> None:
        """Add attributes to the phase's span."""
        self.metadata.update(attributes)

    def event(self, name: str, **attributes: object) -> None:
        """Add an event to the phase's span, at this instant."""
        self.add_event(name, cast("Any", attributes))

    def close(self, error: BaseException | None) -> None:
        """End it with the exception that ended it, or `None`. Never raises. Once."""
        close_phase(self, error)

    def is_recording(self) -> bool:
        """Whether attributes that are set are kept."""
        return True

    def set_attribute(self, key: str, value: object) -> None:
        """Add an attribute to the phase's span."""
        self.metadata[key] = value

    def set_attributes(self, attributes: Mapping[str, object]) -> None:
        """Add attributes to the phase's span."""
        self.metadata.update(attributes)

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        """Add an event to the phase's span."""
        recorder = self.scope.recorder
        try:
            if len(self._events) < recorder.limits.events:
                at_ns = recorder.clock.now_ns() if timestamp is None else int(timestamp)
                self._events.append((at_ns, sanitise.name(name), sanitise.attributes(attributes or {}, value_limit=recorder.limits.value_length)))
        except Exception as error:
            recorder.warn(TELEMETRY_FAILED, error)

    def record(self, end_ns: int, error: BaseException | None) -> SpanRecord:
        """Return the finished span."""
        scope = self.scope
        recorder = scope.recorder
        limits = recorder.limits
        metadata = self.metadata
        attributes: dict[str, AttributeValue]
        if not metadata:
            attributes = scope.base.copy()
        elif limits.value_length is None and len(metadata) <= limits.attributes and sanitise.is_clean(plain := cast("dict[str, AttributeValue]", metadata)):
            attributes = {**plain, **scope.base}
            attributes.pop(EXEC_KIND, None)
        else:
            attributes = sanitise.attributes(metadata, value_limit=limits.value_length, count_limit=limits.attributes)
            attributes.update(scope.base)
            attributes.pop(EXEC_KIND, None)
        attributes[EXEC_PHASE] = self.name
        if self.node_id is not None:
            attributes[NODE_ID] = attributes[NODE_NAME] = self.node_id
        if self.exec_id is not None:
            attributes[FOREIGN_EXEC_ID] = self.exec_id
        outcome, error_type, message = ("success", "", "") if error is None else outcome_of(error)
        attributes[EXEC_OUTCOME] = str(outcome)
        if error_type:
            attributes[ERROR_TYPE] = error_type
        return SpanRecord(
            recorder.trace_id,
            self.span_id,
            self.parent_span_id,
            self.name,
            _PHASE,
            self.start_ns,
            end_ns,
            attributes,
            (),
            _STATUS_ERROR if error_type else 0,
            message,
            1,
            tuple(self._events),
            SCOPE_NAME,
            recorder.flags,
            recorder.trace_state,
        )


class Owner(Protocol):
    """Who runs a task. `abandoned`: nobody waits for it any more, and what was open in it has been closed by others."""

    abandoned: bool


class TaskScope:
    """The task (or item) that the code is in: who records its phases and what every span of it carries.

    Args:
        recorder: makes and writes the spans.
        span_id: the task span's id.
        node_id: the step's node id.
        sink: folds the phases.
        attributes: put on every span made in it (`node.id`, `node.name`, `exec.attempt`, `exec.worker.id`, ...).
        max_spans: past it phases are only folded; `unspanned` counts those. Spans of the user's own count too.
        fan_out: what `map_tasks` calls; set by the executor, opaque here.
        owner: who may be abandoned; what ends in a task after that is not written.
    """

    recorder: Recorder
    span_id: str
    node_id: str
    sink: PhaseSink
    unspanned: int
    fan_out: object

    def __init__(
        self,
        recorder: Recorder,
        *,
        span_id: str,
        node_id: str,
        sink: PhaseSink,
        attributes: dict[str, AttributeValue],
        max_spans: int = 10_000,
        fan_out: object = None,
        owner: Owner | None = None,
    ) -> None:
        self.owner = owner
        self.recorder = recorder
        self.span_id = span_id
        self.node_id = node_id
        self.sink = sink
        self.attributes = attributes
        self.base: dict[str, AttributeValue] = {**sanitise.attributes(attributes), EXEC_ID: recorder.exec_id}
        self.own_names = (node_id, self.base.get(NODE_NAME))
        self.max_spans = max_spans
        self.unspanned = 0
        self.fan_out = fan_out
        self.lock = threading.Lock()
        self.frame = Frame(self, span_id)
        self._spans = 0
        _scopes.add(self)

    def take_span(self) -> bool:
        """Count one more span; returns whether it may be written. Under the lock."""
        if self._spans < self.max_spans:
            self._spans += 1
            return True
        self.unspanned += 1
        return False


def enter_scope(scope: TaskScope) -> AbstractContextManager[None]:
    """Make `scope` current, with its task span as the OpenTelemetry context's current span, for the block. Once for each scope.

    After the block the sink is called no more, whatever threads of the task still run, so that its numbers can be read without the lock.
    """
    return _Entered(scope)


def current_scope() -> TaskScope | None:
    """Return the scope of the code that calls: from the OpenTelemetry context, else (a bare thread of a process that runs one task) the process's own; `None` outside."""
    frame = frame_of(context_api.get_current())
    return None if frame is None else frame.scope


def scope_here() -> TaskScope | None:
    """Return the scope that the code's own context is inside of; `None` where it has none, whatever else runs in the process."""
    frame = context_api.get_current().get(_KEY)
    return None if frame is None else cast("Frame", frame).scope


def current_span_id() -> str:
    """Return the id of the span that a child made here would have as parent: a phase, a span of the user's own, the task; "" outside of a task."""
    context = context_api.get_current()
    frame = frame_of(context)
    return "" if frame is None else _parent_of(frame, context)


def frame_of(context: Context | None) -> Frame | None:
    """Return the innermost frame of a context; where it has none, the task of a process that runs one; else `None`."""
    frame = context.get(_KEY) if context is not None else None
    if frame is None and len(_entered) == 1:
        try:
            return _entered[0].frame
        except IndexError:  # it ended just now
            return None
    return cast("Frame | None", frame)


def open_phase(name: object, metadata: dict[str, object], node_id: str | None = None, exec_id: str | None = None) -> OpenPhase | None:
    """Open a phase under the current frame and make it current; `None` outside of a run. Never raises.

    Args:
        name: the phase's; cleaned.
        metadata: attributes of its span.
        node_id: the node that it counts for, where that is not the step.
        exec_id: what the user's code calls its execution.
    """
    context = context_api.get_current()
    frame = frame_of(context)
    if frame is None:
        return None
    scope = frame.scope
    recorder = scope.recorder
    try:
        phase = OpenPhase(scope, recorder.ids.span_id(), metadata)
        phase.name = sanitise.name(name)
        phase.node_id = node_id = None if node_id is None or node_id in scope.own_names else node_id
        phase.exec_id = None if exec_id == recorder.exec_id else exec_id
        phase.outer = frame
        phase.previous = context
        phase.epoch = _fork_epoch
        phase.parent_span_id = _parent_of(frame, context)
        with scope.lock:
            phase.start_ns = at_ns = recorder.clock.now_ns()
            spanned = scope.take_span()
            scope.sink.opened(phase.span_id, frame.span_id, phase.name, at_ns, node_id=node_id)
        # One copy of the context for both keys where there is a span: the two setters in a row would cost four.
        if spanned:
            inner = context_api.Context({**context, _KEY: phase, _SPAN_KEY: phase})
            if recorder.open_spans is not None:
                phase.slot = recorder.open_spans.open_span(
                    phase.span_id, phase.parent_span_id, _PHASE, phase.name, scope.node_id if node_id is None else node_id, at_ns
                )
        else:
            inner = context_api.set_value(_KEY, phase, context)
            phase.visible = frame.visible
        context_api.attach(inner)
    except Exception as error:
        recorder.warn(TELEMETRY_FAILED, error)
        return None
    return phase


def close_phase(phase: OpenPhase, error: BaseException | None) -> None:
    """End a phase with the exception that ended it, or `None`. Never raises. Must run once for each `open_phase`."""
    scope = phase.scope
    recorder = scope.recorder
    try:
        _leave(phase, phase.previous)
        if phase.epoch != _fork_epoch:
            return  # opened before a fork: the parent process ends it
        # A generator that is closed in order has not failed.
        failed = error is not None and not isinstance(error, GeneratorExit)
        tokens = _tokens(phase.metadata) if phase.metadata else None
        with scope.lock:
            end_ns = recorder.clock.now_ns()
            scope.sink.closed(phase.span_id, end_ns, error=failed, tokens=tokens, spanned=phase.visible is phase)
            if phase.exec_id is not None:
                scope.sink.foreign(phase.exec_id, scope.node_id if phase.node_id is None else phase.node_id, phase.name, end_ns - phase.start_ns)
        if phase.visible is phase and (scope.owner is None or not scope.owner.abandoned):
            recorder.finish((phase.record(end_ns, error),))
        # Off the list only now: killed in between, it is in the spool and on the list, never in neither.
        if phase.slot > 0 and recorder.open_spans is not None:
            recorder.open_spans.close(phase.slot)
    except Exception as problem:
        recorder.warn(TELEMETRY_FAILED, problem)


def running_totals(exec_id: str, *, take: bool = False) -> list[Totals]:
    """Return what the tasks that run in this process have under an execution id, the run's own or another; `take`: and forget it where it is another's."""
    found: list[Totals] = []
    for scope in _entered.copy():
        with scope.lock:
            found.append(scope.sink.totals(scope.node_id) if scope.recorder.exec_id == exec_id else scope.sink.foreign_totals(exec_id, take=take))
    return found


def _parent_of(frame: Frame, context: Context) -> str:
    """Return the parent span's id: the frame's, or that of a live span of the user's own that was started inside it."""
    current = get_current_span(context)
    if current is not frame.visible and current.is_recording() and not isinstance(current, Frame):
        ids = current.get_span_context()
        if ids.is_valid and ids.trace_id == frame.visible.get_span_context().trace_id:
            return f"{ids.span_id:016x}"
    return frame.visible.span_id


def _leave(frame: Frame, previous: Context) -> None:
    """Make `previous` current again, if the code is still inside the frame.

    OpenTelemetry's `detach` is not used: a generator may be closed in another context than it was opened in, which `detach` logs as an error.
    """
    here = context_api.get_current().get(_KEY)
    while here is not None:
        if here is frame:
            context_api.attach(previous)
            return
        here = cast("Frame", here).outer


def _tokens(metadata: dict[str, object]) -> dict[str, int] | None:
    found: dict[str, int] | None = None
    for key in _TOKEN_KEYS:
        count = metadata.get(key)
        if type(count) is int:
            found = found or {}
            found[key] = count
    return found


class _Entered:
    """The block in which a scope is current."""

    def __init__(self, scope: TaskScope) -> None:
        self._scope = scope
        self._previous: Context | None = None

    def __enter__(self) -> None:
        scope = self._scope
        self._previous = context_api.get_current()
        context_api.attach(set_span_in_context(scope.frame, context_api.set_value(_KEY, scope.frame)))
        _entered.append(scope)

    def __exit__(self, *_: object) -> None:
        with self._scope.lock:
            self._scope.sink = Ended()
        if self._scope in _entered:
            _entered.remove(self._scope)
        if self._previous is not None:
            _leave(self._scope.frame, self._previous)


# The scopes that are current somewhere in this process.
_entered: list[TaskScope] = []
_scopes: weakref.WeakSet[TaskScope] = weakref.WeakSet()
_fork_epoch = 0


def _in_child() -> None:
    global _fork_epoch
    _fork_epoch += 1
    for scope in list(_scopes):
        # Another thread of the parent may have held it.
        scope.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
