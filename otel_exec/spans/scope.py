"""The scope of a task: what the code that runs in it is in, and where its phases go.

What comes in: a task's ids, attributes and sink. What goes out: frames (the task, and each phase open in it) that travel in the OpenTelemetry context,
so that whatever carries that (asyncio, instrumented threads) carries them, and finished phase spans, handed to the task's recorder.
A frame is at the same time the context's current span: spans that the user's code starts have it as parent. Imports OpenTelemetry's API alone.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, cast

from opentelemetry import context as context_api
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, SpanContext, TraceFlags, TraceState, get_current_span, set_span_in_context

from otel_exec.clock import AnchoredClock, System
from otel_exec.semconv import EXEC_ID, NODE_NAME
from otel_exec.spans import sanitise
from otel_exec.spans.late_sink import LateSink
from otel_exec.spans.phase_sink import Ended, PhaseSink, Totals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from opentelemetry.context import Context

    from otel_exec.spans.phase_shape import PhaseShape
    from otel_exec.spans.recorder import Recorder
    from otel_exec.spans.span_record import AttributeValue

__all__ = [
    "Frame",
    "TaskScope",
    "current_scope",
    "current_span_id",
    "enter_scope",
    "frame_of",
    "leave",
    "parent_of",
    "running_totals",
    "scope_here",
]

FRAME_KEY = context_api.create_key("otel_exec-frame")
# The API keeps the key of the current span to itself; a context that holds nothing else tells it.
(SPAN_KEY,) = set_span_in_context(NonRecordingSpan(INVALID_SPAN_CONTEXT), context_api.Context())


class Frame(NonRecordingSpan):
    """The task or a phase in it, as the context's current span; its `SpanContext` is made when somebody asks for it.

    `nearest`: past the limit of spans, the nearest frame around it that has a span. It never refers to itself: who drops it frees it, without a collection.
    """

    scope: TaskScope
    span_id: str
    nearest: Frame | None = None
    outer: Frame | None = None
    _made: SpanContext | None = None

    def __init__(self, scope: TaskScope, span_id: str) -> None:  # the base's `_context` is made lazily instead
        self.scope = scope
        self.span_id = span_id

    @property
    def visible(self) -> Frame:
        """The frame whose id user spans and child phases take as parent."""
        return self.nearest or self

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
        max_spans: past it phases are only folded, and `unspanned` counts those; spans of the user's own count too, and past it are left out: `dropped` counts those.
        fan_out: what `map_tasks` calls; set by the executor, opaque here.
        owner: who may be abandoned; what ends in a task after that is not written.
    """

    recorder: Recorder
    span_id: str
    node_id: str
    sink: PhaseSink
    unspanned: int
    dropped: int
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
        # While a thread folds an event `late` stands in `sink`'s place: what opens or closes in the midst of that, in the same thread, is folded after it.
        self.sink: PhaseSink = sink
        self.late = LateSink(sink)
        self.attributes = attributes
        self.base: dict[str, AttributeValue] = {**sanitise.attributes(attributes), EXEC_ID: recorder.exec_id}
        self.own_names = (node_id, self.base.get(NODE_NAME))
        # What phases of a name have in common, by name, or by name, node and execution (`phase_shape.py`).
        self.shapes: dict[object, PhaseShape] = {}
        # The instant is `tick() + offset_ns`: a run's own clock is read without a call of ours in between.
        clock = recorder.clock
        self.tick: Callable[[], int] = System.tick if isinstance(clock, AnchoredClock) else clock.now_ns
        # Spans of the user's own that are phases, or lie in such: their ids, and the innermost phase for what is opened in them.
        self.user_phases: dict[str, str] = {}
        self.offset_ns = clock.offset_ns if isinstance(clock, AnchoredClock) else 0
        self.new_id = recorder.ids.span_id
        self.spans_left = max_spans
        self.unspanned = self.dropped = 0
        self.closed_early: frozenset[str] = frozenset()
        self.fan_out = fan_out
        self.lock = threading.RLock()  # a finaliser or a signal handler may come in while its thread holds it
        self.frame = Frame(self, span_id)
        _scopes.add(self)

    @contextmanager
    def folding(self) -> Iterator[PhaseSink]:
        """Hold the lock and give the sink, for the block. `open_phase.py` does the same without a generator."""
        with self.lock:
            sink, self.sink = self.sink, self.late
            try:
                yield sink
                if self.late.calls and sink is not self.late:
                    self.late.hand_on()
            finally:
                self.sink = sink

    def take_span(self) -> bool:
        """Return whether one more span may be written, and take it from what is left. Under the lock."""
        if self.spans_left > 0:
            self.spans_left -= 1
            return True
        return False

    def may_write(self, span_id: str = "") -> bool:
        """Whether what ends now is to be written: not in a task that nobody waits for any more, nor what was closed by others when the scope ended."""
        return span_id not in self.closed_early and (self.owner is None or not self.owner.abandoned)

    def end(self, closed_early: frozenset[str]) -> None:
        """Take nothing in any more, though code of it goes on; of the phases `closed_early` others write the spans. Under the lock."""
        self.sink = Ended()
        self.closed_early = closed_early
        self.spans_left = 0


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
    frame = context_api.get_current().get(FRAME_KEY)
    return None if frame is None else cast("Frame", frame).scope


def current_span_id() -> str:
    """Return the id of the span that a child made here would have as parent: a phase, a span of the user's own, the task; "" outside of a task."""
    context = context_api.get_current()
    frame = frame_of(context)
    return "" if frame is None else parent_of(frame, context)


def frame_of(context: Context | None) -> Frame | None:
    """Return the innermost frame of a context; where it has none, the task of a process that runs one; else `None`."""
    frame = context.get(FRAME_KEY) if context is not None else None
    if frame is None and len(entered) == 1:
        try:
            return entered[0].frame
        except IndexError:  # it ended just now
            return None
    return cast("Frame | None", frame)


def running_totals(exec_id: str, *, take: bool = False) -> list[Totals]:
    """Return what the tasks that run in this process have under an execution id, the run's own or another; `take`: and forget it where it is another's."""
    found: list[Totals] = []
    for scope in entered.copy():
        with scope.folding() as sink:
            found.append(sink.totals(scope.node_id) if scope.recorder.exec_id == exec_id else sink.foreign_totals(exec_id, take=take))
    return found


def parent_of(frame: Frame, context: Context) -> str:
    """Return the parent span's id: the frame's, or that of a live span of the user's own that was started inside it."""
    current = get_current_span(context)
    if current is not frame.visible and current.is_recording() and not isinstance(current, Frame):
        ids = current.get_span_context()
        if ids.is_valid and ids.trace_id == frame.visible.get_span_context().trace_id:
            return f"{ids.span_id:016x}"
    return frame.visible.span_id


def leave(frame: Frame, previous: Context) -> None:
    """Make `previous` current again, if the code is still inside the frame.

    OpenTelemetry's `detach` is not used: a generator may be closed in another context than it was opened in, which `detach` logs as an error.
    """
    here = context_api.get_current().get(FRAME_KEY)
    while here is not None:
        if here is frame:
            context_api.attach(previous)
            return
        here = cast("Frame", here).outer


class _Entered:
    """The block in which a scope is current."""

    def __init__(self, scope: TaskScope) -> None:
        self._scope = scope
        self._previous: Context | None = None

    def __enter__(self) -> None:
        scope = self._scope
        self._previous = context_api.get_current()
        context_api.attach(set_span_in_context(scope.frame, context_api.set_value(FRAME_KEY, scope.frame)))
        entered.append(scope)

    def __exit__(self, *_: object) -> None:
        scope = self._scope
        with scope.folding():
            pass  # what came late is handed on
        with scope.lock:
            scope.sink = scope.late.behind = Ended()
        if self._scope in entered:
            entered.remove(self._scope)
        if self._previous is not None:
            leave(self._scope.frame, self._previous)


# The scopes that are current somewhere in this process.
entered: list[TaskScope] = []
_scopes: weakref.WeakSet[TaskScope] = weakref.WeakSet()
fork_epoch = 0


def _in_child() -> None:
    global fork_epoch
    fork_epoch += 1
    for scope in list(_scopes):
        # Another thread of the parent may have held it, in the midst of an event.
        scope.lock = threading.RLock()
        scope.late.calls.clear()
        scope.sink = scope.late.behind


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
