"""The time in which a task waits for its fan-out: a span of its own, and a child of the phase that called.

What comes in: the scope of a task that calls `map_tasks`. What goes out: a `fan_out` span, and two calls to the task's sink. The items lie beside it, under
the phase or task that called: their time is their own, and what the caller does meanwhile is waiting. Never raises and never changes the caller's exception.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import context as context_api

from otel_exec.semconv import CODE_FUNCTION, EXEC_ITEMS, Kind
from otel_exec.spans.failure import outcome_of
from otel_exec.spans.recorder import TELEMETRY_FAILED
from otel_exec.spans.scope import current_span_id, frame_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_exec.spans.scope import TaskScope
    from otel_exec.spans.span_record import AttributeValue

__all__ = ["waiting"]

_NAME = "map_tasks"
_KIND = str(Kind.FAN_OUT)


@contextmanager
def waiting(scope: TaskScope, fn_name: str, items: int) -> Iterator[None]:
    """The code waits for `items` calls of `fn_name`, for the block. Not current: what starts in the block has the caller as parent."""
    wait = _Wait(scope, fn_name, items)
    try:
        yield
    except BaseException as error:
        wait.close(error)
        raise
    wait.close(None)


class _Wait:
    def __init__(self, scope: TaskScope, fn_name: str, items: int) -> None:
        self._scope = scope
        recorder = scope.recorder
        self._attributes: dict[str, AttributeValue] = {CODE_FUNCTION: fn_name, EXEC_ITEMS: items}
        self._slot, self._span_id = -1, ""
        try:
            frame = frame_of(context_api.get_current())
            above = scope.span_id if frame is None else frame.span_id
            span_id, self._parent = recorder.ids.span_id(), current_span_id()
            with scope.folding() as sink:
                self._start_ns = recorder.clock.now_ns()
                self._spanned = scope.take_span()
                sink.wait_opened(span_id, above, self._start_ns)
            self._span_id = span_id
            if self._spanned and recorder.open_spans is not None:
                self._slot = recorder.open_spans.open_span(span_id, self._parent, _KIND, _NAME, scope.node_id, self._start_ns)
        except Exception as problem:
            recorder.warn(TELEMETRY_FAILED, problem)

    def close(self, error: BaseException | None) -> None:
        """The waiting is over."""
        recorder = self._scope.recorder
        if not self._span_id:
            return
        try:
            try:
                self._finish(error)
            finally:
                if recorder.open_spans is not None:
                    recorder.open_spans.close(self._slot)  # last: a process that is killed in between has it in one of the two places
        except Exception as problem:
            recorder.warn(TELEMETRY_FAILED, problem)

    def _finish(self, error: BaseException | None) -> None:
        """Fold the wait, and hand its span on."""
        scope, recorder = self._scope, self._scope.recorder
        with scope.folding() as sink:
            end_ns = recorder.clock.now_ns()
            sink.closed(self._span_id, end_ns, error=False)
        if not self._spanned or not scope.may_write():
            return
        outcome, error_type, message = ("success", None, "") if error is None else outcome_of(error)
        recorder.finish(
            (
                recorder.make(
                    _KIND,
                    _NAME,
                    self._start_ns,
                    end_ns,
                    span_id=self._span_id,
                    parent=self._parent,
                    attributes={**scope.base, **self._attributes},
                    outcome=str(outcome),
                    error_type=error_type or None,
                    message=message,
                ),
            )
        )
