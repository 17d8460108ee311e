"""One attempt at one item of a fan-out: what crosses between workers, and how it is run.

What comes in: an `ItemEnvelope`, the function and the item. What goes out: an `ItemReport`, the item's span in the spool of whoever ran it, and the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from otel_exec import semconv
from otel_exec.aggregate.folds import ItemsFold, TaskSums
from otel_exec.aggregate.task_fold import TaskFold
from otel_exec.aggregate.timing_collector import say_dropped
from otel_exec.execute.context import leave_if_forked
from otel_exec.execute.envelope import ErrorInfo
from otel_exec.execute.failure import describe
from otel_exec.semconv import Kind, Outcome
from otel_exec.spans.failure import is_cancellation
from otel_exec.spans.phases import TaskScope, enter_scope
from otel_exec.spans.span_record import SpanLink

if TYPE_CHECKING:
    from otel_exec.execute.context import WorkerContext
    from otel_exec.spans.span_record import AttributeValue

__all__ = ["ItemEnvelope", "ItemReport", "record_item", "run_item"]


class ItemEnvelope(msgspec.Struct, frozen=True, array_like=True):
    """One attempt at an item, for whoever runs it.

    `node_id` is the step's; `parent_span_id` the phase or task that called `map_tasks`. `spanned`: it is within the limit of spans a task; else it is only folded.
    `fn` and `item` are packed, empty where the objects are handed over as they are. `file`: the item's bytes lie there, not in `item`.
    """

    node_id: str
    name: str
    template: str
    level: int | None
    index: int
    attempt: int
    parent_span_id: str
    span_id: str
    fn_name: str
    previous_span_id: str = ""
    spanned: bool = True
    code_file: str = ""
    code_line: int = 0
    timeout_s: float | None = None
    fn: bytes = b""
    item: bytes = b""
    file: str = ""


class ItemReport(msgspec.Struct, frozen=True, array_like=True):
    """What an attempt at an item came to. `result` is packed (or lies in `file`), empty where it is handed over as it is. `output`: what it printed on another worker."""

    index: int
    attempt: int
    worker_id: str
    outcome: str
    start_ns: int
    end_ns: int
    sums: TaskSums = msgspec.field(default_factory=TaskSums)
    items: ItemsFold | None = None
    unspanned: int = 0
    error: ErrorInfo | None = None
    result: bytes = b""
    file: str = ""
    output: bytes = b""
    foreign_ids: dict[str, dict[str, dict[str, int]]] = {}
    dropped: int = 0


def run_item(
    context: WorkerContext, envelope: ItemEnvelope, fn: Any, item: Any, *, measure: bool, late_timeout: bool = False
) -> tuple[ItemReport, Any, BaseException | None]:
    """Run one attempt at an item in the calling thread; whoever calls has armed the guard.

    Args:
        context: the worker's.
        envelope: the attempt.
        fn: the function.
        item: its argument.
        measure: whether the meter is free: it is the step's own while the owner runs items of its own.
        late_timeout: nobody can end the attempt from outside, so its timeout is judged when it returns.

    Returns:
        The report, what the function returned, and what it raised: a KeyboardInterrupt that was asked for is the caller's to raise again.
    """
    recorder, clock = context.recorder, context.clock
    worker_attributes = _attributes(context, envelope)
    door = context.door(context, worker_attributes, envelope.node_id)
    if not envelope.spanned:
        door.budget = 0
    name = f"task {envelope.fn_name}"
    table = recorder.open_spans
    start_ns = clock.now_ns()
    slot = -1
    if table is not None:
        numbers = {"item": envelope.index, "attempt": envelope.attempt}
        slot = table.open_span(envelope.span_id, envelope.parent_span_id, Kind.TASK.value, name, envelope.node_id, start_ns, **numbers)
    fold = TaskFold(envelope.span_id, start_ns)
    scope = TaskScope(
        recorder,
        span_id=envelope.span_id,
        node_id=envelope.node_id,
        sink=fold,
        attributes=worker_attributes,
        max_spans=context.settings.max_task_spans if envelope.spanned else 0,
        fan_out=door,
        owner=context.guard,
    )
    if measure:
        context.meter.begin()
    raised: BaseException | None = None
    value = None
    outcome: Outcome = Outcome.SUCCESS
    error: ErrorInfo | None = None
    try:
        with enter_scope(scope):
            value = fn(item)
    except BaseException as caught:
        leave_if_forked(context, caught)
        raised = caught
        if is_cancellation(caught, interrupted=context.guard.interrupted):
            outcome, error = Outcome.CANCELLATION, describe(caught, type_=semconv.ERROR_CANCELLED)
        else:
            outcome, error = Outcome.FAILURE, describe(caught)
    leave_if_forked(context)
    end_ns = clock.now_ns()
    timeout_s = envelope.timeout_s
    if late_timeout and timeout_s is not None and error is None and end_ns - start_ns > timeout_s * 1e9:
        outcome = Outcome.TIMEOUT
        error = ErrorInfo(semconv.ERROR_TIMEOUT, f"its timeout of {timeout_s:g} s passed; it could not be ended before it returned by itself")
    cpu_ns, peak_rss = context.meter.end() if measure else (None, None)
    fold.finish(end_ns)
    say_dropped(fold.dropped)
    sums = fold.sums
    items = door.fold_into(sums, fold.foreign_ids)
    report = ItemReport(
        index=envelope.index,
        attempt=envelope.attempt,
        worker_id=context.worker_id,
        outcome=outcome.value,
        start_ns=start_ns,
        end_ns=end_ns,
        sums=sums,
        items=items,
        unspanned=scope.unspanned + door.unspanned + (0 if envelope.spanned else 1),
        error=error,
        foreign_ids=fold.foreign_ids,
        dropped=scope.dropped + door.dropped,
    )
    if not context.guard.abandoned:  # whoever abandoned it has settled it and made its span
        record_item(context, envelope, report, cpu_ns=cpu_ns, peak_rss=peak_rss)
    if table is not None:
        table.close(slot)
    return report, value, raised


def record_item(context: WorkerContext, envelope: ItemEnvelope, report: ItemReport, *, cpu_ns: int | None = None, peak_rss: int | None = None) -> None:
    """Write an item's task span, unless it is past the limit."""
    if not envelope.spanned:
        return
    recorder, error = context.recorder, report.error
    attributes = {**_attributes(context, envelope), semconv.CODE_FUNCTION: envelope.fn_name, semconv.EXEC_TASK_ID: f"{envelope.node_id}/{envelope.index}"}
    attributes[semconv.EXEC_WORKER_ID] = report.worker_id
    if envelope.code_file:
        attributes[semconv.CODE_FILE] = envelope.code_file
        attributes[semconv.CODE_LINE] = envelope.code_line
    if cpu_ns is not None:
        attributes[semconv.EXEC_CPU_NS] = cpu_ns
    if peak_rss is not None:
        attributes[semconv.EXEC_PEAK_RSS] = peak_rss
    record = recorder.make(
        Kind.TASK,
        f"task {envelope.fn_name}",
        report.start_ns,
        report.end_ns,
        span_id=envelope.span_id,
        parent=envelope.parent_span_id,
        attributes=attributes,
        links=(SpanLink(recorder.trace_id, envelope.previous_span_id, "retry"),) if envelope.previous_span_id else (),
        outcome=report.outcome,
        error_type=error.type if error is not None else None,
        message=error.message if error is not None else "",
    )
    recorder.finish([record])


def _attributes(context: WorkerContext, envelope: ItemEnvelope) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        semconv.NODE_ID: envelope.node_id,
        semconv.NODE_NAME: envelope.name,
        semconv.EXEC_TEMPLATE: envelope.template,
        semconv.EXEC_ATTEMPT: envelope.attempt,
        semconv.EXEC_WORKER_ID: context.worker_id,
    }
    if envelope.level is not None:
        attributes[semconv.EXEC_LEVEL] = envelope.level
    return attributes
