"""The aggregator: transitions and finished spans, folded into the run's record as they come.

What comes in: a skeleton record (the plan's half), journal lines (outcomes: facts from the scheduler), `SpanRecord`s (durations: measurements)
and folds that came home from workers. What goes out: the `RunRecord`, at any time. Never reads a file or a clock.
The live run, the rebuilding of a dead run and `read_run` feed the same aggregator, so they show the same numbers.
Every input may come twice: what it sets it sets again. Spans of phases are folded per task, when a run is rebuilt, by `aggregate.task_fold`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from otel_exec.clock import to_iso
from otel_exec.record.model import AttemptRecord, CachedFrom, GateRecord, LevelRecord, RecordedError, RecordWarning, WorkerRecord
from otel_exec.semconv import (
    ERROR_TYPE,
    EXEC_ATTEMPT,
    EXEC_CPU_NS,
    EXEC_LEVEL,
    EXEC_OUTCOME,
    EXEC_PEAK_RSS,
    EXEC_TASK_ID,
    EXEC_WORKER_ID,
    NODE_ID,
    STATUS_OF_OUTCOME,
    Kind,
    Outcome,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from otel_exec.aggregate.folds import ItemsFold, TaskSums
    from otel_exec.record.model import RunRecord, StepRecord
    from otel_exec.record.run_store import JournalLine
    from otel_exec.spans.span_record import SpanRecord

__all__ = ["Aggregator"]

# Attempts come one after the other; of a damaged journal so many may be missing.
_WIDEST_GAP = 1_000

_PARTS = {
    Kind.WAIT: "wait_ns",
    Kind.QUEUE: "queue_ns",
    Kind.LOAD: "load_ns",
    Kind.VERIFY: "verification_ns",
    Kind.STORE: "store_ns",
    Kind.BACKOFF: "backoff_ns",
}


class Aggregator:
    """Folds one run. `record` is the live record: its steps are always up to date; levels, workers and phases are rendered by `render`.

    `touched` are the steps that a worker took or that settled since somebody last emptied it.

    Args:
        skeleton: the record as it was when the run began: every step with its plan's half, `start_time_unix_nano` set. It is filled in place.

    `news`: a list that transitions are kept in for who takes them out again, as metrics do; `None` while nobody does.
    """

    news: list[JournalLine] | None

    def __init__(self, skeleton: RunRecord) -> None:
        self.record = skeleton
        self.news = None
        self.start_ns = int(skeleton.start_time_unix_nano)
        self.steps: dict[str, StepRecord] = {step.node_id: step for step in skeleton.steps}
        self.sums: dict[tuple[str, int], TaskSums] = {}
        self.items: dict[tuple[str, int], ItemsFold] = {}
        # Attempts with phases that have no span of their own.
        self.unspanned: set[tuple[str, int]] = set()
        self.workers: dict[str, WorkerRecord] = {worker.worker_id: worker for worker in skeleton.workers}
        self.levels: dict[int, LevelRecord] = {level.level: level for level in skeleton.levels}
        self.gates: dict[str, GateRecord] = {gate.span_id or str(index): gate for index, gate in enumerate(skeleton.gates)}
        self.gate_output: dict[str, str | None] = {}
        self._parts_seen: dict[tuple[str, int, str], dict[str, tuple[int, int]]] = {}
        self.touched: dict[str, StepRecord] = {}
        self._worker_tasks: dict[str, dict[tuple[str, int], tuple[int, int]]] = {}
        self._own_ns: dict[str, int] = {}
        self._helped_ns: dict[str, int] = {}
        self._last_end_ns: dict[str, int] = {}
        self._warnings: dict[tuple[str, str], RecordWarning] = {(warning.code, warning.message): warning for warning in skeleton.warnings}

    # Facts, from the scheduler.

    def transition(self, line: JournalLine) -> None:
        """Take in one state transition."""
        if self.news is not None:
            self.news.append(line)
        what = line.what
        if what in {"created", "claimed", "ended", "settled", "waiting"}:
            step = self.steps.get(line.node or "")
            if step is not None:
                self._step_transition(step, line)
        elif what == "worker":
            self._worker_transition(line)
        elif what == "gate":
            output = (line.data or {}).get("output")
            self.gate_output[line.span or ""] = str(output) if output else None
        elif what == "ended_run":
            self.record.outcome = line.outcome or self.record.outcome

    def _step_transition(self, step: StepRecord, line: JournalLine) -> None:
        at = line.at - self.start_ns
        what = line.what
        if what == "created":
            step.scheduled_time = to_iso(line.at)
            step.start_ns = at
            step.span_id = line.span
            if step.level is not None:  # until the level's span has come, which is at its end
                level = self.levels.setdefault(step.level, LevelRecord(step.level))
                if level.end_ns is None and (level.start_ns is None or at < level.start_ns):
                    level.start_ns = at
        elif what == "claimed":
            attempt = self.attempt(step, line.attempt or 1)
            attempt.claimed_ns = at
            attempt.worker_id = line.worker
            attempt.span_id = line.span
            step.status = "RUNNING"
            self.touched[step.node_id] = step
        elif what == "waiting":
            step.status = "WAITING"
        elif what == "ended":
            attempt = self.attempt(step, line.attempt or 1)
            attempt.outcome = line.outcome
            attempt.worker_id = line.worker or attempt.worker_id
            attempt.error = _error(line)
            _settle_attempt(attempt, at)
        else:
            self.touched[step.node_id] = step
            step.outcome = line.outcome
            step.reason = line.cause
            step.cached = line.cause == "cached"
            if step.cached and line.data is not None:  # found so while the run went on
                step.cached_from = _cached_from(line.data)
            if step.attempts and step.attempts[-1].outcome is None:
                _settle_attempt(step.attempts[-1], at)
                if not step.cached:
                    step.attempts[-1].outcome = line.outcome
            if line.outcome is not None and not step.group:
                unchanged = line.outcome == Outcome.SKIP and line.cause not in {"upstream_failed", "gate_failed"}
                if not unchanged:
                    step.status = str(STATUS_OF_OUTCOME[Outcome(line.outcome)])
            step.error = _error(line) or (step.attempts[-1].error if step.attempts and line.outcome != Outcome.SUCCESS else None)

    def _worker_transition(self, line: JournalLine) -> None:
        worker = self._worker(line.worker or "")
        if line.cause == "started":
            worker.started_at, worker.start_ns = to_iso(line.at), line.at - self.start_ns
            data = line.data or {}
            pid, host, node = data.get("pid"), data.get("host"), data.get("node")
            worker.pid = pid if isinstance(pid, int) else None
            worker.host = str(host) if host else None
            worker.node = str(node) if node else None
        elif line.cause == "ready":
            worker.ready_at, worker.ready_ns = to_iso(line.at), line.at - self.start_ns
        elif line.cause in {"stopped", "died"}:
            worker.stopped_at, worker.end_ns = to_iso(line.at), line.at - self.start_ns
            if line.cause == "died":
                worker.died = str((line.data or {}).get("reason", "died"))

    def warn(self, code: str, message: str, count: int = 1) -> None:
        """Count a warning of the record; the same one is kept once."""
        known = self._warnings.get((code, message))
        if known is None:
            known = RecordWarning(code, message, count)
            self._warnings[code, message] = known
            self.record.warnings.append(known)
        else:
            known.count += count

    def state(self, code: str, message: str, count: int) -> None:
        """Have a warning of the record say `count`, however often this is called: what is counted anew each time the record is rendered."""
        known = self._warnings.get((code, message))
        if known is None:
            self.warn(code, message, count)
        else:
            known.count = count

    # Measurements, from spans.

    def ingest(self, spans: Iterable[SpanRecord]) -> None:
        """Take in finished spans that are not phases (those are folded by task: see `fold`). Any order; twice is once."""
        for span in spans:
            kind = span.kind
            if kind == Kind.TASK:
                self._ingest_task(span)
            elif kind in _PARTS:
                self._ingest_part(span, _PARTS[Kind(kind)])
            elif kind == Kind.STEP:
                self._ingest_step(span)
            elif kind == Kind.LEVEL:
                self._ingest_level(span)
            elif kind == Kind.GATE:
                self._ingest_gate(span)
            elif kind == Kind.RUN:
                record = self.record
                record.duration_ns = span.duration_ns
                record.end_time = to_iso(span.end_ns)

    def _ingest_task(self, span: SpanRecord) -> None:
        attributes = span.attributes
        node_id = attributes.get(NODE_ID)
        step = self.steps.get(node_id) if isinstance(node_id, str) else None
        number = attributes.get(EXEC_ATTEMPT)
        if step is None or not isinstance(number, int) or attributes.get(EXEC_TASK_ID) != node_id:
            return  # an item of a fan-out: folded, not listed
        attempt = self.attempt(step, number)
        attempt.start_ns = span.start_ns - self.start_ns
        attempt.end_ns = span.end_ns - self.start_ns
        attempt.execution_ns = span.duration_ns
        attempt.span_id = span.span_id
        worker_id = attributes.get(EXEC_WORKER_ID)
        if isinstance(worker_id, str):
            attempt.worker_id = worker_id
            self._worker_ran(worker_id, (step.node_id, number), span)
        cpu, rss = attributes.get(EXEC_CPU_NS), attributes.get(EXEC_PEAK_RSS)
        attempt.cpu_ns = cpu if isinstance(cpu, int) else None
        attempt.peak_rss_bytes = rss if isinstance(rss, int) else None
        outcome = attributes.get(EXEC_OUTCOME)
        if attempt.outcome is None and isinstance(outcome, str):
            attempt.outcome = outcome
            if span.status == 2 and attempt.error is None:  # a report that never came: the span knows
                attempt.error = RecordedError(str(attributes.get(ERROR_TYPE, outcome)), span.status_message)
        _settle_attempt(attempt, attempt.end_ns)
        if all(later.start_ns is None for later in step.attempts[number:]):  # of the last that began, whenever its spans come
            step.execution_start_time = to_iso(span.start_ns)
            step.execution_end_time = to_iso(span.end_ns)
            step.duration_seconds = span.duration_ns / 1e9

    def _worker_ran(self, worker_id: str, task: tuple[str, int], span: SpanRecord) -> None:
        """Add a task to the worker's busy time; the same one again replaces it."""
        tasks = self._worker_tasks.setdefault(worker_id, {})
        before = tasks.get(task, (0, 0))
        tasks[task] = (span.start_ns, span.end_ns)
        self._own_ns[worker_id] = self._own_ns.get(worker_id, 0) + span.duration_ns - (before[1] - before[0])
        self._last_end_ns[worker_id] = max(self._last_end_ns.get(worker_id, span.end_ns), span.end_ns)

    def _ingest_part(self, span: SpanRecord, field: str) -> None:
        attributes = span.attributes
        step = self.steps.get(str(attributes.get(NODE_ID)))
        number = attributes.get(EXEC_ATTEMPT)
        if step is None or not isinstance(number, int):
            return
        attempt = self.attempt(step, number)
        start, end = span.start_ns - self.start_ns, span.end_ns - self.start_ns
        if field in {"queue_ns", "wait_ns"}:
            # A step that found its lock held queues twice for one attempt: the parts add up, each span once.
            parts = self._parts_seen.setdefault((step.node_id, number, field), {})
            parts[span.span_id] = (span.duration_ns, span.end_ns)
            setattr(attempt, field, sum(duration_ns for duration_ns, _ in parts.values()))
            attempt.created_ns = start if attempt.created_ns is None else min(attempt.created_ns, start)
        else:
            setattr(attempt, field, span.duration_ns)
            if field == "load_ns":
                attempt.claimed_ns = start
        # What comes before the task settles nothing, unless nothing came after it: it ends as well where the attempt goes on.
        if field in {"verification_ns", "store_ns"} or (field in {"queue_ns", "wait_ns"} and _given_up(step, attempt)):
            _settle_attempt(attempt, end)

    def longest_queue(self, step: StepRecord, attempt: AttemptRecord) -> tuple[int, str] | None:
        """Return the end of the span in which an attempt queued longest, and its id."""
        parts = self._parts_seen.get((step.node_id, attempt.attempt, "queue_ns"))
        if not parts:
            return None
        span_id, (_, end_ns) = max(parts.items(), key=lambda part: part[1])
        return end_ns, span_id

    def _ingest_step(self, span: SpanRecord) -> None:
        step = self.steps.get(str(span.attributes.get(NODE_ID)))
        if step is None:
            return
        step.span_id = span.span_id
        step.start_ns = span.start_ns - self.start_ns
        step.end_ns = span.end_ns - self.start_ns
        outcome = span.attributes.get(EXEC_OUTCOME)
        if step.outcome is None and isinstance(outcome, str):
            step.outcome = outcome
            if step.attempts and _given_up(step, step.attempts[-1]):
                _settle_attempt(step.attempts[-1], step.end_ns)
            if span.status == 2 and step.error is None:  # the driver died before it could say so: recovery did
                step.error = RecordedError(str(span.attributes.get(ERROR_TYPE, outcome)), span.status_message)
        if step.scheduled_time is not None:  # it was created: the transition comes first
            step.total_duration_seconds = span.duration_ns / 1e9

    def _ingest_level(self, span: SpanRecord) -> None:
        number = span.attributes.get(EXEC_LEVEL)
        if isinstance(number, int):
            level = self.levels.setdefault(number, LevelRecord(number))
            level.start_ns = span.start_ns - self.start_ns
            level.end_ns = span.end_ns - self.start_ns
            level.span_id = span.span_id

    def _ingest_gate(self, span: SpanRecord) -> None:
        level = span.attributes.get(EXEC_LEVEL)
        self.gates[span.span_id] = GateRecord(
            name=span.name.removeprefix("gate "),
            level=level if isinstance(level, int) else 0,
            outcome=str(span.attributes.get(EXEC_OUTCOME, Outcome.SUCCESS)),
            start_ns=span.start_ns - self.start_ns,
            end_ns=span.end_ns - self.start_ns,
            span_id=span.span_id,
        )

    def attempt(self, step: StepRecord, number: int) -> AttemptRecord:
        """Return the record of an attempt (from 1), made if need be."""
        attempts = step.attempts
        number = max(1, min(number, len(attempts) + _WIDEST_GAP))  # a damaged file may say anything
        while len(attempts) < number:
            attempts.append(AttemptRecord(len(attempts) + 1))
        return attempts[number - 1]

    def _worker(self, worker_id: str) -> WorkerRecord:
        worker = self.workers.get(worker_id)
        if worker is None:
            worker = self.workers[worker_id] = WorkerRecord(worker_id)
        return worker

    # Folds, from workers.

    def fold(self, node_id: str, attempt: int, sums: TaskSums, *, items: ItemsFold | None = None) -> None:
        """Take in the sums of one attempt's tasks; the same attempt again replaces what was there."""
        key = (node_id, attempt)
        self.sums[key] = sums
        if items is not None:
            for sign, fold in ((-1, self.items.get(key)), (1, items)):
                for worker_id, busy_ns in fold.helped_ns.items() if fold is not None else ():
                    self._helped_ns[worker_id] = self._helped_ns.get(worker_id, 0) + sign * busy_ns
            self.items[key] = items

    def busy_ns(self, worker_id: str) -> int:
        """Return how long a worker ran tasks and, while it had none of its own, items of others' fan-outs: the union, since it runs one thing at a time."""
        return self._own_ns.get(worker_id, 0) + self._helped_ns.get(worker_id, 0)

    def last_completed_ns(self, worker_id: str) -> int | None:
        """Return when the worker's last task ended, nanoseconds since the Unix epoch."""
        return self._last_end_ns.get(worker_id)

    def items_counts(self) -> tuple[int, int, int]:
        """Return how many items fan-outs had so far, completed and failed."""
        folds = self.items.values()
        return sum(fold.count for fold in folds), sum(fold.completed for fold in folds), sum(fold.failed for fold in folds)


def _given_up(step: StepRecord, attempt: AttemptRecord) -> bool:
    """Whether a step was settled before a worker took its last attempt."""
    return step.outcome is not None and attempt.outcome is None and attempt.claimed_ns is None


def _settle_attempt(attempt: AttemptRecord, end_ns: int) -> None:
    if attempt.settled_ns is None or attempt.settled_ns < end_ns:
        attempt.settled_ns = end_ns


def _cached_from(data: Mapping[str, object]) -> CachedFrom:
    try:
        return msgspec.convert(data, CachedFrom)
    except msgspec.ValidationError:  # another program's numbers: who made it still holds
        return msgspec.convert({key: data.get(key) for key in ("exec_id", "trace_id", "span_id")}, CachedFrom)


def _error(line: JournalLine) -> RecordedError | None:
    error = line.error
    if not error:
        return None
    return RecordedError(
        type=error.get("type") or "error",
        message=error.get("message") or "",
        where=error.get("where"),
        traceback=error.get("traceback"),
        log=error.get("log"),
    )
