"""Metrics added up: buckets, exemplars, series, deltas."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_exec.aggregate import metric_points
from otel_exec.aggregate.aggregator import Aggregator
from otel_exec.aggregate.folds import PhaseFold, TaskSums
from otel_exec.aggregate.histogram import EXACT_LIMIT, RELATIVE_ERROR
from otel_exec.aggregate.metric_points import OVERFLOW, MetricPoints
from otel_exec.record.model import AttemptRecord, ExecutorRecord, Experiment, RecordedError, RunRecord, StepRecord
from otel_exec.record.run_store import JournalLine
from otel_exec.spans.metric_record import BOUNDS_NS, DurationPoint
from otel_exec.testing import memory_recorder

START = 1_700_000_000_000_000_000
durations = st.integers(0, 10**15)


def run_of(*steps):
    return Aggregator(
        RunRecord(
            schema_version="1.0",
            exec_id="exec_1",
            trace_id="ab" * 16,
            root_span_id="cd" * 8,
            outcome="running",
            experiment=Experiment("demo"),
            executor=ExecutorRecord("inline", 1),
            prefix="",
            run_folder="",
            start_time="",
            start_time_unix_nano=str(START),
            steps=list(steps),
        )
    )


def tried(number, *, outcome="success", error=None, execution_ns=5_000_000):
    failed = RecordedError(error, "it broke") if error else None
    return AttemptRecord(
        number, outcome=outcome, claimed_ns=1_000, end_ns=1_000 + execution_ns, span_id=f"{number:016x}", queue_ns=700, execution_ns=execution_ns, error=failed
    )


def ended(node, attempt):
    return JournalLine(START, "ended", node=node, attempt=attempt)


def settled(node):
    return JournalLine(START, "settled", node=node)


def of(records, name):
    (record,) = [record for record in records if record.metric.name == name]
    return record


def values(records, name):
    """What a metric holds, by its attributes after the experiment's name, where it is anything."""
    return {
        tuple(point.attributes[key] for key in list(point.attributes)[1:]): getattr(point, "count", None) or getattr(point, "value", 0)
        for point in of(records, name).points
        if getattr(point, "count", 0) or getattr(point, "value", 0)
    }


def collect(points):
    return points.collect(START + 10**9, busy=0, idle=0)


@pytest.mark.parametrize("index", [0, 7, len(BOUNDS_NS) - 1])
def test_a_bound_belongs_to_the_bucket_below_it(index):
    """OpenTelemetry's buckets are open below and closed above; what is past the last bound has a bucket of its own."""
    point = DurationPoint({})
    for value_ns in (BOUNDS_NS[index], BOUNDS_NS[index] + 1):
        point.add(value_ns)
    assert (point.buckets[index], point.buckets[index + 1], sum(point.buckets)) == (1, 1, 2)


def test_each_attempt_and_each_step_counts_once():
    """Attempts give queues, tasks and retries by the error before; steps give their outcome; the record has the numbers."""
    attempts = [tried(1, outcome="failure", error="ValueError"), tried(2)]
    step = StepRecord("a-1", "a", template="a", outcome="success", start_ns=0, end_ns=9_000_000, span_id="f" * 16, attempts=attempts)
    aggregator = run_of(step)
    points = MetricPoints("demo", START)
    points.take([ended("a-1", 1), ended("a-1", 2), settled("a-1")], aggregator)
    records = collect(points)
    assert values(records, "otel_exec.task.duration") == {("a", "failure"): 1, ("a", "success"): 1}
    assert values(records, "otel_exec.task.queue.duration") == {("a",): 2}
    assert values(records, "otel_exec.retries") == {("a", "ValueError"): 1}
    assert values(records, "otel_exec.steps") == {("a", "success", False): 1}
    assert values(records, "otel_exec.step.duration") == {("a", "success"): 1}
    (point,) = of(records, "otel_exec.step.duration").points
    assert (point.sum_ns, [(each.value_ns, each.at_ns, each.span_id) for each in point.exemplars.values()]) == (
        9_000_000,
        [(9_000_000, START + 9_000_000, "f" * 16)],
    )


@pytest.mark.parametrize(
    ("step", "counted"),
    [
        (StepRecord("a-1", "a", template="a", outcome="success", cached=True, start_ns=1, end_ns=1), {("a", "success", True): 1}),
        (StepRecord("a-1", "a", template="a", outcome="skip", reason="upstream_failed"), {("a", "skip", False): 1}),
        (StepRecord("a-1", "a", template="a", outcome="cancellation", start_ns=1, end_ns=5), {("a", "cancellation", False): 1}),
        (StepRecord("a-1", "a", template="a", outcome="skip", reason="not_needed"), {}),
        (StepRecord("a-1", "a", template="a", outcome="success", group=True), {}),
    ],
)
def test_steps_that_were_not_run_have_no_duration(step, counted):
    """Cached, skipped and never claimed steps count and take no time; groups, and ancestors that nobody needed, do not count."""
    points = MetricPoints("demo", START)
    points.take([settled("a-1")], run_of(step))
    records = collect(points)
    assert values(records, "otel_exec.steps") == counted
    assert values(records, "otel_exec.step.duration") == {}


def test_news_of_what_is_not_there_are_passed_over():
    """Transitions of steps, attempts and workers that the record does not have change nothing."""
    points = MetricPoints("demo", START)
    points.take([ended("x", 1), settled("x"), ended("a-1", 3), JournalLine(START, "worker", worker="0", cause="ready"), JournalLine(START, "began")], run_of())
    assert [point for record in collect(points) for point in record.points if getattr(point, "count", 0) or getattr(point, "value", 0)] == []


def test_workers_start_and_die():
    """A worker's start is measured from its own two transitions; deaths count by their word."""
    points = MetricPoints("demo", START)
    lines = [
        JournalLine(START, "worker", worker="0", cause="started"),
        JournalLine(START + 40, "worker", worker="0", cause="ready"),
        JournalLine(START + 50, "worker", worker="0", cause="died", data={"reason": "killed", "error_type": "worker_died"}),
    ]
    points.take(lines, run_of())
    records = points.collect(START + 60, busy=2, idle=1)
    (init,) = of(records, "otel_exec.worker.init.duration").points
    assert (init.count, init.sum_ns) == (1, 40)
    assert values(records, "otel_exec.worker.deaths") == {("worker_died",): 1}
    assert values(records, "otel_exec.workers") == {("busy",): 2, ("idle",): 1}


def test_counting_begins_at_zero():
    """Before anything has happened there is a zero for each outcome of each template, so that an increase can be seen."""
    points = MetricPoints("demo", START)
    points.expect(["a", "b", "a"])
    steps = of(collect(points), "otel_exec.steps").points
    assert len(steps) == 2 * 7
    assert {point.value for point in steps} == {0}


def test_deltas_begin_anew():
    """With deltas a collection is about what happened since the one before; workers are what they are."""
    step = StepRecord("a-1", "a", template="a", outcome="success", start_ns=0, end_ns=9, attempts=[tried(1)])
    points = MetricPoints("demo", START, delta=True)
    points.expect(["a"])
    points.take([ended("a-1", 1), settled("a-1")], run_of(step))
    first = points.collect(START + 10, busy=1, idle=0)
    assert (of(first, "otel_exec.steps").start_ns, of(first, "otel_exec.steps").delta) == (START, True)
    points.collected(START + 10)
    second = points.collect(START + 20, busy=1, idle=0)
    assert of(second, "otel_exec.steps").points == of(second, "otel_exec.step.duration").points == ()
    assert of(second, "otel_exec.steps").start_ns == START + 10
    assert (of(second, "otel_exec.workers").start_ns, of(second, "otel_exec.workers").delta) == (START, False)


def test_exemplars_are_new_ones_each_time():
    """A collection names the slowest of each bucket since the one before; without exemplars it names none."""
    for wanted in (True, False):
        steps = [StepRecord(f"a-{n}", "a", template="a", attempts=[tried(1, execution_ns=n)]) for n in (3_000_000, 4_000_000, 70_000_000)]
        points = MetricPoints("demo", START, exemplars=wanted)
        points.take([ended(step.node_id, 1) for step in steps], run_of(*steps))
        (point,) = of(collect(points), "otel_exec.task.duration").points
        assert [each.value_ns for each in point.exemplars.values()] == ([4_000_000, 70_000_000] if wanted else [])
        points.collected(START)
        assert (point.exemplars, point.count) == ({}, 3)


def test_series_are_bounded(monkeypatch):
    """Past the limit of series the rest is one series that says so, and nothing is lost."""
    monkeypatch.setattr(metric_points, "CARDINALITY_LIMIT", 4)
    steps = [StepRecord(f"a-{n}", "a", template=f"t{n}", outcome="success") for n in range(10)]
    points = MetricPoints("demo", START)
    points.take([settled(step.node_id) for step in steps], run_of(*steps))
    counted = of(collect(points), "otel_exec.steps").points
    assert [point.value for point in counted] == [1, 1, 1, 7]
    assert counted[-1].attributes == {OVERFLOW: True}


@settings(deadline=None)
@given(st.lists(durations, min_size=1, max_size=40), st.integers(1, 30))
def test_phases_are_put_into_their_buckets(few, times):
    """Folded phases count as the occurrences would one by one: exactly while they are few; past that one at a bound may be in the bucket beside. Sums are exact."""
    samples = few * (times if times < 15 else EXACT_LIMIT // len(few) + 1)
    fold = PhaseFold(count=len(samples), total_ns=sum(samples), min_ns=min(samples), max_ns=max(samples))
    for value_ns in samples:
        fold.samples.add(value_ns)
    step = StepRecord("a-1", "a", template="a", attempts=[tried(1)])
    aggregator = run_of(step)
    aggregator.fold("a-1", 1, TaskSums(phases={"p": fold}))
    points = MetricPoints("demo", START)
    points.take([ended("a-1", 1)], aggregator)
    (point,) = of(collect(points), "otel_exec.phase.duration").points
    one_by_one = DurationPoint({})
    for value_ns in samples:
        one_by_one.add(value_ns)
    assert (point.count, point.sum_ns, point.min_ns, point.max_ns) == (len(samples), sum(samples), min(samples), max(samples))
    near = [any(abs(value_ns - bound) <= RELATIVE_ERROR * bound + 1 for bound in BOUNDS_NS) for value_ns in samples]
    off = sum(abs(mine - theirs) for mine, theirs in zip(point.buckets, one_by_one.buckets, strict=True))
    assert off <= (0 if len(samples) <= EXACT_LIMIT else 2 * sum(near))


occurrences = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.sampled_from("abc")), max_size=8)


@given(occurrences, occurrences)
def test_the_slowest_is_the_same_in_any_order(some, others):
    """Which occurrence a fold names depends on neither the order in which they come nor that in which folds are merged."""

    def folded(*groups):
        folds = []
        for group in groups:
            fold = PhaseFold()
            for each in group:
                fold.spanned(*each)
            folds.append(fold)
        whole = PhaseFold()
        for fold in folds:
            whole.merge(fold)
        return whole.slowest

    slowest = folded(some, others)
    assert slowest == folded(others, some) == folded(list(reversed(others + some)))
    assert slowest == (max(some + others, key=lambda each: (each[0], -each[1], -ord(each[2]))) if some + others else None)


def test_the_exemplar_of_a_queue_has_the_end_of_its_span():
    """Where an attempt queued twice, since a lock was held, its exemplar is at the end of the span that it names, not when the attempt was claimed at last."""
    aggregator = run_of(StepRecord("a-1", "a", template="a", attempts=[tried(1)]))
    recorder, _ = memory_recorder()
    attributes = {"node.id": "a-1", "exec.attempt": 1}
    longer, shorter = (recorder.make("queue", "queue", START + start, START + end, attributes=attributes) for start, end in ((0, 300), (500, 1_000 - 400)))
    aggregator.ingest([longer, shorter])
    points = MetricPoints("demo", START)
    points.take([ended("a-1", 1)], aggregator)
    (point,) = of(collect(points), "otel_exec.task.queue.duration").points
    assert [(each.value_ns, each.at_ns, each.span_id) for each in point.exemplars.values()] == [(400, START + 300, longer.span_id)]
