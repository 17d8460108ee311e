"""The spans that the driver makes: run, levels, steps and what a step spends outside its worker.

What comes in: instants from the state machine and from notices. What goes out: finished `SpanRecord`s, collected in `finished` until the runner
writes them with one call. Knows times and parents; decides nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_exec.semconv import (
    EXEC_ATTEMPT,
    EXEC_CACHED,
    EXEC_DEPENDS_ON,
    EXEC_LEVEL,
    EXEC_LOCK_HOLDER,
    EXEC_NAME,
    EXEC_TASK_ID,
    EXEC_TEMPLATE,
    EXEC_WORKER_ID,
    NODE_ID,
    NODE_NAME,
    Kind,
    Outcome,
)
from otel_exec.spans.span_record import SpanLink

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_exec.execute.base import OpenSpan
    from otel_exec.plan.graph import Plan, Step
    from otel_exec.schedule.gates import GateResult
    from otel_exec.schedule.select import Decision
    from otel_exec.spans.recorder import Recorder
    from otel_exec.spans.span_record import AttributeValue, SpanRecord

__all__ = ["DriverSpans"]

# A plan with more steps of one template than this names its step spans by the template, so that a backend's list of operations stays short.
_MANY_OF_ONE_TEMPLATE = 100


class DriverSpans:
    """Open spans of one run's driver, and those that finished since they were last taken.

    Args:
        recorder: makes the records.
        plan: names, templates and edges.
        root_span_id: the run span's id, `parent_span_id` what an inbound carrier named ("" where there is none).
        start_ns: when the run began.
    """

    def __init__(self, recorder: Recorder, plan: Plan, *, root_span_id: str, parent_span_id: str, start_ns: int) -> None:
        self.recorder = recorder
        self.plan = plan
        self.root_span_id = root_span_id
        self.parent_span_id = parent_span_id
        self.start_ns = start_ns
        self.finished: list[SpanRecord] = []
        new_id = recorder.ids.span_id
        self.step_span_ids = [new_id() for _ in plan.steps]
        self._levels: dict[int, tuple[str, int]] = {}
        self._step_start: dict[int, int] = {}
        self._attempt_created: dict[int, int] = {}
        self._wait_since: dict[int, tuple[int, str]] = {}
        self._workers: dict[str, tuple[str, int, int | None]] = {}
        counts: dict[str, int] = {}
        for step in plan.steps:
            counts[step.template] = counts.get(step.template, 0) + 1
        self._crowded = {template for template, count in counts.items() if count > _MANY_OF_ONE_TEMPLATE}

    def take(self) -> list[SpanRecord]:
        """Return what finished since the last call."""
        finished, self.finished = self.finished, []
        return finished

    # Levels.

    def open_level(self, level: int, at_ns: int) -> None:
        """A level's first step was created."""
        self._levels[level] = (self.recorder.ids.span_id(), at_ns)

    def close_level(self, level: int, at_ns: int, outcome: str) -> None:
        """A level's last step settled."""
        span_id, start_ns = self._levels.pop(level)
        self.finished.append(
            self.recorder.make(
                Kind.LEVEL,
                f"level {level}",
                start_ns,
                max(start_ns, at_ns),
                span_id=span_id,
                parent=self.root_span_id,
                attributes={EXEC_LEVEL: level},
                outcome=outcome,
            )
        )

    def open_levels(self) -> dict[int, int]:
        """Return the open levels and since when."""
        return {level: start_ns for level, (_, start_ns) in self._levels.items()}

    # Steps.

    def step_attributes(self, step: Step) -> dict[str, AttributeValue]:
        """Return what every span of a step carries."""
        attributes: dict[str, AttributeValue] = {NODE_ID: step.node_id, NODE_NAME: step.name, EXEC_TEMPLATE: step.template}
        if step.level is not None:
            attributes[EXEC_LEVEL] = step.level
        return attributes

    def open_step(self, index: int, at_ns: int) -> None:
        """A step was created."""
        self._step_start[index] = at_ns

    def step_start(self, index: int) -> int:
        """Return when a step was created; it must be open."""
        return self._step_start[index]

    def close_step(self, index: int, at_ns: int, outcome: str, cause: str, decision: Decision, error_type: str | None, message: str) -> None:
        """A step has its outcome."""
        step = self.plan.steps[index]
        steps = self.plan.steps
        start_ns = self._step_start.pop(index, at_ns)
        cached = cause == "cached"
        if step.level is not None and step.level in self._levels:
            parent = self._levels[step.level][0]
        else:
            parent = self.root_span_id
        ids = self.step_span_ids
        trace_id = self.recorder.trace_id
        links = [SpanLink(trace_id, ids[upstream], "data") for upstream in step.depends_on]
        links += [SpanLink(trace_id, ids[upstream], "nonblocking") for upstream in step.pseudo_depends_on]
        attributes = self.step_attributes(step)
        attributes[EXEC_DEPENDS_ON] = [steps[upstream].node_id for upstream in step.depends_on]
        if cached:
            attributes[EXEC_CACHED] = True
            earlier = decision.earlier
            if earlier is not None and earlier.trace_id and earlier.step_span_id:
                links.append(SpanLink(earlier.trace_id, earlier.step_span_id, "cached"))
        self.finished.append(
            self.recorder.make(
                Kind.STEP,
                step.template if step.template in self._crowded else step.name,
                start_ns,
                max(start_ns, at_ns),
                span_id=ids[index],
                parent=parent,
                attributes=attributes,
                links=links,
                outcome=outcome,
                error_type=error_type,
                message=message,
            )
        )

    # Parts of a step that are not its worker's.

    def attempt_created(self, index: int, at_ns: int) -> None:
        """An attempt is ready: its queue begins (anew, when its lock has become free)."""
        waited = self._wait_since.pop(index, None)
        if waited is not None:
            since_ns, holder = waited
            self._part(index, Kind.WAIT, since_ns, at_ns, 1, {EXEC_LOCK_HOLDER: holder})
        self._attempt_created[index] = at_ns

    def queue_ended(self, index: int, attempt: int, at_ns: int) -> None:
        """An attempt was claimed, refused, or settled before anyone claimed it."""
        created_ns = self._attempt_created.pop(index, None)
        if created_ns is not None:
            self._part(index, Kind.QUEUE, created_ns, at_ns, attempt, {})

    def waiting(self, index: int, holder: str, at_ns: int) -> None:
        """Another run holds the step's lock."""
        self._wait_since.setdefault(index, (at_ns, holder))

    def wait_ended(self, index: int, at_ns: int) -> None:
        """The step was settled while it waited, or found cached."""
        waited = self._wait_since.pop(index, None)
        if waited is not None:
            since_ns, holder = waited
            self._part(index, Kind.WAIT, since_ns, max(since_ns, at_ns), 1, {EXEC_LOCK_HOLDER: holder})

    def backoff(self, index: int, attempt: int, start_ns: int, end_ns: int) -> None:
        """A failed attempt's back-off is over."""
        self._part(index, Kind.BACKOFF, start_ns, end_ns, attempt, {})

    def _part(self, index: int, kind: Kind, start_ns: int, end_ns: int, attempt: int, more: dict[str, AttributeValue]) -> None:
        attributes = self.step_attributes(self.plan.steps[index])
        attributes[EXEC_ATTEMPT] = attempt
        attributes.update(more)
        self.finished.append(self.recorder.make(kind, kind.value, start_ns, max(start_ns, end_ns), parent=self.step_span_ids[index], attributes=attributes))

    def lost_attempt(
        self, step: Step, attempt: int, worker_id: str, span_id: str, opened: Sequence[OpenSpan], at_ns: int, outcome: str, error_type: str, message: str
    ) -> list[SpanRecord]:
        """Close what was open in an attempt that can't do so itself; returns the spans, the task span first where the function had been called."""
        attributes = self.step_attributes(step)
        attributes[EXEC_ATTEMPT] = attempt
        attributes[EXEC_WORKER_ID] = worker_id
        spans = []
        for entry in opened:
            kind = entry.kind
            mine = dict(attributes)
            if kind == Kind.TASK:
                mine[EXEC_TASK_ID] = step.node_id if entry.span_id == span_id else entry.node_id
            spans.append(
                self.recorder.make(
                    kind,
                    entry.name,
                    min(entry.start_ns, at_ns),
                    at_ns,
                    span_id=entry.span_id,
                    parent=entry.parent_span_id,
                    attributes=mine,
                    outcome=outcome,
                    error_type=error_type,
                    message=message if kind == Kind.TASK else "",
                )
            )
        self.finished += spans
        return spans

    # Workers, gates, the run.

    def worker_started(self, worker_id: str, at_ns: int) -> None:
        """A worker's process was started."""
        self._workers[worker_id] = (self.recorder.ids.span_id(), at_ns, None)

    def worker_ready(self, worker_id: str, at_ns: int) -> None:
        """A worker said that it takes tasks."""
        span_id, start_ns, ready_ns = self._workers.get(worker_id, ("", at_ns, at_ns))
        if span_id and ready_ns is None:
            self._workers[worker_id] = (span_id, start_ns, at_ns)
            self.finished.append(
                self.recorder.make(
                    Kind.WORKER_INIT, "worker init", start_ns, max(start_ns, at_ns), parent=span_id, attributes={EXEC_WORKER_ID: worker_id}, outcome=None
                )
            )

    def worker_ended(self, worker_id: str, at_ns: int, outcome: str, error_type: str | None = None, message: str = "") -> None:
        """A worker has ended."""
        known = self._workers.pop(worker_id, None)
        if known is not None:
            span_id, start_ns, _ = known
            self.finished.append(
                self.recorder.make(
                    Kind.WORKER,
                    "worker",
                    start_ns,
                    max(start_ns, at_ns),
                    span_id=span_id,
                    parent=self.root_span_id,
                    attributes={EXEC_WORKER_ID: worker_id},
                    outcome=outcome,
                    error_type=error_type,
                    message=message,
                )
            )

    def gate(self, result: GateResult) -> str:
        """A gate has ended; returns its span's id."""
        span = self.recorder.make(
            Kind.GATE,
            f"gate {result.name}",
            result.start_ns,
            result.end_ns,
            parent=self.root_span_id,
            attributes={EXEC_LEVEL: result.level},
            outcome=result.outcome,
            error_type=result.error_type,
            message=result.message,
        )
        self.finished.append(span)
        return span.span_id

    def close_run(self, name: str, at_ns: int, outcome: str, links: Sequence[SpanLink] = ()) -> None:
        """The run has ended: whatever is still open is closed with it, then the run span."""
        for worker_id in list(self._workers):
            self.worker_ended(worker_id, at_ns, Outcome.SUCCESS)
        for level in list(self._levels):
            self.close_level(level, at_ns, outcome)
        self.finished.append(
            self.recorder.make(
                Kind.RUN,
                f"run {name}",
                self.start_ns,
                at_ns,
                span_id=self.root_span_id,
                parent=self.parent_span_id,
                attributes={EXEC_NAME: name},
                links=links,
                outcome=outcome,
                error_type="timeout" if outcome == Outcome.TIMEOUT else "cancelled" if outcome == Outcome.CANCELLATION else None,
                span_kind=2,
            )
        )
