"""What is left of an attempt that can't speak for itself: its worker died, or it was ended by force.

What comes in: the attempt, its finished spans, what was open in its worker, the last word of its step's status file. What goes out: how it had ended, if it had,
and all of its spans, the open ones closed. Reads no files, folds nothing; spans that nobody else can make are made by the driver's spans.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_exec.execute.base import OpenSpan
from otel_exec.execute.envelope import ErrorInfo
from otel_exec.record.step_files import error_said
from otel_exec.semconv import ERROR_WORKER_DIED, EXEC_ATTEMPT, EXEC_OUTCOME, OUTCOME_OF_STATUS, Kind, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from otel_exec.record.step_files import StatusEvent
    from otel_exec.schedule.attempts import Running
    from otel_exec.schedule.driver_spans import DriverSpans
    from otel_exec.spans.span_record import SpanRecord

__all__ = ["how_it_ended", "what_is_left"]


def how_it_ended(spans: Iterable[SpanRecord], running: Running, step_span_id: str, last: StatusEvent | None) -> tuple[str, ErrorInfo | None] | None:
    """Return the outcome and the error of an attempt that had ended before anybody could report it, `None` where it had not, or nobody can tell.

    Args:
        spans: the attempt's, those that have finished.
        running: the attempt.
        step_span_id: its step's span.
        last: the event with which its worker said how the step ended, if it could.
    """
    parts = [span for span in spans if span.parent_span_id == step_span_id and span.attributes.get(EXEC_ATTEMPT) == running.attempt]
    task = next((span for span in parts if span.span_id == running.span_id), None)
    if task is None or (last is None and not any(span.kind == Kind.STORE for span in parts)):
        return None  # where its spans did not come home, the next attempt finds the word itself
    judged = next((span for span in parts if span.kind == Kind.VERIFY), task)
    outcome = OUTCOME_OF_STATUS[last.status] if last is not None else str(judged.attributes.get(EXEC_OUTCOME))
    if outcome == Outcome.SUCCESS:
        return (outcome, None) if last is not None else None  # one that could not be written down is none
    error_type, message = error_said(last.message if last is not None else None)
    return outcome, ErrorInfo(str(judged.attributes.get("error.type", error_type or ERROR_WORKER_DIED)), judged.status_message or message)


def what_is_left(
    made: DriverSpans,
    finished: Iterable[SpanRecord],
    running: Running,
    claimed_ns: int,
    opened: Sequence[OpenSpan],
    at_ns: int,
    outcome: str,
    error: ErrorInfo,
) -> list[SpanRecord]:
    """Return the spans of an attempt that was claimed: those that had finished, and the open ones, closed. Its parts follow each other without a gap.

    Args:
        made: makes the spans that nobody else can.
        finished: the attempt's, those that have finished.
        running: the attempt.
        claimed_ns: when a worker took it.
        opened: what was open in its worker.
        at_ns: when that ended.
        outcome: of what was open.
        error: of what was open.
    """
    step, number = running.step, running.attempt
    found = list(finished)
    at_ns = max([at_ns, *(span.end_ns for span in found)])
    known = {span.span_id for span in found}
    task_ns = next((span.end_ns for span in found if span.span_id == running.span_id), None)
    last_ns = max((span.end_ns for span in found if span.kind in {Kind.TASK, Kind.VERIFY}), default=0)
    verifying = False
    for entry in opened:
        if entry.span_id in known:
            continue
        verifying = verifying or entry.kind == Kind.VERIFY
        start_ns = task_ns if entry.kind == Kind.VERIFY and task_ns is not None else entry.start_ns
        found.append(made.lost(running, entry, start_ns, at_ns, outcome, error.type, error.message))
    if not any(span.span_id == running.span_id for span in found):  # its function was never called: a task of no length, as a worker makes it then
        entry = OpenSpan(running.span_id, made.step_span_ids[step.index], Kind.TASK, f"task {step.fn_name}", step.node_id, at_ns)
        found.append(made.lost(running, entry, at_ns, at_ns, outcome, error.type, error.message))
    if not any(span.kind == Kind.LOAD for span in found):
        started_ns = next(span.start_ns for span in found if span.span_id == running.span_id)
        found.append(made.on_worker(step.index, Kind.LOAD, number, running.worker_id, claimed_ns, started_ns))
    if task_ns is not None and not verifying and not any(span.kind == Kind.STORE for span in found):
        found.append(made.on_worker(step.index, Kind.STORE, number, running.worker_id, max(task_ns, last_ns), at_ns))
    return found
