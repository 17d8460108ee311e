"""A run's metrics, added up from its record's own numbers: what OTLP metrics show and run.json are the same.

What comes in: transitions that were taken in by the aggregator, and the aggregator, whose record then holds what was measured. What goes out: `MetricRecord`s, at any time.
Each attempt is folded once, when it has ended, each step once, when it has settled. Never reads a clock or a file; nothing is measured a second time.

Phases come folded: while a task's occurrences of a phase are few (`histogram.EXACT_LIMIT`) each is put into its bucket exactly; past that one within 0.55 % of a bucket's bound
may land on the other side. Counts, sums, minima and maxima are exact always.

Source: OpenTelemetry specification 1.49, metrics SDK, "Cardinality limits".
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Generic, TypeVar

from otel_exec.aggregate.histogram import value_of
from otel_exec.aggregate.tally import counts, total_ns
from otel_exec.semconv import (
    ERROR_WORKER_DIED,
    EXEC_NAME,
    EXEC_PHASE,
    EXEC_TEMPLATE,
    METRIC_PHASE_DURATION,
    METRIC_RETRIES,
    METRIC_RUN_DURATION,
    METRIC_STEP_DURATION,
    METRIC_STEPS,
    METRIC_TASK_DURATION,
    METRIC_TASK_QUEUE,
    METRIC_WORKER_DEATHS,
    METRIC_WORKER_INIT,
    METRIC_WORKERS,
    METRICS,
    NODES_ROW,
    Outcome,
)
from otel_exec.spans.metric_record import BOUNDS_NS, CountPoint, DurationPoint, MetricRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_exec.aggregate.aggregator import Aggregator
    from otel_exec.aggregate.folds import PhaseFold
    from otel_exec.record.model import AttemptRecord, StepRecord
    from otel_exec.record.run_store import JournalLine
    from otel_exec.semconv import Metric
    from otel_exec.spans.span_record import AttributeValue, SpanRecord

__all__ = ["CARDINALITY_LIMIT", "OVERFLOW", "MetricPoints"]

# Series a metric; the specification's default and its attribute for what goes past it.
CARDINALITY_LIMIT = 2000
OVERFLOW = "otel.metric.overflow"
# Templates that begin at zero; a plan with more of them would use up its series with zeros.
_EXPECTED = 100

_Point = TypeVar("_Point", CountPoint, DurationPoint)


class _Family(Generic[_Point]):
    """The series of one metric, by the values of its attributes after the experiment's name."""

    def __init__(self, metric: Metric, name: str, make: Callable[[dict[str, AttributeValue]], _Point]) -> None:
        self.metric = metric
        self._name = name
        self._make: Callable[[dict[str, AttributeValue]], _Point] = make
        self._points: dict[tuple[AttributeValue, ...], _Point] = {}

    def point(self, *values: AttributeValue) -> _Point:
        """Return the series of these values; past the limit of series, the one that stands for all others."""
        point = self._points.get(values)
        if point is None:
            if len(self._points) >= CARDINALITY_LIMIT - 1 and values != ():
                return self._overflow()
            attributes: dict[str, AttributeValue] = {EXEC_NAME: self._name, **dict(zip(self.metric.attributes[1:], values, strict=True))}
            point = self._points[values] = self._make(attributes)
        return point

    def _overflow(self) -> _Point:
        point = self._points.get((OVERFLOW,))
        if point is None:
            point = self._points[OVERFLOW,] = self._make({OVERFLOW: True})
        return point

    def points(self) -> tuple[_Point, ...]:
        """Return the series, oldest first."""
        return tuple(self._points.values())

    def clear(self) -> None:
        """Forget all series."""
        self._points.clear()


class MetricPoints:
    """The metrics of one run.

    Args:
        name: the experiment's, on every point.
        start_ns: when the run began.
        delta: whether a collection empties histograms and counters; else they count from `start_ns`.
        exemplars: whether points name spans.
    """

    def __init__(self, name: str, start_ns: int, *, delta: bool = False, exemplars: bool = True) -> None:
        registry = {metric.name: metric for metric in METRICS}

        def durations(metric: str) -> _Family[DurationPoint]:
            return _Family(registry[metric], name, DurationPoint)

        def sums(metric: str) -> _Family[CountPoint]:
            return _Family(registry[metric], name, CountPoint)

        self._run = durations(METRIC_RUN_DURATION)
        self._step = durations(METRIC_STEP_DURATION)
        self._queue = durations(METRIC_TASK_QUEUE)
        self._task = durations(METRIC_TASK_DURATION)
        self._phase = durations(METRIC_PHASE_DURATION)
        self._worker_init = durations(METRIC_WORKER_INIT)
        self._steps = sums(METRIC_STEPS)
        self._retries = sums(METRIC_RETRIES)
        self._deaths = sums(METRIC_WORKER_DEATHS)
        self._workers = sums(METRIC_WORKERS)
        self._durations = (self._run, self._step, self._queue, self._task, self._phase, self._worker_init)
        self._sums = (self._steps, self._retries, self._deaths)
        self._delta = delta
        self._exemplars = exemplars
        self._start_ns = self._since_ns = start_ns
        self._started: dict[str, int] = {}

    def expect(self, templates: Iterable[str]) -> None:
        """Begin at zero the series that a run of these templates may come to: an increase is seen only between two values."""
        if self._delta:
            return
        for outcome in (Outcome.SUCCESS, Outcome.FAILURE):
            self._run.point(outcome.value)
        for template in list(dict.fromkeys(templates))[:_EXPECTED]:
            for outcome in Outcome:
                self._steps.point(template, outcome.value, False)
            self._steps.point(template, Outcome.SUCCESS.value, True)
            self._queue.point(template)
            for outcome in (Outcome.SUCCESS, Outcome.FAILURE):
                self._step.point(template, outcome.value)
                self._task.point(template, outcome.value)
        self._worker_init.point()
        self._deaths.point(ERROR_WORKER_DIED)

    def take(self, lines: Iterable[JournalLine], aggregator: Aggregator) -> None:
        """Take in what happened, from transitions that the aggregator has taken in, once their spans have reached it as well."""
        for line in lines:
            if line.what == "ended":
                step = aggregator.steps.get(line.node or "")
                if step is not None and line.attempt is not None and line.attempt <= len(step.attempts):
                    self._ended(step, step.attempts[line.attempt - 1], aggregator)
            elif line.what == "settled":
                step = aggregator.steps.get(line.node or "")
                if step is not None:
                    self._settled(step)
            elif line.what == "worker":
                self._worker(line)

    def phases_of_children(self, spans: Iterable[SpanRecord]) -> None:
        """Take in phases of processes that tasks forked: they come at the end of the run, since the task's own fold has not seen them."""
        for span in spans:
            template, name = span.attributes.get(EXEC_TEMPLATE), span.attributes.get(EXEC_PHASE)
            if isinstance(template, str) and isinstance(name, str):
                self._phase.point(template, name).add(span.duration_ns, span.end_ns, span.span_id)

    def run_ended(self, duration_ns: int, outcome: str, span_id: str | None) -> None:
        """The run is over."""
        self._run.point(outcome).add(duration_ns, self._start_ns + duration_ns, span_id)

    def collect(self, at_ns: int, *, busy: int, idle: int) -> list[MetricRecord]:
        """Return every metric as it is now.

        Args:
            at_ns: the present instant.
            busy: workers that have a task.
            idle: workers that have none.
        """
        self._workers.point("busy").value = busy
        self._workers.point("idle").value = idle
        if not self._exemplars:
            self._forget_exemplars()
        records = [MetricRecord(family.metric, family.points(), self._since_ns, at_ns, self._delta) for family in (*self._durations, *self._sums)]
        records.append(MetricRecord(self._workers.metric, self._workers.points(), self._start_ns, at_ns))
        return records

    def collected(self, at_ns: int) -> None:
        """What `collect` returned has been written: exemplars are new ones from here on, and with deltas everything is."""
        if self._delta:
            for family in (*self._durations, *self._sums):
                family.clear()
            self._since_ns = at_ns
        else:
            self._forget_exemplars()

    def _forget_exemplars(self) -> None:
        for family in self._durations:
            for point in family.points():
                point.exemplars.clear()

    def _ended(self, step: StepRecord, attempt: AttemptRecord, aggregator: Aggregator) -> None:
        template = step.template or step.name
        if attempt.claimed_ns is None:
            return
        if attempt.attempt > 1:
            before = step.attempts[attempt.attempt - 2]
            self._retries.point(template, before.error.type if before.error is not None else before.outcome or "").value += 1
        if attempt.queue_ns is not None:
            self._queue.point(template).add(attempt.queue_ns, *(aggregator.longest_queue(step, attempt) or ()))
        if attempt.execution_ns is not None and attempt.end_ns is not None:
            point = self._task.point(template, attempt.outcome or "")
            point.add(attempt.execution_ns, self._start_ns + attempt.end_ns, attempt.span_id)
        sums = aggregator.sums.get((step.node_id, attempt.attempt))
        if sums is None:
            return
        for folds in (sums.phases, *(node.phases for node in sums.nodes.values())):
            for name, fold in folds.items():
                if name != NODES_ROW:
                    self._fold(template, name, fold)

    def _fold(self, template: str, name: str, fold: PhaseFold) -> None:
        if not fold.count or fold.min_ns is None or fold.max_ns is None:
            return
        point = self._phase.point(template, name)
        point.sums(fold.count, fold.total_ns, fold.min_ns, fold.max_ns)
        buckets, samples = point.buckets, fold.samples
        if samples.exact is not None:
            for value_ns in samples.exact:
                buckets[bisect_left(BOUNDS_NS, value_ns)] += 1
        else:
            for index, count in samples.buckets.items():
                buckets[bisect_left(BOUNDS_NS, value_of(index))] += count
        if fold.slowest is not None:
            point.example(bisect_left(BOUNDS_NS, fold.slowest[0]), *fold.slowest)

    def _settled(self, step: StepRecord) -> None:
        if step.outcome is None or not counts(step):
            return
        template = step.template or step.name
        self._steps.point(template, step.outcome, step.cached).value += 1
        was_run = not step.cached and any(attempt.claimed_ns is not None for attempt in step.attempts)
        took_ns = total_ns(step)
        if was_run and took_ns is not None and step.end_ns is not None:
            self._step.point(template, step.outcome).add(took_ns, self._start_ns + step.end_ns, step.span_id)

    def _worker(self, line: JournalLine) -> None:
        worker = line.worker or ""
        if line.cause == "started":
            self._started[worker] = line.at
        elif line.cause == "ready" and worker in self._started:
            self._worker_init.point().add(max(0, line.at - self._started.pop(worker)))
        elif line.cause == "died":
            self._deaths.point(str((line.data or {}).get("error_type") or ERROR_WORKER_DIED)).value += 1
