"""What it costs to fold a finished task into all metrics, beside OpenTelemetry's own instruments: `python bench/folding.py [--tasks N] [--rounds N] [--phases N]`.

A task here is an attempt that ended, the step that settled with it, and its phases: a queue, a task and a step duration, a duration for each phase, and the count of steps. Ours reads them from the run's record,
in the driver, once a task; the SDK's instruments record the same numbers with the same attributes and no reader, one call each. The two take turns, so that the ratio holds on a machine that does other things as well; times are the thread's own (CPU).
"""

from __future__ import annotations

import argparse
import statistics
import time

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_exec.aggregate.aggregator import Aggregator
from otel_exec.aggregate.folds import PhaseFold, TaskSums
from otel_exec.aggregate.metric_points import MetricPoints
from otel_exec.record.model import AttemptRecord, ExecutorRecord, Experiment, RunRecord, StepRecord
from otel_exec.record.run_store import JournalLine
from otel_exec.semconv import METRICS
from otel_exec.spans.metric_codec import MetricEncoder

START_NS = 1_700_000_000_000_000_000
TEMPLATES = 20


def run_of(tasks: int, phases: int) -> tuple[Aggregator, list[JournalLine]]:
    """Return a run whose tasks have all ended, and the transitions that say so."""
    steps = []
    for number in range(tasks):
        start_ns, took_ns = number * 1_000_000, 1_000_000 + number * 7919 % 5_000_000
        attempt = AttemptRecord(
            1,
            outcome="success",
            claimed_ns=start_ns + 1000,
            start_ns=start_ns + 2000,
            end_ns=start_ns + 2000 + took_ns,
            span_id=f"{number:016x}",
            queue_ns=1000,
            execution_ns=took_ns,
        )
        steps.append(
            StepRecord(
                f"s{number}",
                f"s{number}",
                template=f"step-{number % TEMPLATES}/{{x}}",
                outcome="success",
                start_ns=start_ns,
                end_ns=start_ns + 5000 + took_ns,
                span_id=f"{number:016x}",
                attempts=[attempt],
            )
        )
    record = RunRecord("1.0", "exec_1", "ab" * 16, "cd" * 8, "running", Experiment("bench"), ExecutorRecord("inline", 1), "", "", "", steps=steps)
    record.start_time_unix_nano = str(START_NS)
    aggregator = Aggregator(record)
    for step in steps:
        folds = {}
        for number in range(phases):
            took_ns = 100_000 + number
            folds[f"phase {number}"] = fold = PhaseFold(
                count=1, total_ns=took_ns, min_ns=took_ns, max_ns=took_ns, slowest=(took_ns, START_NS, step.span_id or "")
            )
            fold.samples.add(took_ns)
        aggregator.fold(step.node_id, 1, TaskSums(phases=folds))
    lines = []
    for step in steps:
        lines += [JournalLine(START_NS, "ended", node=step.node_id, attempt=1), JournalLine(START_NS, "settled", node=step.node_id)]
    return aggregator, lines


def ours(aggregator: Aggregator, lines: list[JournalLine]) -> tuple[float, MetricPoints]:
    """Return the seconds a task."""
    points = MetricPoints("bench", START_NS)
    begun = time.thread_time()
    for at in range(0, len(lines), 2):  # as they come: a task or a few a round
        points.take(lines[at : at + 2], aggregator)
    return (time.thread_time() - begun) / len(aggregator.record.steps), points


def theirs(aggregator: Aggregator) -> float:
    """Return the seconds a task."""
    meter = MeterProvider([InMemoryMetricReader()]).get_meter("otel_exec")
    names = {metric.name: metric for metric in METRICS}
    step_s, queue_s, task_s, phase_s = (
        meter.create_histogram(f"otel_exec.{name}.duration", names[f"otel_exec.{name}.duration"].unit) for name in ("step", "task.queue", "task", "phase")
    )
    steps = meter.create_counter("otel_exec.steps", "{step}")
    begun = time.thread_time()
    for step in aggregator.record.steps:
        attempt = step.attempts[0]
        base = {"exec.name": "bench", "exec.template": step.template or ""}
        outcome = {**base, "exec.outcome": step.outcome or ""}
        queue_s.record((attempt.queue_ns or 0) / 1e9, base)
        task_s.record((attempt.execution_ns or 0) / 1e9, outcome)
        step_s.record(((step.end_ns or 0) - (step.start_ns or 0)) / 1e9, outcome)
        steps.add(1, {**outcome, "exec.cached": False})
        for name, fold in aggregator.sums[step.node_id, 1].phases.items():
            phase_s.record(fold.total_ns / 1e9, {**base, "exec.phase": name})
    return (time.thread_time() - begun) / len(aggregator.record.steps)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--phases", type=int, default=3)
    options = parser.parse_args()
    aggregator, lines = run_of(options.tasks, options.phases)
    pairs, points = [], None
    for turn in range(options.rounds):
        sdk_s = theirs(aggregator) if turn % 2 else 0.0
        own_s, points = ours(aggregator, lines)
        pairs.append((own_s, sdk_s or theirs(aggregator)))
    assert points is not None
    encoder = MetricEncoder({"service.name": "bench"}, "ab" * 16)
    begun = time.thread_time()
    records = points.collect(START_NS, busy=0, idle=0)
    size = sum(map(len, encoder.encode(records)))
    collected_s = time.thread_time() - begun
    series = sum(len(record.points) for record in records)
    print(f"a task with {options.phases} phases, folded into all metrics; medians of {options.rounds} rounds of {options.tasks:,} tasks")
    print(f"  otel_exec           {statistics.median(own for own, _ in pairs) * 1e6:6.1f} us")
    print(f"  SDK instruments     {statistics.median(sdk for _, sdk in pairs) * 1e6:6.1f} us")
    print(f"  ratio               {statistics.median(own / sdk for own, sdk in pairs):6.2f}")
    print(f"a collection of {series} series: {collected_s * 1e3:.1f} ms, {size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
