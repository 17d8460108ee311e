"""The spans that the driver makes: run, levels, steps and what a step spends outside its worker.

What comes in: instants from the state machine and from notices. What goes out: finished `SpanRecord`s, collected in `finished` until the runner
writes them with one call. Knows times and parents; decides nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from otel_exec.semconv import (
    CODE_FILE,
    CODE_FUNCTION,
    CODE_LINE,
    ERROR_CANCELLED,
    ERROR_INTERRUPTED,
    ERROR_TIMEOUT,
    EXEC_ATTEMPT,
    EXEC_CACHED,
    EXEC_DEPENDS_ON,
    EXEC_LEVEL,
    EXEC_LOCK_HOLDER,
    EXEC_NAME,
    EXEC_PHASE,
    EXEC_TASK_ID,
    EXEC_TEMPLATE,
    EXEC_WORKER_ID,
    MANY_OF_ONE_TEMPLATE,
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
    from otel_exec.schedule.attempts import Running
    from otel_exec.schedule.gates import GateResult
    from otel_exec.schedule.select import Earlier
    from otel_exec.spans.recorder import Recorder
    from otel_exec.spans.span_record import AttributeValue, SpanRecord

__all__ = ["DriverSpans", "run_span"]

_ERROR_TYPES = {"timeout": ERROR_TIMEOUT, "cancellation": ERROR_CANCELLED, "interrupted": ERROR_INTERRUPTED}


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
        # To the runs that this one goes on from.
        self.links: list[SpanLink] = []
        new_id = recorder.ids.span_id
        self.step_span_ids = [new_id() for _ in plan.steps]
        # Of each level the span's id, given out when anybody asks for it, and since when it is open.
        self._level_ids: dict[int, str] = {}
        self._levels: dict[int, int] = {}
        # Spans of steps that were settled without being created, until their level opens.
        self._early: dict[int, list[SpanRecord]] = {}
        self._links_to = plan.upstream()
        self._step_start: dict[int, int] = {}
        self._attempt_created: dict[int, int] = {}
        self._wait_since: dict[int, tuple[int, str]] = {}
        self._workers: dict[str, tuple[str, int, int | None]] = {}
        counts: dict[str, int] = {}
        for step in plan.steps:
            counts[step.template] = counts.get(step.template, 0) + 1
        self._crowded = {template for template, count in counts.items() if count > MANY_OF_ONE_TEMPLATE}

    def take(self) -> list[SpanRecord]:
        """Return what finished since the last call."""
        finished, self.finished = self.finished, []
        return finished

    # Levels.

    def _level_id(self, level: int) -> str:
        span_id = self._level_ids.get(level)
        if span_id is None:
            span_id = self._level_ids[level] = self.recorder.ids.span_id()
        return span_id

    def open_level(self, level: int, at_ns: int) -> str:
        """A level's first step was created; returns the id of its span. Steps that were settled before, uncreated, lie at that instant: inside their level."""
        self._levels[level] = at_ns
        self.finished += [replace(span, start_ns=at_ns, end_ns=at_ns) for span in self._early.pop(level, ())]
        return self._level_id(level)

    def close_level(self, level: int, start_ns: int, end_ns: int, outcome: str) -> None:
        """A level's last step settled; its first was created at `start_ns`."""
        self._levels.pop(level, None)
        self.finished.append(
            self.recorder.make(
                Kind.LEVEL,
                f"level {level}",
                start_ns,
                max(start_ns, end_ns),
                span_id=self._level_id(level),
                parent=self.root_span_id,
                attributes={EXEC_LEVEL: level},
                outcome=outcome,
            )
        )

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

    def close_step(self, index: int, at_ns: int, outcome: str, *, made_by: Earlier | None = None, error_type: str | None = None, message: str = "") -> None:
        """A step has its outcome.

        Args:
            index: the step's.
            at_ns: when it was settled.
            outcome: a word of `semconv.Outcome`.
            made_by: of a cached step, the run that made its output.
            error_type: `error.type` where it failed.
            message: in one sentence.
        """
        steps = self.plan.steps
        step = steps[index]
        start_ns = self._step_start.pop(index, None)
        ids = self.step_span_ids
        trace_id = self.recorder.trace_id
        links = [SpanLink(trace_id, ids[upstream], "data") for upstream in self._links_to[index]]
        links += [SpanLink(trace_id, ids[upstream], "nonblocking") for upstream in step.pseudo_depends_on]
        attributes = self.step_attributes(step)
        attributes[EXEC_DEPENDS_ON] = [steps[upstream].node_id for upstream in step.depends_on]
        if made_by is not None:
            attributes[EXEC_CACHED] = True
            if made_by.trace_id and made_by.step_span_id:
                links.append(SpanLink(made_by.trace_id, made_by.step_span_id, "cached"))
        span = self.recorder.make(
            Kind.STEP,
            step.template if step.template in self._crowded else step.name,
            at_ns if start_ns is None else start_ns,
            at_ns,
            span_id=ids[index],
            parent=self.root_span_id if step.level is None else self._level_id(step.level),
            attributes=attributes,
            links=links,
            outcome=outcome,
            error_type=error_type,
            message=message,
        )
        if start_ns is None and step.level is not None and step.level not in self._levels:
            self._early.setdefault(step.level, []).append(span)
        else:
            self.finished.append(span)

    # Parts of a step that are not its worker's.

    def attempt_created(self, index: int, at_ns: int) -> None:
        """An attempt is ready: its queue begins."""
        self._attempt_created[index] = at_ns

    def queue_ended(self, index: int, attempt: int, at_ns: int) -> None:
        """An attempt was claimed, refused, or settled before anyone claimed it: its queue ends, or, if it was refused before, its wait."""
        created_ns = self._attempt_created.pop(index, None)
        if created_ns is not None:
            self._part(index, Kind.QUEUE, created_ns, at_ns, attempt, {})
        waited = self._wait_since.pop(index, None)
        if waited is not None:
            since_ns, holder = waited
            self._part(index, Kind.WAIT, since_ns, at_ns, attempt, {EXEC_LOCK_HOLDER: holder})

    def refused(self, index: int, attempt: int, holder: str, at_ns: int) -> None:
        """Another run holds the step's lock: from here on the attempt waits, however often it asks again."""
        if index not in self._wait_since:
            self.queue_ended(index, attempt, at_ns)
            self._wait_since[index] = (at_ns, holder)

    def backoff(self, index: int, attempt: int, start_ns: int, end_ns: int) -> None:
        """A failed attempt's back-off is over."""
        self._part(index, Kind.BACKOFF, start_ns, end_ns, attempt, {})

    def on_worker(self, index: int, kind: Kind, attempt: int, worker_id: str, start_ns: int, end_ns: int) -> SpanRecord:
        """Make the `load` or `store` of an attempt whose worker can't do so itself any more."""
        self._part(index, kind, start_ns, end_ns, attempt, {EXEC_WORKER_ID: worker_id})
        return self.finished[-1]

    def _part(self, index: int, kind: Kind, start_ns: int, end_ns: int, attempt: int, more: dict[str, AttributeValue]) -> None:
        attributes = self.step_attributes(self.plan.steps[index])
        attributes[EXEC_ATTEMPT] = attempt
        attributes.update(more)
        self.finished.append(self.recorder.make(kind, kind.value, start_ns, max(start_ns, end_ns), parent=self.step_span_ids[index], attributes=attributes))

    def lost(self, running: Running, entry: OpenSpan, start_ns: int, at_ns: int, outcome: str, error_type: str, message: str) -> SpanRecord:
        """Close a span that was open in an attempt that can't do so itself."""
        step = running.step
        kind = entry.kind
        attributes = self.step_attributes(step)
        attributes[EXEC_ATTEMPT] = running.attempt
        attributes[EXEC_WORKER_ID] = running.worker_id
        links: tuple[SpanLink, ...] = ()
        if entry.span_id == running.span_id:
            attributes[EXEC_TASK_ID] = step.node_id
            attributes[CODE_FUNCTION] = step.fn_name
            code = getattr(step.fn, "__code__", None)
            if code is not None:
                attributes[CODE_FILE] = code.co_filename
                attributes[CODE_LINE] = code.co_firstlineno
            if running.previous_span_id:
                links = (SpanLink(self.recorder.trace_id, running.previous_span_id, "retry"),)
        elif kind == Kind.TASK:
            attributes[EXEC_TASK_ID] = entry.node_id
            if entry.item is not None:
                attributes[EXEC_TASK_ID], attributes[EXEC_ATTEMPT] = f"{entry.node_id}/{entry.item}", entry.attempt
        elif kind == Kind.PHASE:
            attributes[EXEC_PHASE] = entry.name
            if entry.node_id != step.node_id:
                attributes[NODE_ID] = attributes[NODE_NAME] = entry.node_id
        span = self.recorder.make(
            kind,
            entry.name,
            min(start_ns, at_ns),
            at_ns,
            span_id=entry.span_id,
            parent=entry.parent_span_id,
            attributes=attributes,
            links=links,
            outcome=outcome,
            error_type=error_type,
            message=message if kind == Kind.TASK else "",
        )
        self.finished.append(span)
        return span

    # Workers, gates, the run.

    def worker_started(self, worker_id: str, at_ns: int) -> str:
        """A worker's process was started; returns the id of its span."""
        span_id = self.recorder.ids.span_id()
        self._workers[worker_id] = (span_id, at_ns, None)
        return span_id

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

    def close_run(self, name: str, at_ns: int, outcome: str) -> None:
        """The run has ended: whatever is still open is closed with it, then the run span."""
        for worker_id in list(self._workers):
            self.worker_ended(worker_id, at_ns, Outcome.SUCCESS)
        for index in list(self._step_start):
            self.close_step(index, at_ns, Outcome.ERROR, error_type=ERROR_INTERRUPTED)
        for level, start_ns in list(self._levels.items()):
            self.close_level(level, start_ns, at_ns, outcome)
        self.finished.append(
            run_span(self.recorder, name, self.start_ns, at_ns, outcome, span_id=self.root_span_id, parent=self.parent_span_id, links=self.links)
        )


def run_span(
    recorder: Recorder, name: str, start_ns: int, end_ns: int, outcome: str, *, span_id: str, parent: str, links: Sequence[SpanLink] = ()
) -> SpanRecord:
    """Return the span of a whole run; `parent` is what an inbound carrier named, "" where there is none."""
    return recorder.make(
        Kind.RUN,
        f"run {name}",
        start_ns,
        end_ns,
        span_id=span_id,
        parent=parent,
        attributes={EXEC_NAME: name},
        links=links,
        outcome=outcome,
        error_type=_ERROR_TYPES.get(outcome),
        span_kind=2,
        remote=bool(parent),
    )
