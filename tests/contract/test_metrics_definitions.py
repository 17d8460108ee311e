"""The definitions of the metrics (docs/status.md, "The numbers"), a test a row, on every executor: the record's numbers against the spans that the run left.

Nothing is reckoned here by the code under test: spans are read from the spool, and added up by hand.
"""

from __future__ import annotations

import json
from itertools import pairwise

import metrics_experiment as experiment
import pytest
from executor_rig import KINDS
from run_checks import check_run, step_named
from support.ray_cluster import needs_ray

from otel_exec import StepsFailed
from otel_exec.metrics import MetricsCollector, TaskMetrics, WorkerMetrics
from otel_exec.semconv import EXEC_CPU_NS, EXEC_PEAK_RSS, Kind
from otel_exec.testing import run_in

MS = 1_000_000


@pytest.fixture(scope="module", params=KINDS)
def case(request, tmp_path_factory):
    """One run of everything, with a step that an earlier run made, and its spans."""
    if request.param == "ray":
        needs_ray()
    folder = tmp_path_factory.mktemp(request.param)
    run_in(folder, [experiment.cached()], executor=request.param, workers=1)
    with pytest.raises(StepsFailed) as failed:
        run_in(folder, [experiment.everything(str(folder))], executor=request.param, workers=2, barrier=True)
    return failed.value.record, check_run(failed.value.record)


@pytest.fixture
def record(case):
    return case[0]


@pytest.fixture
def trace(case):
    return case[1]


@pytest.fixture
def metrics(case):
    return MetricsCollector(case[0])


def tasks_of(trace, step):
    """A step's own task spans, an attempt each."""
    return trace.of(Kind.TASK, exec_task_id=step.node_id)


def steps(record):
    return [step for step in record.steps if not step.group]


def percentile(values, share):
    """Linear interpolation between closest ranks, written out."""
    values = sorted(values)
    rank = share * (len(values) - 1)
    low = int(rank)
    if low + 1 == len(values):
        return values[low]
    return values[low] + (values[low + 1] - values[low]) * (rank - low)


def near(ms, ns):
    """Whether whole milliseconds are a number of nanoseconds truncated; a float's rounding may move it across the edge of one."""
    return ms in {int(ns // MS), int((ns - 1) // MS), int((ns + 1) // MS)}


def test_initialization_is_the_workers_own_ready_signal_minus_its_start(record, trace):
    """`initialization_ms`: the `worker init` span."""
    assert record.workers
    for worker in record.workers:
        for init in trace.of(Kind.WORKER_INIT, exec_worker_id=worker.worker_id):
            assert worker.initialization_ms == init.duration_ns // MS
            assert worker.ready_ns - worker.start_ns == init.duration_ns


def test_uptime_is_stopped_minus_started_and_constant_after(record, trace, metrics):
    """`uptime_ms`: the `worker` span, whenever it is asked for."""
    for worker in record.workers:
        span = trace.one(Kind.WORKER, exec_worker_id=worker.worker_id)
        assert worker.uptime_ms == span.duration_ns // MS
        later = MetricsCollector(record, now_ns=span.end_ns + 10**15).compute_worker_metrics(worker.worker_id)
        assert later.uptime_ms == metrics.compute_worker_metrics(worker.worker_id).uptime_ms == worker.uptime_ms


def test_queue_wait_is_claimed_minus_created(record, trace, metrics):
    """`queue_wait_ms`: the last attempt's time before a worker took it; null where none did."""
    known = 0
    for step in steps(record):
        waited = metrics.compute_task_metrics(step.node_id).queue_wait_ms
        last = step.attempts[-1] if step.attempts else None
        if last is None or last.claimed_ns is None:
            assert waited is None
            continue
        known += 1
        before = [span for kind in (Kind.QUEUE, Kind.WAIT) for span in trace.of(kind, node_id=step.node_id, exec_attempt=last.attempt)]
        assert waited == sum(span.duration_ns for span in before) // MS
    assert known >= 10


def test_execution_is_completed_minus_started_of_the_last_attempt(record, trace, metrics):
    """`execution_duration_ms`: the last task span; each attempt is also kept on its own."""
    for step in steps(record):
        spans = tasks_of(trace, step)
        took = metrics.compute_task_metrics(step.node_id).execution_duration_ms
        assert took == (spans[-1].duration_ns // MS if spans else None)
        assert [attempt.execution_ns for attempt in step.attempts if attempt.start_ns is not None] == [span.duration_ns for span in spans]
    assert [attempt.outcome for attempt in step_named(record, "flaky").attempts] == ["failure", "success"]


def test_verification_is_its_own_span(record, trace, metrics):
    """`verification_duration_ms`: the `verify` span, apart from the execution; null where there was none."""
    for step in steps(record):
        spans = trace.of(Kind.VERIFY, node_id=step.node_id)
        verified = metrics.compute_task_metrics(step.node_id).verification_duration_ms
        assert verified == (spans[-1].duration_ns // MS if spans else None)
    checked = metrics.compute_task_metrics(step_named(record, "checked").node_id)
    assert checked.verification_duration_ms >= 6
    assert checked.execution_duration_ms >= 2


def test_total_is_settled_minus_created(record, trace, metrics):
    """`total_duration_ms`: the step span, back-off and earlier attempts included."""
    for step in steps(record):
        total = metrics.compute_task_metrics(step.node_id).total_duration_ms
        assert total == (trace.one(Kind.STEP, node_id=step.node_id).duration_ns // MS if step.attempts else None)
    retried = step_named(record, "flaky")
    assert metrics.compute_task_metrics(retried.node_id).total_duration_ms * MS + MS > retried.attempts[0].backoff_ns


def test_averages_and_percentiles_are_over_completed_tasks_execution(record, trace):
    """Of a level, a worker and a template: 0 ms ones included, failed and cached ones not; averages are floats, percentiles truncated to whole ms."""
    completed = {step.node_id: tasks_of(trace, step)[-1] for step in steps(record) if step.outcome == "success" and not step.cached}
    for level in record.levels:
        took = [span.duration_ns for node, span in completed.items() if next(s for s in record.steps if s.node_id == node).level == level.level]
        assert level.sample_count == len(took)
        assert isinstance(level.avg_task_duration_ms, float)
        assert level.avg_task_duration_ms == pytest.approx(sum(took) / len(took) / MS if took else 0.0, rel=1e-12)
        for share, found in ((0.5, level.p50_duration_ms), (0.95, level.p95_duration_ms), (0.99, level.p99_duration_ms)):
            assert near(found, percentile(took, share)) if took else found == 0
    for worker in record.workers:
        took = [span.duration_ns for span in completed.values() if span.attributes["exec.worker.id"] == worker.worker_id]
        assert worker.sample_count == len(took)
        assert worker.avg_task_duration_ms == pytest.approx(sum(took) / len(took) / MS if took else 0.0, rel=1e-12)
        assert near(worker.p95_duration_ms, percentile(took, 0.95)) if took else worker.p95_duration_ms == 0
    by_template = {row.template: row for row in record.templates}
    took = [completed[step.node_id].duration_ns for step in steps(record) if step.template == "sleep/{ms}" and not step.cached]
    row = by_template["sleep/{ms}"]
    assert (row.task_count, row.completed_count, row.failed_count, row.sample_count) == (6, 6, 0, 5)
    assert (row.total_ns, row.min_ns, row.max_ns) == (sum(took), min(took), max(took))
    assert row.p50_ns == sorted(took)[2]


def test_steps_are_counted_once_and_groups_and_retries_never(record, metrics):
    """`tasks_*`: steps, whatever their attempts; the cached one is completed; what was not run counts as neither; items and attempts stand beside them."""
    run = metrics.compute_feature_metrics()
    assert (run.tasks_total, run.tasks_completed, run.tasks_failed) == (13, 9, 2)
    assert (run.items_total, run.items_completed, run.items_failed) == (6, 6, 0)
    assert run.attempts == sum(len([a for a in step.attempts if a.claimed_ns is not None]) for step in steps(record))
    assert run.attempts == 12
    assert sum(level.task_count for level in record.levels) == 13
    with open(record.run_folder + "/status.json", "rb") as file:
        progress = json.load(file)["progress"]
    assert progress == {"done": 9, "total": 13, "failed": 2, "cached": 1, "skipped": 1, "cancelled": 1, "retries": 1}


def test_a_worker_counts_the_steps_whose_last_attempt_it_ran(record, trace):
    """`tasks_completed`, `tasks_failed`, `total_task_duration_ms` of a worker: by the last task span of each step."""
    lasts = [(step, tasks_of(trace, step)[-1]) for step in steps(record) if tasks_of(trace, step)]
    for worker in record.workers:
        mine = [(step, span) for step, span in lasts if span.attributes["exec.worker.id"] == worker.worker_id]
        assert worker.tasks_completed == sum(step.outcome == "success" for step, _ in mine)
        assert worker.tasks_failed == sum(step.outcome in {"failure", "timeout", "error"} for step, _ in mine)
        assert worker.total_task_duration_ms == sum(span.duration_ns for _, span in mine) // MS
    assert sum(worker.tasks_completed for worker in record.workers) == 8


def test_workers_used_ran_at_least_one_attempt(record, trace, metrics):
    """`workers_used`: the workers that step tasks name."""
    named = {span.attributes["exec.worker.id"] for step in steps(record) for span in tasks_of(trace, step)}
    assert metrics.compute_feature_metrics().workers_used == len(named)


def test_a_level_lasts_as_long_as_its_span_and_is_complete_when_all_its_steps_are_settled(record, trace, metrics):
    """`duration_ms` of a level, `levels_completed`: failed, cancelled and skipped steps have settled too; with a barrier levels don't overlap."""
    for level in record.levels:
        assert level.duration_ms == trace.one(Kind.LEVEL, exec_level=level.level).duration_ns // MS
        assert level.settled_count == level.task_count
    assert metrics.compute_feature_metrics().levels_completed == len(record.levels) == 2
    for before, after in pairwise(record.levels):
        assert before.end_ns < after.start_ns


def test_a_workers_busy_time_is_the_union_of_its_task_and_item_spans(record, trace):
    """`busy_ns`: helping with another's fan-out counts, and nothing counts twice."""
    for worker in record.workers:
        spans = sorted((s.start_ns, s.end_ns) for s in trace.of(Kind.TASK, exec_worker_id=worker.worker_id))
        union, until = 0, 0
        for start, end in spans:
            union += max(0, end - max(start, until))
            until = max(until, end)
        assert worker.busy_ns == union


def test_every_attempts_instants_are_in_order(record):
    """created <= claimed <= started <= completed <= settled, of every attempt, whatever it came to."""
    outcomes = set()
    for step in steps(record):
        for attempt in step.attempts:
            instants = [attempt.created_ns, attempt.claimed_ns, attempt.start_ns, attempt.end_ns, attempt.settled_ns]
            assert None not in instants
            assert instants == sorted(instants)
            outcomes.add(attempt.outcome)
    assert outcomes == {"success", "failure", "timeout", "cancellation"}


def test_missing_times_are_null_and_nothing_is_negative(record, metrics):
    """What never ran has no times; a worker and a level that did nothing have zeros."""
    for step in steps(record):
        numbers = metrics.compute_task_metrics(step.node_id)
        if not step.attempts:
            assert numbers == TaskMetrics(step.node_id)
        assert all(value is None or value >= 0 for key, value in numbers.to_dict().items() if key != "task_id")
    idle = WorkerMetrics("none").to_dict()
    assert (idle["avg_task_duration_ms"], idle["initialization_ms"]) == (0.0, None)


def test_cpu_and_memory_are_on_the_span_and_in_the_record(record, trace):
    """Each attempt's CPU time is its span's; so is the peak of memory, which is null where a worker is not the task's alone."""
    for step in steps(record):
        for attempt, span in zip([a for a in step.attempts if a.start_ns is not None], tasks_of(trace, step), strict=True):
            assert attempt.cpu_ns == span.attributes.get(EXEC_CPU_NS)
            assert attempt.peak_rss_bytes == span.attributes.get(EXEC_PEAK_RSS)
            assert attempt.peak_rss_bytes is None or attempt.peak_rss_bytes > 2**20
            assert attempt.cpu_ns is None or attempt.cpu_ns >= 0
