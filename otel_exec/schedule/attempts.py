"""The attempts in hand: envelopes out, notices in, events for the state machine out.

What comes in: `Submit` instructions and the executor's notices. What goes out: envelopes, driver spans, journal lines, and the events that the state is to be told.
It decides nothing: what an attempt's end means is the state's to say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from otel_exec.aggregate.rebuild import fold_task_spans, spans_of_attempt
from otel_exec.aggregate.timing_collector import timing_collector
from otel_exec.execute.base import AttemptLost, Claimed, Outlived, Reported, WorkerDied, WorkerReady, WorkerStarted, WorkerStopped
from otel_exec.execute.envelope import ErrorInfo, TaskEnvelope
from otel_exec.record.run_store import JournalLine
from otel_exec.schedule.events import AttemptClaimed, AttemptEnded, AttemptRecalled, AttemptRefused, StepFoundCached
from otel_exec.schedule.left_behind import how_it_ended, what_is_left
from otel_exec.semconv import ERROR_CANCELLED, ERROR_LEASE_LOST, ERROR_TIMEOUT, ERROR_WORKER_DIED, Kind, Outcome, StatusWord
from otel_exec.spans.spool import read_spool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_exec.aggregate.aggregator import Aggregator
    from otel_exec.clock import Clock
    from otel_exec.execute.base import Executor, Notice, OpenSpan
    from otel_exec.execute.envelope import TaskReport
    from otel_exec.plan.graph import Plan, Step
    from otel_exec.schedule.driver_spans import DriverSpans
    from otel_exec.schedule.events import Event
    from otel_exec.schedule.instructions import Submit
    from otel_exec.schedule.listener import Listener
    from otel_exec.schedule.select import Decision, Earlier, Lookup
    from otel_exec.schedule.status_writer import StatusWriter
    from otel_exec.spans.span_record import SpanRecord

__all__ = ["Attempts", "Kept", "Running", "error_data"]

_NS = 1_000_000_000
# How long the report of an attempt may take whose worker has said how it ended.
_REPORT_NS = 5 * _NS


_WHY_CANCELLED = {
    "timeout": "the run's timeout passed",
    "fail_fast": "another step failed (--fail-fast)",
    "interrupt": "the run was interrupted",
    "terminate": "the run was told to end",
}


def error_data(error: ErrorInfo | None, log: str | None = None) -> dict[str, str | None] | None:
    """Return an error as the journal keeps it."""
    if error is None:
        return None
    return {"type": error.type, "message": error.message, "where": error.where, "traceback": error.traceback or None, "log": log}


@dataclass(slots=True)
class Running:
    """An attempt that was handed over. `worker_id` is "" and `claimed_ns` `None` until a worker took it. `late`: its time is up, and it had ended before."""

    step: Step
    attempt: int
    last_attempt: bool
    span_id: str
    previous_span_id: str = ""
    worker_id: str = ""
    claimed_ns: int | None = None
    interrupted: bool = False
    late: bool = False


@dataclass(slots=True)
class Kept:
    """What is remembered of a step between its attempts.

    `locked`: this run holds its lock, since `locked_ns`. `lost`: an attempt could not speak for itself, so nobody knows what of its step's files it wrote. `task_times`: of an attempt that could not write its own last event. `ended_ns`: when the last failed attempt, `attempt`, did, until the next one is ready.
    `made_by`: of a step that was found cached, the run that made its output. `last_words`: the tail of what the last attempt printed, where it failed.
    """

    locked: bool = False
    locked_ns: int = 0
    error: ErrorInfo | None = None
    previous_span_id: str = ""
    attempt: int = 0
    ended_ns: int | None = None
    made_by: Earlier | None = None
    task_times: tuple[int, int] | None = None
    said_waiting: bool = False
    lost: bool = False
    last_words: str = ""


@dataclass(slots=True)
class Attempts:
    """The attempts of one run. `running` is by (node id, attempt); `kept` by the step's index, from created to settled."""

    plan: Plan
    decisions: Sequence[Decision]
    executor: Executor
    spans: DriverSpans
    aggregator: Aggregator
    status: StatusWriter
    clock: Clock
    listener: Listener
    spool_folder: str
    packed: dict[int, object]
    info_of: Callable[[Step], bytes]
    look_up: Lookup
    write: Callable[[JournalLine], None]
    flush: Callable[[], None]
    set_timer: Callable[[int, int, int], None]
    running: dict[tuple[str, int], Running] = field(default_factory=dict)
    kept: dict[int, Kept] = field(default_factory=dict)
    abandoned: dict[tuple[str, int], Step] = field(default_factory=dict)
    cancelling: str | None = None

    def submit(self, instruction: Submit) -> None:
        """Hand an attempt over."""
        index = instruction.index
        step = self.plan.steps[index]
        kept = self.kept[index]
        spans = self.spans
        span_id = spans.recorder.ids.span_id()
        code = getattr(step.fn, "__code__", None)
        self.running[step.node_id, instruction.attempt] = Running(step, instruction.attempt, instruction.last_attempt, span_id, kept.previous_span_id)
        self.executor.submit(
            TaskEnvelope(
                node_id=step.node_id,
                name=step.name,
                template=step.template,
                fn_name=step.fn_name,
                level=step.level,
                attempt=instruction.attempt,
                last_attempt=instruction.last_attempt,
                locked=kept.locked,
                parent_span_id=spans.step_span_ids[index],
                span_id=span_id,
                created_ns=instruction.created_ns,
                first_created_ns=spans.step_start(index),
                output_path=step.output_path or "",
                info=self.info_of(step),
                timeout_s=step.timeout_s,
                previous_span_id=kept.previous_span_id,
                code_file=code.co_filename if code is not None else "",
                code_line=code.co_firstlineno if code is not None else 0,
                force=self.decisions[index].forced,
                after_loss=kept.lost,
            ),
            self.packed[index],
        )

    def created(self, index: int, at_ns: int) -> None:
        """A step was created: its first attempt is ready."""
        self.kept[index] = Kept()
        if not self.plan.steps[index].group:
            self.spans.attempt_created(index, at_ns)

    def tried_again(self, index: int, at_ns: int) -> None:
        """A timer of the state's has come: where a back-off is over, the next attempt is ready."""
        kept = self.kept.get(index)
        if kept is not None and kept.ended_ns is not None:
            self.spans.backoff(index, kept.attempt, kept.ended_ns, at_ns)
            self.spans.attempt_created(index, at_ns)
            kept.ended_ns = None

    def take(self, notice: Notice) -> Sequence[Event]:
        """Take in a notice; returns what the state is to be told."""
        if isinstance(notice, Reported):
            return self._reported(notice.report)
        if isinstance(notice, Claimed):
            return self._claimed(notice)
        if isinstance(notice, WorkerStarted):
            span_id = self.spans.worker_started(notice.worker_id, notice.at_ns)
            data: dict[str, object] = {"pid": notice.pid, "host": notice.host, "node": notice.node}
            self.write(JournalLine(notice.at_ns, "worker", worker=notice.worker_id, cause="started", span=span_id, data=data))
        elif isinstance(notice, WorkerReady):
            self.spans.worker_ready(notice.worker_id, notice.at_ns)
            self.write(JournalLine(notice.at_ns, "worker", worker=notice.worker_id, cause="ready"))
        elif isinstance(notice, WorkerStopped):
            self.spans.worker_ended(notice.worker_id, notice.at_ns, Outcome.SUCCESS)
            self.write(JournalLine(notice.at_ns, "worker", worker=notice.worker_id, cause="stopped"))
        elif isinstance(notice, WorkerDied):
            return self._worker_died(notice)
        elif isinstance(notice, AttemptLost):
            running = self.running.pop((notice.node_id, notice.attempt), None)
            if running is None:
                return ()
            if notice.error_type == ERROR_CANCELLED and self.cancelling is not None:  # called back, it came later than that was waited for
                return (self._lose(running, (), notice.at_ns, Outcome.CANCELLATION, ERROR_CANCELLED, self._why_cancelled()),)
            return (self._lose(running, (), notice.at_ns, Outcome.ERROR, notice.error_type, notice.reason, blameless=notice.blameless),)
        elif isinstance(notice, Outlived):
            step = self.abandoned.pop((notice.node_id, notice.attempt), None)
            if step is not None:
                self.status.release(step)
        return ()

    def _claimed(self, notice: Claimed) -> Sequence[Event]:
        running = self.running.get((notice.node_id, notice.attempt))
        if running is None or running.claimed_ns is not None:
            return ()
        step = running.step
        running.worker_id = notice.worker_id
        running.claimed_ns = notice.at_ns
        kept = self.kept[step.index]
        if not kept.locked:
            kept.locked, kept.locked_ns = True, notice.at_ns
        self.spans.queue_ended(step.index, notice.attempt, notice.at_ns)
        self.write(JournalLine(notice.at_ns, "claimed", node=notice.node_id, attempt=notice.attempt, worker=notice.worker_id, span=running.span_id))
        if step.timeout_s is not None:
            self.set_timer(notice.at_ns + int(step.timeout_s * _NS), step.index, notice.attempt)
        self.listener.claimed(step, running)
        if self.cancelling is not None:
            self._interrupt(running)
        return (AttemptClaimed(notice.at_ns, step.index, notice.attempt, notice.worker_id),)

    def _reported(self, report: TaskReport) -> Sequence[Event]:
        key = (report.node_id, report.attempt)
        running = self.running.get(key)
        if running is None:
            return ()  # it was settled without waiting for the report: killed, abandoned, lost its lease
        step = running.step
        index = step.index
        kept = self.kept[index]
        for code, message in report.warnings:
            self.aggregator.warn(code, message)
        for code, message, count in report.telemetry:
            self.aggregator.warn(code, message, count)
        if report.found:
            del self.running[key]
            if report.found == "cached":
                self.spans.queue_ended(index, report.attempt, report.settled_ns)
                kept.made_by = self.look_up(step)
                return (StepFoundCached(report.settled_ns, index, report.attempt),)
            self._refused(step, kept, report)
            return (AttemptRefused(report.claimed_ns, index, report.attempt, report.holder),)
        claimed = self._claimed(Claimed(report.node_id, report.attempt, report.worker_id, report.claimed_ns))
        del self.running[key]
        self.aggregator.ingest(report.spans)
        self.aggregator.fold(report.node_id, report.attempt, report.sums, items=report.items)
        timing_collector.add_task(self.aggregator.record.exec_id, report.node_id, report.sums, report.foreign_ids)
        if report.unspanned:
            self.aggregator.unspanned.add(key)
            self.aggregator.warn("phases_without_span", f"{step.name}: phases past the limit of spans a task were only counted", report.unspanned)
        if report.dropped:
            self.aggregator.warn("spans_dropped", f"{step.name}: spans of the code's own past the limit of spans a task were left out", report.dropped)
        # The worker wrote the last event and let the lock go, unless another attempt may follow.
        lock_lost = report.error is not None and report.error.type == ERROR_LEASE_LOST
        kept.locked = not (lock_lost or report.outcome in {Outcome.SUCCESS, Outcome.CANCELLATION} or running.last_attempt)
        kept.last_words = report.log_tail
        error = report.error
        if running.interrupted and report.outcome == Outcome.CANCELLATION:
            error = ErrorInfo(ERROR_CANCELLED, self._why_cancelled(), where=error.where if error is not None else None)
        ended = self._ended(running, report.outcome, error, report.settled_ns, lock_lost=lock_lost, log=report.log_path)
        return (*claimed, ended)

    def _refused(self, step: Step, kept: Kept, report: TaskReport) -> None:
        self.spans.refused(step.index, report.attempt, report.holder, report.claimed_ns)
        if not kept.said_waiting:
            kept.said_waiting = True
            self.status.event(step, self.spans.step_span_ids[step.index], StatusWord.WAITING, f"waiting for {report.holder}")
            self.write(JournalLine(report.claimed_ns, "waiting", node=step.node_id, data={"holder": report.holder}))
            self.listener.waiting(step, report.holder)

    def _ended(
        self,
        running: Running,
        outcome: str,
        error: ErrorInfo | None,
        at_ns: int,
        *,
        blameless: bool = False,
        lock_lost: bool = False,
        log: str | None = None,
    ) -> AttemptEnded:
        step = running.step
        kept = self.kept[step.index]
        kept.error = error
        if running.claimed_ns is not None:  # one that was lost before has no span to link to
            kept.previous_span_id = running.span_id
        kept.attempt = running.attempt
        kept.ended_ns = at_ns if outcome != Outcome.SUCCESS else None
        data = error_data(error, log)
        self.write(JournalLine(at_ns, "ended", node=step.node_id, attempt=running.attempt, worker=running.worker_id or None, outcome=outcome, error=data))
        return AttemptEnded(at_ns, step.index, running.attempt, outcome, blameless, lock_lost)

    # Attempts that can't speak for themselves.

    def _worker_died(self, notice: WorkerDied) -> Sequence[Event]:
        self.spans.worker_ended(notice.worker_id, notice.at_ns, Outcome.ERROR, notice.error_type, notice.reason)
        self.write(JournalLine(notice.at_ns, "worker", worker=notice.worker_id, cause="died", data={"reason": notice.reason, "error_type": notice.error_type}))
        events = []
        for key in notice.attempts:
            running = self.running.pop(key, None)
            if running is not None:
                running.worker_id = running.worker_id or notice.worker_id
                self.kept[running.step.index].last_words = notice.log_tail
                opened = notice.open_spans if running.claimed_ns is not None else ()
                self.flush()
                finished = self._finished(running, opened)
                events.append(
                    self._ended_unreported(running, finished, opened, notice.at_ns)
                    or self._lose(running, opened, notice.at_ns, Outcome.ERROR, notice.error_type, notice.reason, finished=finished, blameless=True)
                )
        return events

    def time_out(self, index: int, attempt: int) -> Sequence[Event]:
        """An attempt's time is up: end it, if it still runs."""
        step = self.plan.steps[index]
        running = self.running.get((step.node_id, attempt))
        if running is None:
            return ()
        if not running.late and self._said(step):  # it ended in time, and its report is on its way
            running.late = True
            self.set_timer(self.clock.now_ns() + _REPORT_NS, index, attempt)
            return ()
        return self._end(running, Outcome.TIMEOUT, ERROR_TIMEOUT, f"took longer than its timeout of {step.timeout_s:g} s")

    def heartbeat(self) -> Sequence[Event]:
        """Renew the locks of all steps in hand; those whose lease is lost are ended."""
        events: list[Event] = []
        for index, kept in list(self.kept.items()):
            step = self.plan.steps[index]
            if kept.locked and not self.status.renew(step, kept.locked_ns):
                kept.locked = False
                if self._said(step):  # its worker let the lock go: the report is on its way
                    continue
                for running in [each for each in self.running.values() if each.step is step]:
                    events += self._end(running, Outcome.ERROR, ERROR_LEASE_LOST, self.status.lost_to(step))
        return events

    def _said(self, step: Step) -> bool:
        """Whether a worker of this run has said how the step ended."""
        return self.status.last_word(step, self.spans.step_span_ids[step.index]) is not None

    def recall(self) -> Sequence[Event]:
        """Take back what no worker claimed."""
        events = []
        for key in self.executor.recall():
            running = self.running.pop(key, None)
            if running is not None:
                events.append(AttemptRecalled(self.clock.now_ns(), running.step.index, key[1]))
        return events

    def interrupt_all(self) -> None:
        """Tell everything that runs to end; what is claimed from now on is told so at once."""
        for running in list(self.running.values()):
            self._interrupt(running)

    def _interrupt(self, running: Running) -> None:
        if not running.interrupted and running.claimed_ns is not None:
            running.interrupted = True
            self.executor.interrupt(running.step.node_id, running.attempt)

    def end_all(self) -> Sequence[Event]:
        """End everything that still runs: the grace has passed."""
        message = self._why_cancelled()
        events: list[Event] = []
        for running in list(self.running.values()):
            events += self._end(running, Outcome.CANCELLATION, ERROR_CANCELLED, message)
        return events

    def _why_cancelled(self) -> str:
        return _WHY_CANCELLED.get(self.cancelling or "", "the run was cancelled")

    def _end(self, running: Running, outcome: str, error_type: str, message: str) -> Sequence[Event]:
        """End a running attempt by force, and settle it."""
        step = running.step
        key = (step.node_id, running.attempt)
        opened = self.executor.open_spans(*key)
        self.kept[step.index].last_words = self.executor.log_tail(*key)
        now_ns = self.clock.now_ns()  # before its worker ends: a task lies within its worker
        self.executor.kill(*key)
        del self.running[key]
        if not self.executor.can_kill and running.claimed_ns is not None:
            self.abandoned[key] = step
            self.aggregator.warn("abandoned", f"{step.name}: the {self.executor.kind} executor can't end an attempt; it was abandoned and may still be running")
        return (self._lose(running, opened, now_ns, outcome, error_type, message),)

    def _finished(self, running: Running, opened: Sequence[OpenSpan]) -> list[SpanRecord]:
        """Return an attempt's spans that have finished. Reads the whole spool: once for a death."""
        if running.claimed_ns is None:
            return []
        above = {entry.span_id: entry.parent_span_id for entry in opened}
        return spans_of_attempt(read_spool(self.spool_folder), running.span_id, running.step.node_id, running.attempt, open_parents=above)

    def _ended_unreported(self, running: Running, finished: Sequence[SpanRecord], opened: Sequence[OpenSpan], at_ns: int) -> AttemptEnded | None:
        """Settle an attempt that had ended when its worker died, though nobody could report it: its files and spans say how. `None` where they don't."""
        step = running.step
        claimed_ns = running.claimed_ns
        if claimed_ns is None:
            return None
        step_span = self.spans.step_span_ids[step.index]
        last = self.status.last_word(step, step_span)
        end = how_it_ended(finished, running, step_span, last)
        if end is None:
            return None
        outcome, error = end
        found, settled_ns = self._fold_what_is_left(running, claimed_ns, finished, opened, at_ns, outcome, error or ErrorInfo(ERROR_WORKER_DIED, ""))
        if last is not None:
            self.kept[step.index].locked = False
            task = next(span for span in found if span.span_id == running.span_id)
            times = (task.start_ns, task.end_ns), (self.spans.step_start(step.index), settled_ns)
            self.status.info(step, step_span, self.info_of(step), *times)
            self.status.release(step)
        return self._ended(running, outcome, error, settled_ns)

    def _lose(
        self,
        running: Running,
        opened: Sequence[OpenSpan],
        at_ns: int,
        outcome: str,
        error_type: str,
        message: str,
        *,
        finished: Sequence[SpanRecord] | None = None,
        blameless: bool = False,
    ) -> AttemptEnded:
        """Close what an attempt left open, fold what it had finished, and say that it ended."""
        step = running.step
        kept = self.kept[step.index]
        kept.lost = True
        self.spans.queue_ended(step.index, running.attempt, at_ns)
        self.flush()
        error = ErrorInfo(error_type, message)
        if running.claimed_ns is not None:
            finished = self._finished(running, opened) if finished is None else finished
            found, at_ns = self._fold_what_is_left(running, running.claimed_ns, finished, opened, at_ns, outcome, error)
            kept.task_times = next((span.start_ns, span.end_ns) for span in found if span.span_id == running.span_id)
        return self._ended(running, outcome, error, at_ns, blameless=blameless, lock_lost=running.claimed_ns is not None and not kept.locked)

    def _fold_what_is_left(
        self, running: Running, claimed_ns: int, finished: Sequence[SpanRecord], opened: Sequence[OpenSpan], at_ns: int, outcome: str, error: ErrorInfo
    ) -> tuple[list[SpanRecord], int]:
        """Take in the spans of an attempt that can't speak for itself; returns them, and when the attempt ended: where it was stored, its worker died after that."""
        found = what_is_left(self.spans, finished, running, claimed_ns, opened, at_ns, outcome, error)
        self.aggregator.ingest([span for span in found if span.kind != Kind.PHASE])
        fold_task_spans(self.aggregator, found)
        self.flush()
        step_span = self.spans.step_span_ids[running.step.index]
        return found, max(span.end_ns for span in found if span.parent_span_id == step_span)
