"""The runner: obeys the state machine's instructions and tells it what happened.

What comes in: instructions, notices from the executor, signals. What goes out: driver spans, journal lines, and work for the executor.
It decides nothing about order or outcome (that is `state`), prints nothing (that is the listener) and knows no executor by name.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_exec.errors import RecordError
from otel_exec.execute.base import Beat, Output, Warned, WorkerDied, WorkerStopped
from otel_exec.execute.envelope import ErrorInfo
from otel_exec.record import locks
from otel_exec.record.run_store import JournalLine
from otel_exec.schedule.attempts import Attempts, Kept, error_data
from otel_exec.schedule.events import CancelRequested, Event, GatesEnded, RunBegan, TimerFired
from otel_exec.schedule.gates import GateRound
from otel_exec.schedule.instructions import (
    CloseLevel,
    EndRun,
    Instruction,
    InterruptRunning,
    OpenLevel,
    RecallAll,
    RunGates,
    SetTimer,
    SettleStep,
    StartStep,
    Submit,
)
from otel_exec.schedule.select import Earlier
from otel_exec.schedule.status_writer import StatusWriter
from otel_exec.semconv import ERROR_CANCELLED, ERROR_PREVIOUSLY, STATUS_OF_OUTCOME, Outcome, StatusWord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from otel_exec.aggregate.aggregator import Aggregator
    from otel_exec.clock import Clock
    from otel_exec.execute.base import Executor, Notice, OpenSpan, RunSettings
    from otel_exec.plan.graph import Plan, Step
    from otel_exec.record.run_store import RunStore
    from otel_exec.schedule.driver_spans import DriverSpans
    from otel_exec.schedule.gates import Gate
    from otel_exec.schedule.listener import Listener
    from otel_exec.schedule.select import Decision, Lookup
    from otel_exec.schedule.state import RunState
    from otel_exec.spans.recorder import Recorder

__all__ = ["Runner", "RunnerParts"]

_NS = 1_000_000_000
_FAILED = frozenset({Outcome.FAILURE, Outcome.TIMEOUT, Outcome.ERROR})


@dataclass(frozen=True, slots=True)
class RunnerParts:
    """Everything that a runner obeys with; made by `launch`."""

    plan: Plan
    decisions: Sequence[Decision]
    state: RunState
    executor: Executor
    settings: RunSettings
    spans: DriverSpans
    recorder: Recorder
    aggregator: Aggregator
    store: RunStore
    clock: Clock
    listener: Listener
    spool_folder: str
    info_of: Callable[[Step], bytes]
    look_up: Lookup
    packed: dict[int, object]
    keep: Callable[[Runner], None]
    gates: Sequence[Gate] = ()
    grace_s: float = 10.0
    timeout_s: float | None = None


class Runner:
    """Runs one plan to its end.

    `levels_ended` counts those that have closed. `attempts` holds what is in hand, `beats` what each worker last said was open in it, at `beat_ns` (it says so while it has work), `errors` each failed step's last error by its index, in the order in which
    they settled, `last_words` the tail of what it had printed.
    """

    def __init__(self, parts: RunnerParts) -> None:
        self.parts = parts
        self.plan = parts.plan
        self.beats: dict[str, tuple[OpenSpan, ...]] = {}
        self.beat_ns: dict[str, int] = {}
        self.errors: dict[int, ErrorInfo] = {}
        self.last_words: dict[int, str] = {}
        self.status = StatusWriter(parts.settings, parts.clock, parts.aggregator)
        self.attempts = Attempts(
            plan=parts.plan,
            decisions=parts.decisions,
            executor=parts.executor,
            spans=parts.spans,
            aggregator=parts.aggregator,
            status=self.status,
            clock=parts.clock,
            listener=parts.listener,
            spool_folder=parts.spool_folder,
            packed=parts.packed,
            info_of=parts.info_of,
            look_up=parts.look_up,
            write=self._write,
            flush=self._flush,
            set_timer=lambda at_ns, index, attempt: self._timer(at_ns, "attempt", index, attempt),
        )
        self._index = {step.node_id: step.index for step in parts.plan.steps}
        self._timers: list[tuple[int, int, str, int, int]] = []
        self._sequence = itertools.count()
        self._journal: list[JournalLine] = []
        self.levels_ended = 0
        self._failed_levels: set[int] = set()
        self._gate_round: GateRound | None = None
        self._cancel_asked: str | None = None
        self._at_once = False
        self._ended: EndRun | None = None

    def run(self) -> str:
        """Run the plan; returns the run's outcome. Interrupts arrive through `cancel`."""
        parts = self.parts
        start_ns = parts.spans.start_ns
        self._write(self._began(start_ns))
        self._tell([RunBegan(start_ns)])
        self._timer(start_ns + int(locks.HEARTBEAT_S * _NS), "locks")
        if parts.timeout_s is not None:
            self._timer(start_ns + int(parts.timeout_s * _NS), "run")
        self._flush()
        while self._ended is None:
            notices = parts.executor.poll(self._poll_timeout())
            self._cancel()  # before the notices: an attempt that a signal ended was cancelled with the run, not by itself
            for notice in notices:
                self._take(notice)
            if self._at_once and self._ended is None:
                self._end_all()
            self._fire()
            if self._gate_round is not None and self._gate_round.ended:
                self._gates_ended(self._gate_round)
            self._flush()
            parts.keep(self)
            parts.listener.tick(self, parts.clock.now_ns())
        return self._ended.outcome

    def _began(self, at_ns: int) -> JournalLine:
        """Return the journal's first line: what whoever closes this run's spans, should we be killed, can't know from elsewhere."""
        parts = self.parts
        data = {"resource": dict(parts.settings.resource), "sampled": parts.settings.sampled}
        if parts.spans.parent_span_id:
            data["parent"] = parts.spans.parent_span_id
        if parts.settings.trace_state:
            data["trace_state"] = parts.settings.trace_state
        return JournalLine(at_ns, "began", span=parts.settings.run_span_id, data=data)

    def cancel(self, reason: str) -> None:
        """Ask the run to end (`interrupt`, `terminate` or `timeout`); safe in a signal handler. A second call ends what runs at once."""
        if self._cancel_asked is None and self.attempts.cancelling is None:
            self._cancel_asked = reason
        else:
            self._at_once = True
        self.parts.executor.wake()

    def close(self) -> None:
        """Stop the workers; what they say last is taken in."""
        for notice in self.parts.executor.stop(0.0 if self._at_once else self.parts.grace_s):
            self._take(notice)
        self._flush()

    @property
    def gate(self) -> tuple[str, int] | None:
        """The gate that runs now and since when, nanoseconds since the Unix epoch."""
        return None if self._gate_round is None else self._gate_round.running

    # Events.

    def _tell(self, events: Iterable[Event]) -> None:
        """Tell the state what happened and obey what follows; obeying may itself make events, told in turn."""
        queue = deque(events)
        while queue:
            for instruction in self.parts.state.handle(queue.popleft()):
                queue.extend(self._obey(instruction))

    def _take(self, notice: Notice) -> None:
        if isinstance(notice, Beat):
            self.beats[notice.worker_id] = notice.open_spans
            self.beat_ns[notice.worker_id] = notice.at_ns
        elif isinstance(notice, Warned):
            step_name = self.plan.steps[self._index[notice.node_id]].name if notice.node_id else ""
            self.parts.aggregator.warn(notice.code, f"{step_name}: {notice.message}" if step_name else notice.message, notice.count)
            self.parts.listener.warned(step_name, notice.message)
        elif isinstance(notice, Output):
            self.parts.listener.output(self.plan.steps[self._index[notice.node_id]].name, notice.text)
        else:
            if isinstance(notice, (WorkerStopped, WorkerDied)):
                self.beats.pop(notice.worker_id, None)
            events = self.attempts.take(notice)
            if self._ended is None:
                self._tell(events)

    def _cancel(self) -> None:
        if self._cancel_asked is not None and self.attempts.cancelling is None:
            self.attempts.cancelling = self._cancel_asked
            now_ns = self.parts.clock.now_ns()
            self._write(JournalLine(now_ns, "cancel", cause=self._cancel_asked))
            if self._gate_round is not None:
                self._gate_round.stop()
            self._tell([CancelRequested(now_ns, self._cancel_asked)])

    def _end_all(self) -> None:
        """End at once what still runs: attempts and gates."""
        if self._gate_round is not None:
            self._gate_round.stop(kill=True)
        for notice in self.parts.executor.poll(0.0):  # what has ended by itself meanwhile, as while attempts were called back, is not ended by us
            self._take(notice)
        self._tell(self.attempts.end_all())

    def _gates_ended(self, gate_round: GateRound) -> None:
        self._gate_round = None
        for result in gate_round.results:
            span_id = self.parts.spans.gate(result)
            self._write(JournalLine(result.end_ns, "gate", outcome=result.outcome, span=span_id, data={"output": result.output or None}))
        if self._ended is None:
            self._tell([GatesEnded(self.parts.clock.now_ns(), gate_round.level, gate_round.passed)])

    # Timers.

    def _timer(self, at_ns: int, why: str, index: int = -1, attempt: int = 0) -> None:
        heapq.heappush(self._timers, (at_ns, next(self._sequence), why, index, attempt))

    def _poll_timeout(self) -> float:
        """Return seconds until the next timer, a second at most: then progress is shown and status written."""
        if self._cancel_asked is not None and self.attempts.cancelling is None:
            return 0.0
        if not self._timers:
            return 1.0
        return min(1.0, max(0.0, (self._timers[0][0] - self.parts.clock.now_ns()) / _NS))

    def _fire(self) -> None:
        timers = self._timers
        now_ns = self.parts.clock.now_ns()
        while timers and timers[0][0] <= now_ns and self._ended is None:
            _, _, why, index, attempt = heapq.heappop(timers)
            if why == "state":
                self.attempts.tried_again(index, now_ns)
                self._tell([TimerFired(now_ns, index)])
            elif why == "attempt":
                self._tell(self.attempts.time_out(index, attempt))
            elif why == "grace":
                self._end_all()
            elif why == "locks":
                self._timer(now_ns + int(locks.HEARTBEAT_S * _NS), "locks")
                self._tell(self.attempts.heartbeat())
            elif self._cancel_asked is None:
                self._cancel_asked = "timeout"
                self._cancel()

    # Instructions.

    def _obey(self, instruction: Instruction) -> Sequence[Event]:
        """Do what the state says; returns what happened by doing so."""
        parts = self.parts
        if isinstance(instruction, Submit):
            self.attempts.submit(instruction)
        elif isinstance(instruction, SettleStep):
            self._settle(instruction)
        elif isinstance(instruction, StartStep):
            index = instruction.index
            parts.spans.open_step(index, instruction.at_ns)
            self.attempts.created(index, instruction.at_ns)
            self._write(JournalLine(instruction.at_ns, "created", node=self.plan.steps[index].node_id, span=parts.spans.step_span_ids[index]))
        elif isinstance(instruction, OpenLevel):
            span_id = parts.spans.open_level(instruction.level, instruction.at_ns)
            self._write(JournalLine(instruction.at_ns, "level", span=span_id, data={"level": instruction.level}))
        elif isinstance(instruction, CloseLevel):
            outcome = Outcome.FAILURE if instruction.level in self._failed_levels else Outcome.SUCCESS
            parts.spans.close_level(instruction.level, instruction.start_ns, instruction.at_ns, outcome)
            self.levels_ended += 1
        elif isinstance(instruction, SetTimer):
            if instruction.why == "backoff":
                kept = self.attempts.kept[instruction.index]
                record = parts.aggregator.steps[self.plan.steps[instruction.index].node_id]
                delay_ns = instruction.at_ns - (kept.ended_ns or instruction.at_ns)
                parts.listener.retry(self.plan.steps[instruction.index], len(record.attempts), delay_ns, kept.error)
            self._timer(instruction.at_ns, "state", instruction.index)
        elif isinstance(instruction, RunGates):
            self._gate_round = GateRound(parts.gates, instruction.level, parts.clock, parts.executor.wake)
        elif isinstance(instruction, RecallAll):
            return self.attempts.recall()
        elif isinstance(instruction, InterruptRunning):
            self.attempts.cancelling = self.attempts.cancelling or "fail_fast"
            self.attempts.interrupt_all()
            self._timer(parts.clock.now_ns() + int(parts.grace_s * _NS), "grace")
        else:
            self._ended = instruction
            self._write(JournalLine(instruction.at_ns, "ended_run", outcome=instruction.outcome))
        return ()

    def _settle(self, instruction: SettleStep) -> None:
        index, at_ns, outcome, cause = instruction.index, instruction.at_ns, instruction.outcome, instruction.cause
        step = self.plan.steps[index]
        kept = self.attempts.kept.pop(index, None) or Kept()
        spans = self.parts.spans
        if cause == "cancelled" and kept.ended_ns is not None:
            spans.backoff(index, kept.attempt, kept.ended_ns, at_ns)
        spans.queue_ended(index, instruction.attempts + 1, at_ns)
        error = kept.error if outcome != Outcome.SUCCESS else None
        if cause == "failed_previously":
            earlier = self.parts.decisions[index].earlier or Earlier()
            error = ErrorInfo(ERROR_PREVIOUSLY, earlier.message or "its earlier failure left no message")
        message = error.message if error is not None else ""
        if cause == "upstream_failed" and instruction.by is not None:
            message = f"{self.plan.steps[instruction.by].name} failed"
        by_itself = outcome == Outcome.CANCELLATION and not cause and self.attempts.cancelling is None
        if error is not None and (outcome in _FAILED or by_itself):
            self.errors[index] = error
            self.last_words[index] = kept.last_words
        if outcome in _FAILED and step.level is not None:
            self._failed_levels.add(step.level)
        self._last_event(step, kept, instruction, message)
        error_type = error.type if error is not None else ERROR_CANCELLED if outcome == Outcome.CANCELLATION else None
        made_by = (kept.made_by or self.parts.decisions[index].earlier or Earlier()) if cause == "cached" else None
        spans.close_step(index, at_ns, outcome, made_by=made_by, error_type=error_type, message=message)
        data = None
        if kept.made_by is not None:  # what was known before the run stands in the record of its start
            data = {**kept.made_by.times, "exec_id": kept.made_by.exec_id, "trace_id": kept.made_by.trace_id, "span_id": kept.made_by.step_span_id}
        self._write(
            JournalLine(
                at_ns,
                "settled",
                node=step.node_id,
                outcome=outcome,
                cause=cause or None,
                data=data,
                error=error_data(error) if cause == "failed_previously" else None,
            )
        )
        attempts = self.parts.aggregator.steps[step.node_id].attempts
        self.parts.listener.settled(step, outcome, cause, attempts[-1].execution_ns if attempts else None, error)

    def _last_event(self, step: Step, kept: Kept, instruction: SettleStep, message: str) -> None:
        """Write the last event of a step where no worker did, and let its lock go."""
        span_id = self.parts.spans.step_span_ids[step.index]
        if kept.locked:
            self.status.event(step, span_id, STATUS_OF_OUTCOME[Outcome(instruction.outcome)], message, kept.task_times)
            if kept.task_times is not None:
                created_ns = self.parts.spans.step_start(step.index)
                self.status.info(step, span_id, self.parts.info_of(step), kept.task_times, (created_ns, instruction.at_ns))
            if not any(key[0] == step.node_id for key in self.attempts.abandoned):
                self.status.release(step)
        elif instruction.cause in {"upstream_failed", "gate_failed"}:
            self.status.event(step, span_id, StatusWord.DEP_FAILED, message)
        elif instruction.outcome == Outcome.CANCELLATION and instruction.attempts == 0:
            self.status.event(step, span_id, StatusWord.CANCELLED, "cancelled before it started")

    # Writing.

    def _write(self, line: JournalLine) -> None:
        self._journal.append(line)
        self.parts.aggregator.transition(line)

    def _flush(self) -> None:
        """Write finished spans, then the transitions that they belong to: one system call each."""
        finished = self.parts.spans.take()
        if finished:
            self.parts.recorder.finish(finished)
        if self._journal:
            lines, self._journal = self._journal, []
            try:
                self.parts.store.journal(lines)
            except RecordError as error:  # the run goes on: its record is tried again at its end, and fails there if it must
                self.parts.aggregator.warn("journal_not_written", str(error))
