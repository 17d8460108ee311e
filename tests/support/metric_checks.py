"""What must hold of a run's metrics: they are what its spans and its record say, reckoned here a second time.

What comes in: data points, as a receiver decoded them or as metrics.jsonl holds them, and the run's record. Nothing here looks at how they were added up.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from support.otlp_receiver import decode_metrics, parse_json

from otel_exec.semconv import METRICS
from otel_exec.spans.metrics_file import metrics_files
from otel_exec.spans.spool import read_spool

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from support.otlp_receiver import ReceivedPoint

    from otel_exec.record.model import RunRecord
    from otel_exec.spans.span_record import SpanRecord

CUMULATIVE, DELTA = 2, 1
# What measured an exemplar of a metric: its span's kind.
MEASURED_BY = {
    "otel_exec.run.duration": "run",
    "otel_exec.step.duration": "step",
    "otel_exec.task.queue.duration": "queue",
    "otel_exec.task.duration": "task",
    "otel_exec.phase.duration": "phase",
}
_NOT_OURS = ("not_needed", "not_selected")


def written_points(record: RunRecord) -> list[ReceivedPoint]:
    """Return the data points of a run's metrics.jsonl, in the order written; a line that is none is an error."""
    return [
        point
        for file, _ in metrics_files(record.run_folder)
        for line in Path(record.run_folder, file).read_bytes().splitlines()
        for point in decode_metrics(parse_json(line, ExportMetricsServiceRequest()))
    ]


def latest(points: Iterable[ReceivedPoint]) -> dict[tuple[str, tuple[tuple[str, Any], ...]], ReceivedPoint]:
    """Return the newest point of each series."""
    return {(point.metric, tuple(sorted(point.attributes.items()))): point for point in sorted(points, key=lambda point: point.at_ns)}


def check_metrics(points: Iterable[ReceivedPoint], record: RunRecord) -> Mapping[str, int]:
    """Hold cumulative points against the record and the spool; returns how much of each metric there is: the counts of histograms, the values of sums."""
    points = list(points)
    spans = {span.span_id: span for span in read_spool(str(Path(record.run_folder, "spans")))}
    known = {metric.name: metric for metric in METRICS}
    for point in points:
        metric = known[point.metric]
        assert (point.unit, point.description, point.scope) == (metric.unit, metric.brief, "otel_exec")
        assert (point.kind, point.monotonic) == {"histogram": ("histogram", None), "counter": ("sum", True), "updowncounter": ("sum", False)}[metric.instrument]
        assert set(point.attributes) == set(metric.attributes)
        assert point.attributes["exec.name"] == record.experiment.name
        assert (point.start_ns, point.temporality) == (int(record.start_time_unix_nano), CUMULATIVE)
        assert point.at_ns >= point.start_ns
        assert point.resource["service.instance.id"] == record.exec_id
        _check_exemplars(point, record, spans)
    newest = latest(points).values()
    durations: dict[tuple[str, ...], tuple[int, float]] = {}
    counts: Counter[tuple[str, ...]] = Counter()
    for point in newest:
        key = (point.metric, *(str(point.attributes[name]) for name in known[point.metric].attributes[1:]))
        if point.kind == "histogram" and point.count:
            durations[key] = (point.count, round(point.sum * 1e9))
        elif point.value:
            counts[key] = point.value
    wanted = _durations(record, spans.values())
    init = durations.pop(("otel_exec.worker.init.duration",), (0, 0))
    assert init[0] == sum(worker.ready_at is not None for worker in record.workers)
    assert {key: count for key, (count, _) in durations.items()} == {key: len(values) for key, values in wanted.items()}
    for key, (_, sum_ns) in durations.items():
        assert abs(sum_ns - sum(wanted[key])) <= 2, key  # seconds are doubles
    assert counts == _counts(record)
    totals: Counter[str] = Counter()
    for point in newest:
        totals[point.metric] += point.count if point.value is None else point.value
    return totals


def _check_exemplars(point: ReceivedPoint, record: RunRecord, spans: Mapping[str, SpanRecord]) -> None:
    for at_ns, seconds, span_id, trace_id in point.exemplars:
        span = spans[span_id]
        assert (span.kind, trace_id) == (MEASURED_BY[point.metric], record.trace_id)
        assert span.end_ns == at_ns
        assert abs(span.duration_ns / 1e9 - seconds) < 1e-9
        for name in ("exec.template", "exec.phase", "exec.outcome"):
            if name in point.attributes:
                assert span.attributes[name] == point.attributes[name]
        assert point.min is not None
        assert point.max is not None
        assert point.min <= seconds <= point.max


def _durations(record: RunRecord, spans: Iterable[SpanRecord]) -> dict[tuple[str, ...], list[int]]:
    """Return what the histograms should hold, nanoseconds each, from the spool alone; that a step was cached or a group only the record knows."""
    spans = list(spans)
    found: dict[tuple[str, ...], list[int]] = defaultdict(list)
    steps = {step.node_id: step for step in record.steps}
    queued: Counter[tuple[str, Any]] = Counter()
    ran = {(span.attributes["node.id"], span.attributes["exec.attempt"]) for span in spans if span.kind == "task" and _own(span)}
    for span in spans:
        attributes = span.attributes
        template = str(attributes.get("exec.template"))
        if span.kind == "run":
            found["otel_exec.run.duration", str(attributes["exec.outcome"])].append(span.duration_ns)
        elif span.kind == "step":
            step = steps[str(attributes["node.id"])]
            if any(node_id == step.node_id for node_id, _ in ran) and not step.cached:
                found["otel_exec.step.duration", template, str(attributes["exec.outcome"])].append(span.duration_ns)
        elif span.kind == "task" and _own(span):
            found["otel_exec.task.duration", template, str(attributes["exec.outcome"])].append(span.duration_ns)
        elif span.kind == "phase":
            found["otel_exec.phase.duration", template, str(attributes["exec.phase"])].append(span.duration_ns)
        elif span.kind == "queue" and (attributes["node.id"], attributes["exec.attempt"]) in ran:
            queued[str(attributes["node.id"]), attributes["exec.attempt"]] += span.duration_ns
    for (node_id, _), duration_ns in queued.items():
        found["otel_exec.task.queue.duration", str(steps[node_id].template)].append(duration_ns)
    return dict(found)


def _own(span: SpanRecord) -> bool:
    """Whether a task is an attempt at a step, and no item of a fan-out."""
    return span.attributes["exec.task.id"] == span.attributes["node.id"]


def _counts(record: RunRecord) -> Counter[tuple[str, ...]]:
    counts: Counter[tuple[str, ...]] = Counter()
    for step in record.steps:
        if step.group or step.outcome is None or step.reason in _NOT_OURS:
            continue
        counts["otel_exec.steps", str(step.template), step.outcome, str(step.cached)] += 1
        for before, attempt in zip(step.attempts, step.attempts[1:], strict=False):
            if attempt.claimed_ns is not None:
                assert before.error is not None
                counts["otel_exec.retries", str(step.template), before.error.type] += 1
    for worker in record.workers:
        if worker.died:
            counts["otel_exec.worker.deaths", "worker_died"] += 1
    return counts
