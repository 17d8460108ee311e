"""One attempt at a step, from its lock to its report: what every executor's workers do.

What comes in: a `TaskEnvelope` and what a worker has (`WorkerContext`). What goes out: a `TaskReport`, the step's files, and the attempt's spans in the spool.
One pass, one set of instants: created <= claimed <= started <= completed <= settled. The report, the files and the spans show the same integer nanoseconds.
Telemetry never changes the outcome; nothing that the user's function does (short of ending the process) ends the worker.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from otel_exec import semconv
from otel_exec.aggregate.folds import TaskSums
from otel_exec.aggregate.task_fold import TaskFold
from otel_exec.aggregate.timing_collector import say_dropped
from otel_exec.errors import RecordError
from otel_exec.execute import verify
from otel_exec.execute.attempt_files import AttemptFiles
from otel_exec.execute.capture import use_capture
from otel_exec.execute.context import leave_if_forked
from otel_exec.execute.envelope import ErrorInfo, TaskReport
from otel_exec.execute.failure import describe, refusal
from otel_exec.execute.giving_up import give_up
from otel_exec.execute.packing import unpack
from otel_exec.known_secrets import any_known, doubt, hide_known
from otel_exec.semconv import Kind, Outcome
from otel_exec.spans.failure import is_cancellation
from otel_exec.spans.phases import TaskScope, enter_scope
from otel_exec.spans.span_record import SpanLink, SpanRecord

if TYPE_CHECKING:
    from otel_exec.execute.capture import Captured
    from otel_exec.execute.context import Call, WorkerContext
    from otel_exec.execute.door import Door
    from otel_exec.execute.envelope import TaskEnvelope
    from otel_exec.spans.span_record import AttributeValue

__all__ = ["Attempt", "run_attempt"]

# Plain strings: enum members cost a microsecond where they are turned into text.
_LOAD, _TASK, _VERIFY, _STORE = Kind.LOAD.value, Kind.TASK.value, Kind.VERIFY.value, Kind.STORE.value
_SUCCESS = Outcome.SUCCESS.value


def run_attempt(context: WorkerContext, envelope: TaskEnvelope, *, call: bytes = b"", direct: Call | None = None, sequence: int = 0) -> TaskReport | None:
    """Run one attempt at a step.

    Args:
        context: the worker's.
        envelope: the attempt.
        call: the packed call, between processes.
        direct: the call itself, among threads.
        sequence: the attempt's number in the executor, by which it may be interrupted.

    Returns:
        The report; `None` when the attempt was abandoned meanwhile: then nothing of it is written but its lock's release.
    """
    attempt = Attempt(context, envelope, call, direct, sequence)
    try:
        return attempt.run()
    except BaseException as error:  # of our own lines, in a process that the user's code has left without descriptors, memory or stack
        return give_up(attempt, error)


class Attempt:
    """The state of one attempt while it runs. `said`: its last event stands in the status file."""

    def __init__(self, context: WorkerContext, envelope: TaskEnvelope, call: bytes, direct: Call | None, sequence: int) -> None:
        self.context = context
        self.envelope = envelope
        self.packed = call
        self.call = direct
        self.sequence = sequence
        self.now = context.clock.now_ns
        self.outcome: str = _SUCCESS
        self.said = False
        self.error: ErrorInfo | None = None
        self.spans: list[SpanRecord] = []
        self.warnings: list[tuple[str, str]] = []
        self.files = AttemptFiles(context, envelope, self.warnings)
        self.claimed_ns = self.started_ns = self.completed_ns = self.verified_ns = 0
        self.cpu_ns: int | None = None
        self.peak_rss: int | None = None
        self.fold: TaskFold | None = None
        self.scope: TaskScope | None = None
        self.door: Door | None = None
        self.attributes: dict[str, AttributeValue] = {
            semconv.NODE_ID: envelope.node_id,
            semconv.NODE_NAME: envelope.name,
            semconv.EXEC_TEMPLATE: envelope.template,
            semconv.EXEC_ATTEMPT: envelope.attempt,
            semconv.EXEC_WORKER_ID: context.worker_id,
        }
        if envelope.level is not None:
            self.attributes[semconv.EXEC_LEVEL] = envelope.level

    def run(self) -> TaskReport | None:
        """Carry it through."""
        context, envelope = self.context, self.envelope
        try:
            refused = self._take_lock()
        except (RecordError, OSError) as error:
            refused = None
            self._refuse(error)
        if refused is not None:
            return refused
        self.claimed_ns = self.now()
        context.guard.begin(self.sequence)
        context.claimed(envelope, self.sequence, self.claimed_ns)
        context.capture.begin(envelope.output_path, envelope.attempt)
        with use_capture(context.capture):
            if self.error is None:
                self._prepare()
            if self.error is None:
                self._load()
            self._execute()
            if not context.guard.abandoned and self.error is None and self.call is not None and self.call[3] is not None:
                self._verify()
            if context.guard.abandoned:
                self.leave()
                return None
        context.guard.end()
        return self._store()

    # --- before the function ----------------------------------------------------------------------------------------------------------------------

    def _take_lock(self) -> TaskReport | None:
        """Take the step's lock; returns a report when the step is not to be run."""
        files = self.files
        holder = files.take_lock()
        if holder:
            return self._refused("locked", holder=holder)
        if not files.succeeded_meanwhile:
            return None
        files.release()
        return self._refused("cached")

    def _refused(self, found: str, *, holder: str = "") -> TaskReport:
        now = self.now()
        return TaskReport(
            node_id=self.envelope.node_id,
            attempt=self.envelope.attempt,
            worker_id=self.context.worker_id,
            outcome=Outcome.SUCCESS.value if found == "cached" else Outcome.SKIP.value,
            claimed_ns=now,
            settled_ns=now,
            spans=[],
            sums=TaskSums(),
            found=found,
            holder=holder,
            warnings=self.warnings,
        )

    def _prepare(self) -> None:
        """Say RUNNING."""
        try:
            self.files.begin()
        except (RecordError, OSError) as error:
            self._refuse(error)

    def _load(self) -> None:
        """Unpickle the call and import what it needs."""
        guard = self.context.guard
        if self.call is not None:
            return
        try:
            try:
                guard.arm()
                self.call = unpack(self.packed)
            finally:
                guard.disarm()
        except BaseException as error:
            guard.disarm()
            leave_if_forked(self.context, error)
            self._judge(error)

    # --- the function -----------------------------------------------------------------------------------------------------------------------------

    def _execute(self) -> None:
        """Call the function, with the task span current."""
        context, envelope = self.context, self.envelope
        if self.error is not None or self.call is None:
            self.started_ns = self.completed_ns = self.now()
            self._task_span()
            return
        fn, config, style, _ = self.call
        self.door = context.door(context, self.attributes, envelope.node_id)
        slot = self._list(_TASK, self._task_name(), envelope.span_id)
        if context.carrier:
            os.environ["TRACEPARENT"] = self._traceparent(envelope.span_id)
        doubt()
        context.meter.begin()
        self.started_ns = self.now()
        self.fold = TaskFold(envelope.span_id, self.started_ns)
        self.scope = TaskScope(
            context.recorder,
            span_id=envelope.span_id,
            node_id=envelope.node_id,
            sink=self.fold,
            attributes=self.attributes,
            max_spans=context.settings.max_task_spans,
            fan_out=self.door,
            owner=context.guard,
        )
        guard, now = context.guard, self.now
        try:
            with enter_scope(self.scope):
                try:
                    guard.arm()
                    if style == "kwargs":
                        fn(**config)
                    else:
                        fn(config)
                finally:
                    self.completed_ns = now()
                    guard.disarm()
        except BaseException as error:
            guard.disarm()
            leave_if_forked(context, error)
            self._judge(error)
            del error
        leave_if_forked(context)
        if not self.completed_ns:  # interrupted on its very first step
            self.completed_ns = now()
        self.cpu_ns, self.peak_rss = context.meter.end()
        timeout_s = envelope.timeout_s
        if context.late_timeouts and timeout_s is not None and self.error is None and self.completed_ns - self.claimed_ns > timeout_s * 1e9:
            self.outcome = Outcome.TIMEOUT.value
            self.error = ErrorInfo(
                type=semconv.ERROR_TIMEOUT, message=f"its timeout of {timeout_s:g} s passed; it could not be ended before it returned by itself"
            )
        self._task_span()
        if not guard.abandoned:  # whoever abandoned it has written its span
            self._write_spans()  # before anything else: what follows may take a while, and the process be killed in it
        if context.recorder.open_spans is not None:
            context.recorder.open_spans.close(slot)

    def _task_name(self) -> str:
        return f"task {self.envelope.fn_name}"

    def _traceparent(self, span_id: str) -> str:
        recorder = self.context.recorder
        return f"00-{recorder.trace_id}-{span_id}-0{1 if self.context.settings.sampled else 0}"

    def _list(self, kind: str, name: str, span_id: str) -> int:
        """List a span of the attempt as open."""
        table = self.context.recorder.open_spans
        if table is None:
            return -1
        return table.open_span(span_id, self.envelope.parent_span_id, kind, name, self.envelope.node_id, self.now())

    def _task_span(self) -> None:
        envelope, make = self.envelope, self.context.recorder.make
        self.spans.append(make(_LOAD, "load", self.claimed_ns, self.started_ns, parent=envelope.parent_span_id, attributes=self.attributes))
        attributes: dict[str, AttributeValue] = {
            **self.attributes,
            semconv.EXEC_TASK_ID: envelope.node_id,
            semconv.CODE_FUNCTION: envelope.fn_name,
        }
        if envelope.code_file:
            attributes[semconv.CODE_FILE] = envelope.code_file
            attributes[semconv.CODE_LINE] = envelope.code_line
        if self.cpu_ns is not None:
            attributes[semconv.EXEC_CPU_NS] = self.cpu_ns
        if self.peak_rss is not None:
            attributes[semconv.EXEC_PEAK_RSS] = self.peak_rss
        error = self.error
        self.spans.append(
            make(
                _TASK,
                self._task_name(),
                self.started_ns,
                self.completed_ns,
                span_id=envelope.span_id,
                parent=envelope.parent_span_id,
                attributes=attributes,
                links=(SpanLink(self.context.recorder.trace_id, envelope.previous_span_id, "retry"),) if envelope.previous_span_id else (),
                outcome=self.outcome,
                error_type=error.type if error is not None else None,
                message=(error.message or "interrupted") if error is not None else "",
            )
        )

    # --- after the function -----------------------------------------------------------------------------------------------------------------------

    def _verify(self) -> None:
        context, envelope = self.context, self.envelope
        assert self.call is not None
        span_id = context.recorder.ids.span_id()
        slot = self._list(_VERIFY, "verify", span_id)
        guard = context.guard
        feed = context.capture.feed if context.capture.pipes or any_known() else None
        environ = {**os.environ, "TRACEPARENT": self._traceparent(span_id)}
        try:
            try:
                guard.arm()
                verify.check(self.call[3], self.call[1], envelope.output_path, environ=environ, feed=feed)
            finally:
                guard.disarm()
        except verify.NotVerified as error:
            leave_if_forked(context)
            self.outcome = (Outcome.CANCELLATION if guard.interrupted else Outcome.FAILURE).value
            self.error = ErrorInfo(type=verify.NotVerified.error_type, message=hide_known(str(error)))
        except BaseException as error:
            guard.disarm()
            leave_if_forked(context, error)
            self._judge(error)
        leave_if_forked(context)
        self.verified_ns = self.now()
        self.spans.append(
            context.recorder.make(
                _VERIFY,
                "verify",
                self.completed_ns,
                self.verified_ns,
                span_id=span_id,
                parent=envelope.parent_span_id,
                attributes=self.attributes,
                outcome=self.outcome,
                error_type=self.error.type if self.error is not None else None,
                message=(self.error.message or "interrupted") if self.error is not None else "",
            )
        )
        if not guard.abandoned:
            self._write_spans()
        if context.recorder.open_spans is not None:
            context.recorder.open_spans.close(slot)

    def _store(self) -> TaskReport:
        """Write the step's files, the spans and the report: all with the same numbers."""
        context, envelope = self.context, self.envelope
        context.after()
        caught = context.capture.end(self._last_words())
        if caught.error is not None:
            self.warnings.append(("log_not_written", f"{envelope.node_id}: {caught.error}"))
        final = self.error is None or envelope.last_attempt or self.outcome == Outcome.CANCELLATION
        if lost := self.files.lease_lost():  # the folder is another run's
            self.outcome, self.error, final = Outcome.ERROR.value, ErrorInfo(semconv.ERROR_LEASE_LOST, self._and_error(lost)), False
        if final:
            final = self.say_how_it_ended() or envelope.last_attempt
        settled_ns = self.now()
        begun_ns = self.verified_ns or self.completed_ns
        self.spans.append(context.recorder.make(_STORE, "store", begun_ns, settled_ns, parent=envelope.parent_span_id, attributes=self.attributes))
        if final:
            self.files.write_info(self.started_ns, self.completed_ns, settled_ns)
            self.files.release()
        self._write_spans()
        return self.report(settled_ns, caught)

    def report(self, settled_ns: int, caught: Captured) -> TaskReport:
        """Return what the attempt came to."""
        envelope, context = self.envelope, self.context
        fold, door, scope = self.fold, self.door, self.scope
        sums = TaskSums()
        foreign_ids: dict[str, dict[str, dict[str, int]]] = {}
        if fold is not None:
            fold.finish(self.completed_ns)
            sums, foreign_ids = fold.sums, fold.foreign_ids
            say_dropped(fold.dropped)
        items = None
        unspanned, dropped = (scope.unspanned, scope.dropped) if scope is not None else (0, 0)
        if door is not None:
            items = door.fold_into(sums, foreign_ids)
            unspanned += door.unspanned
            dropped += door.dropped
        return TaskReport(
            node_id=envelope.node_id,
            attempt=envelope.attempt,
            worker_id=context.worker_id,
            outcome=self.outcome,
            claimed_ns=self.claimed_ns,
            settled_ns=settled_ns,
            spans=self.spans,
            sums=sums,
            items=items,
            error=self.error,
            log_tail=caught.tail if self.error is not None else "",
            log_path=caught.log_path,
            unspanned=unspanned,
            warnings=self.warnings,
            telemetry=context.recorder.take_warnings(),
            foreign_ids=foreign_ids,
            dropped=dropped,
        )

    def _last_words(self) -> bytes:
        """Return what stands at the end of the log of an attempt that failed: the user's own traceback, or the error where there is none."""
        error = self.error
        if error is None or self.outcome not in {Outcome.FAILURE, Outcome.TIMEOUT}:
            return b""
        return (error.traceback or f"{error.type}: {error.message}\n").encode("utf-8", "backslashreplace")

    def _and_error(self, lost: str) -> str:
        """Return why the lease counts, and with what the attempt had ended before that was known."""
        error = self.error
        return lost if error is None else f"{lost} (it had ended in {error.type}: {error.message})"

    def say_how_it_ended(self) -> bool:
        """Append the last event; returns whether it stands. Where it can't be written, a success becomes an `error`."""
        try:
            self.files.end(self.outcome, self.error, self.now(), self.started_ns, self.completed_ns)
        except (RecordError, OSError) as error:
            if self.error is None:
                self._refuse(error)
            else:
                self.warnings.append(("status_not_written", str(error)))
            return False
        self.said = True
        return True

    def _write_spans(self) -> None:
        """Write the spans that were not written yet."""
        recorder = self.context.recorder
        recorder.finish(self.spans[self._written :])
        self._written = len(self.spans)

    _written = 0

    def leave(self) -> None:
        """The attempt was abandoned and has ended after all: whoever abandoned it has settled it."""
        self.context.guard.end()
        self.context.after()
        self.context.capture.end()
        self.files.release()

    # --- outcomes ---------------------------------------------------------------------------------------------------------------------------------

    def _judge(self, error: BaseException) -> None:
        """Settle the outcome by an exception of the user's code."""
        interrupted = self.context.guard.interrupted
        if is_cancellation(error, interrupted=interrupted):
            # Why it was interrupted is not known here: the runner says it.
            message = "" if interrupted else "cancelled by its own code"
            self._fail(error, Outcome.CANCELLATION, type_=semconv.ERROR_CANCELLED, message=message)
        else:
            self._fail(error, Outcome.FAILURE)

    def _refuse(self, error: BaseException) -> None:
        self.outcome, self.error = Outcome.ERROR.value, refusal(error, semconv.ERROR_DISK)

    def _fail(self, error: BaseException, outcome: Outcome, *, type_: str | None = None, message: str | None = None) -> None:
        self.outcome = outcome.value
        self.error = describe(error, type_=type_, message=message)
