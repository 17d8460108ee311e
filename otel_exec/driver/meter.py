"""Collects a run's metrics while it goes on, and writes them for the exporter.

What comes in: the aggregator's record and news, what the runner has in hand. What goes out: lines of `metrics.jsonl` in the run's folder: at the start, at every interval, at the end.
Never raises and never changes a run: what goes wrong is a warning of the record, and the end of the metrics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_exec.aggregate.metric_points import MetricPoints
from otel_exec.schedule.pace import Pace
from otel_exec.semconv import Kind
from otel_exec.spans.metric_codec import MetricEncoder
from otel_exec.spans.metrics_file import MetricsFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from otel_exec.aggregate.aggregator import Aggregator
    from otel_exec.clock import Clock
    from otel_exec.config import Config
    from otel_exec.schedule.runner import Runner
    from otel_exec.spans.span_record import AttributeValue, SpanRecord

__all__ = ["Meter", "busy_workers"]

# Of a run's time, in case there are so many series that writing them takes long.
_SHARE = 0.005
# Workers that have work say so once a second.
_FRESH_NS = 2_000_000_000
_FAILED = "metrics_failed"


def busy_workers(runner: Runner, now_ns: int) -> set[str]:
    """Return the workers that have an attempt, or said a moment ago that they have an item of another's fan-out."""
    busy = {running.worker_id for running in runner.attempts.running.values() if running.claimed_ns is not None}
    helping = {worker for worker, at_ns in runner.beat_ns.items() if now_ns - at_ns < _FRESH_NS}
    return busy | {worker for worker in helping if any(entry.kind == Kind.TASK for entry in runner.beats.get(worker, ()))}


class Meter:
    """The metrics of one run.

    Args:
        folder: the run's local folder.
        config: the interval, the temporality, the exemplar filter.
        aggregator: whose numbers are shown; its `news` are taken from here on.
        clock: the run's.
        resource: on every request.
        templates: of the steps that are to be run.
        sampled: whether the run's spans go out, so that exemplars can name them.
    """

    def __init__(
        self,
        folder: str,
        config: Config,
        aggregator: Aggregator,
        clock: Clock,
        resource: Mapping[str, AttributeValue],
        templates: Iterable[str],
        *,
        sampled: bool,
    ) -> None:
        record = aggregator.record
        exemplars = config.exemplar_filter == "always_on" or (config.exemplar_filter == "trace_based" and sampled)
        self._aggregator = aggregator
        self._clock = clock
        self._file = MetricsFile(folder)
        self._encoder = MetricEncoder(resource, record.trace_id)
        self._points = MetricPoints(record.experiment.name, aggregator.start_ns, delta=config.metric_temporality != "cumulative", exemplars=exemplars)
        self._points.expect(templates)
        self._pace = Pace(int(config.metric_interval_s * 1e9), _SHARE)
        self._failed = False
        aggregator.news = []

    def begin(self) -> None:
        """Write the first request: counters at zero."""
        self._guarded(lambda: self._collect(frozenset()))

    def keep(self, runner: Runner) -> None:
        """Take in what happened, and write what is due. Called by the runner after each round; cheap when nothing is."""
        if self._aggregator.news:
            self._guarded(self._take)
        now_ns = self._clock.now_ns()
        if not self._failed and self._pace.due(now_ns):
            self._guarded(lambda: self._collect(busy_workers(runner, now_ns)))

    def end(self, of_children: Sequence[SpanRecord] = ()) -> None:
        """Take in the rest, the phases of tasks' forked children with it, and write the last request."""
        self._guarded(self._take)
        self._guarded(lambda: self._points.phases_of_children(of_children))
        self._guarded(self._finish)

    def _finish(self) -> None:
        record = self._aggregator.record
        if record.duration_ns is not None:
            self._points.run_ended(record.duration_ns, record.outcome, record.root_span_id)
        self._collect(frozenset())

    def _take(self) -> None:
        news, self._aggregator.news = self._aggregator.news or [], []
        self._points.take(news, self._aggregator)

    def _collect(self, busy: set[str] | frozenset[str]) -> None:
        now_ns = self._clock.now_ns()
        up = {worker.worker_id for worker in self._aggregator.workers.values() if worker.started_at is not None and worker.stopped_at is None}
        for line in self._encoder.encode(self._points.collect(now_ns, busy=len(busy & up), idle=len(up - busy))):
            self._file.append(line)
        self._points.collected(now_ns)
        self._pace.done(now_ns, self._clock.now_ns())

    def _guarded(self, action: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception as error:  # telemetry never changes an outcome
            self._failed = True
            self._aggregator.news = None
            self._aggregator.warn(_FAILED, f"metrics ended early: {error}")
