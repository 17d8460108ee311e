"""An attempt on which our own lines failed: the user's code has left the process without descriptors, memory or stack, or has changed what we stand on.

What comes in: the attempt as far as it came, and what was raised. What goes out: a report, as of any other attempt: nobody waits for one that never comes.
What the function came to stands; where that was not known yet, or could not be written down, what was raised is the attempt's error. Our own traceback is for the log.
"""

from __future__ import annotations

import traceback
from contextlib import suppress
from typing import TYPE_CHECKING

from otel_exec.aggregate.folds import TaskSums
from otel_exec.errors import qualified_name
from otel_exec.execute.capture import Captured
from otel_exec.execute.context import leave_if_forked
from otel_exec.execute.envelope import ErrorInfo, TaskReport
from otel_exec.execute.failure import refusal
from otel_exec.semconv import ERROR_CANCELLED, Kind, Outcome

if TYPE_CHECKING:
    from otel_exec.execute.worker import Attempt

__all__ = ["give_up"]


def give_up(attempt: Attempt, error: BaseException) -> TaskReport | None:
    """Settle an attempt that can't go on; returns its report, `None` where it was abandoned. What still works is done: each part by itself, none of them waited for."""
    context, envelope = attempt.context, attempt.envelope
    with suppress(Exception):
        context.guard.disarm()
    leave_if_forked(context, error)
    if context.guard.abandoned:
        with suppress(Exception):
            attempt.leave()
        return None
    cut = refusal(error, qualified_name(type(error)))
    if attempt.error is None and not attempt.said:
        attempt.outcome, attempt.error = Outcome.ERROR.value, cut
        if isinstance(error, KeyboardInterrupt) and context.guard.interrupted:  # it was asked to end, and heard it in our lines
            attempt.outcome, attempt.error = Outcome.CANCELLATION.value, ErrorInfo(ERROR_CANCELLED, "")
    else:
        attempt.warnings.append(("attempt_cut", f"{envelope.node_id}: attempt {envelope.attempt} was cut short after its function had ended: {cut.message}"))
    for part in (context.guard.end, context.after, lambda: context.capture.end(_for_the_log(error)), lambda: _close_spans(attempt)):
        with suppress(Exception):
            part()
    with suppress(Exception):
        if not attempt.files.lease_lost() and (attempt.said or envelope.last_attempt or attempt.outcome == Outcome.CANCELLATION):
            attempt.said or attempt.say_how_it_ended()
            attempt.files.release()
    now = attempt.now()
    try:
        return attempt.report(now, Captured())
    except Exception:
        sums = attempt.fold.sums if attempt.fold is not None else TaskSums()
        return TaskReport(
            envelope.node_id,
            envelope.attempt,
            context.worker_id,
            attempt.outcome,
            attempt.claimed_ns or now,
            now,
            attempt.spans,
            sums,
            error=attempt.error,
            warnings=attempt.warnings,
        )


def _close_spans(attempt: Attempt) -> None:
    """Make and write the spans that are still to come."""
    now = attempt.now()
    attempt.claimed_ns = attempt.claimed_ns or now
    if not attempt.spans:
        attempt.started_ns = attempt.started_ns or now
        attempt.completed_ns = attempt.completed_ns or now
        attempt._task_span()
    if attempt.spans[-1].kind != Kind.STORE:
        begun_ns = max(attempt.verified_ns, attempt.completed_ns)
        parent = attempt.envelope.parent_span_id
        attempt.spans.append(attempt.context.recorder.make(Kind.STORE.value, "store", begun_ns, now, parent=parent, attributes=attempt.attributes))
    attempt._write_spans()


def _for_the_log(error: BaseException) -> bytes:
    return "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace")
