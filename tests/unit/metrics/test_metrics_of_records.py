"""The definitions of docs/record.md, a test a row, over records written by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone, tzinfo

import msgspec
import pytest

from otel_exec.clock import to_iso
from otel_exec.errors import RecordError, UsageError
from otel_exec.metrics import FeatureMetrics, LevelMetrics, MetricsCollector, TaskMetrics, WorkerMetrics, calculate_percentile, duration_ms
from otel_exec.record.model import (
    AttemptRecord,
    ExecutorRecord,
    Experiment,
    ItemsRecord,
    LevelRecord,
    RunRecord,
    StepRecord,
    WorkerRecord,
)

MS = 1_000_000
BEGAN_NS = 1_795_790_474_000_000_000


def attempt(start=None, end=None, *, created=0, claimed=None, settled=None, worker="0", number=1, **more):
    """Make an attempt with instants in ms."""
    at = lambda ms: None if ms is None else round(ms * MS)
    return AttemptRecord(
        attempt=number, worker_id=worker, created_ns=at(created), claimed_ns=at(claimed), settled_ns=at(settled), start_ns=at(start), end_ns=at(end), **more
    )


def step(node_id, *attempts, level=1, outcome="success", **more):
    return StepRecord(node_id=node_id, name=node_id, level=level, outcome=outcome, attempts=list(attempts), **more)


def run(*steps, levels=None, workers=(), duration_ms=60_000, outcome="success"):
    numbers = sorted({step.level for step in steps if step.level is not None})
    return RunRecord(
        schema_version="1.0",
        exec_id="exec_1",
        trace_id="1",
        root_span_id="1",
        outcome=outcome,
        experiment=Experiment("demo"),
        executor=ExecutorRecord("inline", 1),
        prefix="p",
        run_folder="p/r",
        start_time=to_iso(BEGAN_NS),
        start_time_unix_nano=str(BEGAN_NS),
        duration_ns=None if duration_ms is None else duration_ms * MS,
        steps=list(steps),
        levels=levels or [LevelRecord(number) for number in numbers],
        workers=list(workers),
    )


def worker(worker_id="0", started=0, ready=None, stopped=None):
    """Make a worker with instants in ms after the run's start."""
    iso = lambda ms: None if ms is None else to_iso(BEGAN_NS + ms * MS)
    return WorkerRecord(worker_id, started_at=iso(started), ready_at=iso(ready), stopped_at=iso(stopped))


def now(ms):
    return BEGAN_NS + ms * MS


def test_initialization_is_ready_minus_start():
    """`initialization_ms` is the worker's ready signal minus its start, and null until it is ready."""
    metrics = MetricsCollector(run(workers=[worker("0", 100, ready=1300), worker("1", 100)]))
    assert metrics.compute_worker_metrics("0").initialization_ms == 1200
    assert metrics.compute_worker_metrics("1").initialization_ms is None


def test_uptime_grows_until_the_worker_has_stopped():
    """`uptime_ms` counts to now while the run goes on, and is constant once the worker has stopped or the run has ended."""
    running = run(workers=[worker("0", 100), worker("1", 100, stopped=600)], duration_ms=None, outcome="running")
    for at, uptime in ((1100, 1000), (9100, 9000)):
        metrics = MetricsCollector(running, now_ns=now(at))
        assert metrics.compute_worker_metrics("0").uptime_ms == uptime
        assert metrics.compute_worker_metrics("1").uptime_ms == 500
    ended = MetricsCollector(run(workers=[worker("0", 100)], duration_ms=2000), now_ns=now(10**9))
    assert ended.compute_worker_metrics("0").uptime_ms == 1900


def test_queue_wait_is_claimed_minus_created():
    """`queue_wait_ms` is claimed minus created, and null for a task that was never claimed."""
    metrics = MetricsCollector(
        run(step("a", attempt(created=10, claimed=35.9)), step("b", attempt(created=10), outcome="cancellation"), step("c", outcome=None))
    )
    assert metrics.compute_task_metrics("a").queue_wait_ms == 25
    assert metrics.compute_task_metrics("b").queue_wait_ms is None
    assert metrics.compute_task_metrics("c") == TaskMetrics("c")


def test_execution_is_the_last_attempts():
    """`execution_duration_ms` is completed minus started of the last attempt."""
    retried = step("a", attempt(0, 900, number=1), attempt(2000, 2007.999, created=1900, number=2))
    assert MetricsCollector(run(retried)).compute_task_metrics("a").execution_duration_ms == 7


def test_verification_is_its_own():
    """`verification_duration_ms` is the step's verify, and null where there was none."""
    metrics = MetricsCollector(run(step("a", attempt(0, 1, verification_ns=20 * MS)), step("b", attempt(0, 1))))
    assert metrics.compute_task_metrics("a").verification_duration_ms == 20
    assert metrics.compute_task_metrics("b").verification_duration_ms is None


def test_total_is_from_the_first_created_to_the_last_settled():
    """`total_duration_ms` is settled minus created, back-off and earlier attempts included: the step's own span."""
    retried = step("a", attempt(10, 20, created=5, settled=25), attempt(110, 120, created=100, settled=130, number=2), start_ns=5 * MS, end_ns=130 * MS)
    assert MetricsCollector(run(retried)).compute_task_metrics("a").total_duration_ms == 125
    in_back_off = step("a", attempt(10, 20, created=5, settled=25), outcome="cancellation", start_ns=5 * MS, end_ns=90 * MS)
    assert MetricsCollector(run(in_back_off)).compute_task_metrics("a").total_duration_ms == 85


def test_what_has_not_settled_has_no_total():
    """`total_duration_ms` is null while a step waits, runs or backs off, whatever is known of its attempts by then."""
    for still in (attempt(created=5), attempt(10, claimed=8), attempt(10, 20, claimed=8, settled=25)):
        assert MetricsCollector(run(step("a", still, outcome=None, start_ns=5 * MS))).compute_task_metrics("a").total_duration_ms is None


@pytest.mark.parametrize(
    ("values", "percentile", "expected"),
    [
        ([10_000, 20_000, 30_000, 40_000, 50_000], 50, 30_000),
        ([10_000, 20_000, 30_000, 40_000, 50_000], 95, 48_000),
        ([10, 20, 30, 40], 50, 25),
        ([40, 10, 30, 20], 50, 25),
        ([1, 2], 50, 1),
        ([7], 99, 7),
        ([], 50, 0),
        ([5, 9], 0, 5),
        ([5, 9], 100, 9),
        ([0, 1000], 99.9, 999),
        ([0, 2**63 + 1], 100, 2**63 + 1),
    ],
)
def test_percentiles_are_interpolated_between_closest_ranks(values, percentile, expected):
    """Percentiles are by linear interpolation between closest ranks, truncated; of nothing they are 0."""
    assert calculate_percentile(values, percentile) == expected


def test_a_percentile_beyond_a_hundred_is_refused():
    """A percentile that can't be one is the caller's mistake."""
    with pytest.raises(UsageError):
        calculate_percentile([1], 101)


def test_averages_and_percentiles_are_over_completed_tasks():
    """Averages and percentiles are over completed tasks' execution, 0 ms ones included, failed, cached and group ones not."""
    steps = [step(f"s{n}", attempt(0, seconds * 1000)) for n, seconds in enumerate([10, 20, 30, 40, 50])]
    others = [
        step("failed", attempt(0, 99_000), outcome="failure"),
        step("cached", cached=True),
        step("group", level=None, group=True),
        step("running", attempt(0), outcome=None),
    ]
    level = MetricsCollector(run(*steps, *others)).compute_level_metrics(1)
    assert (level.avg_task_duration_ms, level.p50_duration_ms, level.p95_duration_ms, level.p99_duration_ms) == (30_000.0, 30_000, 48_000, 49_600)
    with_nothing = MetricsCollector(run(*steps[:1], step("quick", attempt(5, 5)))).compute_level_metrics(1)
    assert (with_nothing.avg_task_duration_ms, with_nothing.p50_duration_ms) == (5000.0, 5000)
    assert isinstance(with_nothing.avg_task_duration_ms, float)


def test_a_level_without_completed_tasks_has_zeros():
    """Averages and percentiles of nothing are 0."""
    level = MetricsCollector(run(step("a", outcome=None))).compute_level_metrics(1)
    assert level == LevelMetrics(1, task_count=1)


def test_steps_are_counted_once_however_many_attempts():
    """Counts are of steps: retries, groups and what nobody needed don't add; cached ones count as completed; retries and items stand beside them."""
    record = run(
        step("retried", attempt(0, 1), attempt(2, 3, number=2)),
        step("cached", cached=True),
        step("failed", attempt(0, 1), outcome="timeout"),
        step("below", level=2, outcome="skip", reason="upstream_failed"),
        step("unneeded", outcome="skip", reason="not_needed"),
        step("unselected", outcome="skip", reason="not_selected"),
        step("fan", attempt(0, 1), level=2, items=ItemsRecord(count=8, completed=6, failed=1)),
        step("group", level=None, group=True),
    )
    metrics = MetricsCollector(record).compute_feature_metrics()
    assert (metrics.tasks_total, metrics.tasks_completed, metrics.tasks_failed) == (5, 3, 1)
    assert (metrics.attempts, metrics.items_total, metrics.items_completed, metrics.items_failed) == (4, 8, 6, 1)
    assert [(level.task_count, level.completed_count, level.failed_count) for level in metrics.level_metrics] == [(3, 2, 1), (2, 1, 0)]


def test_a_worker_counts_the_steps_whose_last_attempt_it_ran():
    """A step that was tried again elsewhere counts for the worker of its last attempt; its total is the sum of their execution; the average is over completed ones."""
    record = run(
        step("a", attempt(0, 500, worker="0"), attempt(600, 700.5, worker="1", number=2)),
        step("b", attempt(0, 300.7, worker="1")),
        step("c", attempt(0, 1000, worker="1"), outcome="failure"),
        step("d", cached=True),
        workers=[worker("0"), worker("1"), worker("2")],
    )
    metrics = MetricsCollector(record)
    first, second, idle = (metrics.compute_worker_metrics(each) for each in ("0", 1, 2))
    assert (first.tasks_completed, first.tasks_failed, first.total_task_duration_ms, first.avg_task_duration_ms) == (0, 0, 0, 0.0)
    assert (second.tasks_completed, second.tasks_failed, second.total_task_duration_ms) == (2, 1, 1401)
    assert second.avg_task_duration_ms == pytest.approx(200.6)
    assert (idle.tasks_completed, idle.avg_task_duration_ms) == (0, 0.0)
    assert metrics.compute_feature_metrics().workers_used == 2


def test_a_level_is_complete_when_all_its_steps_are_settled():
    """`levels_completed` counts the levels all of whose steps have settled, failed ones included."""
    record = run(step("a"), step("b", outcome="failure"), step("c", level=2), step("d", level=2, outcome=None), step("e", level=3, outcome="cancellation"))
    assert MetricsCollector(record).compute_feature_metrics().levels_completed == 2


def test_a_levels_duration_is_its_span():
    """`duration_ms` of a level is its span, null while that is open."""
    record = run(step("a"), step("b", level=2), levels=[LevelRecord(1, start_ns=5 * MS, end_ns=105 * MS), LevelRecord(2, start_ns=5 * MS)])
    assert [level.duration_ms for level in MetricsCollector(record).compute_feature_metrics().level_metrics] == [100, None]


def test_the_runs_total_is_its_duration():
    """`total_duration_ms` is the run's; so far while it runs; null for a run that died without an end."""
    assert MetricsCollector(run(duration_ms=1234)).compute_feature_metrics().total_duration_ms == 1234
    for outcome, total in (("running", 500), ("interrupted", None)):
        record = run(duration_ms=None, outcome=outcome)
        assert MetricsCollector(record, now_ns=now(500)).compute_feature_metrics().total_duration_ms == total


def test_missing_and_reversed_times_give_null_or_zero():
    """A record with hardly any time in it, or with times in the wrong order, gives null or 0 and no exception."""
    reversed_ = attempt(50, 10, created=60, claimed=5, settled=1, verification_ns=-3)
    record = run(
        step("a", attempt(None, None, created=None, worker=None)),
        step("b", reversed_),
        levels=[LevelRecord(1, start_ns=9, end_ns=1)],
        workers=[WorkerRecord("0"), worker("1", 100, ready=50, stopped=20)],
    )
    metrics = MetricsCollector(record)
    assert metrics.compute_task_metrics("a") == TaskMetrics("a")
    assert metrics.compute_task_metrics("b") == TaskMetrics("b")
    whole = metrics.compute_feature_metrics()
    assert [(each.initialization_ms, each.uptime_ms, each.total_task_duration_ms) for each in whole.worker_metrics] == [(None, 0, 0), (None, 0, 0)]
    assert whole.level_metrics[0].duration_ms is None


def test_an_empty_record_has_metrics():
    """A run that got nowhere has metrics all the same."""
    metrics = MetricsCollector(run(duration_ms=None, outcome="interrupted"), now_ns=now(0)).compute_feature_metrics()
    assert metrics == FeatureMetrics(computed_at=datetime(2026, 11, 27, 14, 41, 14, tzinfo=UTC))


def test_names_that_are_not_there_list_those_that_are():
    """Asking for an unknown worker, step or level says so and names the closest."""
    metrics = MetricsCollector(run(step("tokenize-abc123"), workers=[worker("0")]))
    with pytest.raises(UsageError, match="did you mean 'tokenize-abc123'"):
        metrics.compute_task_metrics("tokenise-abc123")
    with pytest.raises(UsageError, match="known: 0"):
        metrics.compute_worker_metrics(4)
    with pytest.raises(UsageError, match="known: 1"):
        metrics.compute_level_metrics(2)


NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (NOON, NOON + timedelta(milliseconds=1500, microseconds=999), 1500),
        ("2026-11-23T12:00:00+00:00", "2026-11-23T12:00:02.5Z", 2500),
        ("2026-11-23T12:00:00", NOON + timedelta(seconds=1), 1000),
        (NOON.replace(tzinfo=None), NOON, 0),
        (NOON, (NOON + timedelta(seconds=1)).astimezone(timezone(timedelta(hours=5))), 1000),
        (NOON, NOON - timedelta(microseconds=1), None),
        (None, NOON, None),
        (NOON, None, None),
        ("yesterday", NOON, None),
        ("", "", None),
    ],
)
def test_duration_takes_datetimes_and_text(start, end, expected):
    """`duration_ms` takes datetimes and ISO texts, naive ones as UTC; what is missing or reversed gives null."""
    assert duration_ms(start, end) == expected


def test_metrics_survive_the_way_through_json():
    """`from_dict` of the JSON of `to_dict` gives the metrics again; keys that it does not know are ignored."""
    record = run(step("a", attempt(0, 10, worker="0")), step("b", level=2), workers=[worker("0", 0, ready=3, stopped=9)])
    collector = MetricsCollector(record, now_ns=now(123))
    metrics = collector.compute_feature_metrics()
    values = json.loads(json.dumps(metrics.to_dict()))
    values["level_metrics"][0]["of_a_newer_writer"] = values["of_a_newer_writer"] = 1
    assert FeatureMetrics.from_dict(values) == metrics
    task = collector.compute_task_metrics("a")
    assert TaskMetrics.from_dict({**task.to_dict(), "more": 1}) == task
    assert WorkerMetrics.from_dict({"worker_id": 3}) == WorkerMetrics(3)


@pytest.mark.parametrize(("kind", "record"), [(LevelMetrics(1), LevelRecord(1)), (WorkerMetrics("0"), WorkerRecord("0"))])
def test_the_records_rows_have_the_metrics_fields(kind, record):
    """Every metric of a level and a worker has its field in run.json, with the same default."""
    row = msgspec.to_builtins(record)
    assert {key: row[key] for key in kind.to_dict()} == kind.to_dict()


def test_the_export_is_the_same_numbers(tmp_path):
    """The exported file holds the run's metrics and each step's."""
    record = run(step("a", attempt(0, 10, created=0, claimed=1, settled=12, worker="0")), step("g", level=None, group=True), workers=[worker("0")])
    collector = MetricsCollector(record, now_ns=now(0))
    collector.export_json(f"{tmp_path}/metrics.json")
    exported = json.loads((tmp_path / "metrics.json").read_text())
    assert exported["exec_id"] == "exec_1"
    assert [TaskMetrics.from_dict(task) for task in exported["task_metrics"]] == [collector.compute_task_metrics("a")]
    assert FeatureMetrics.from_dict(exported) == collector.compute_feature_metrics()
    with pytest.raises(RecordError) as caught:
        collector.export_json(f"{tmp_path}/nowhere/metrics.json")
    assert caught.value.path == f"{tmp_path}/nowhere/metrics.json"


@pytest.mark.parametrize("values", [[float("nan")], [1, float("inf")], [None], [10**400], [10**5000], ["a"], [1, 2, object()]], ids=range(7))
def test_percentiles_are_of_finite_numbers(values):
    """What is no finite number is named by its place, in one sentence."""
    with pytest.raises(UsageError, match=rf"values\[{len(values) - 1}\] is no finite number"):
        calculate_percentile(values, 50)


@pytest.mark.parametrize("percentile", [float("nan"), float("inf"), -1, 10**400, 10**5000, None, "50"], ids=range(7))
def test_what_is_no_percentile(percentile):
    """Nor is anything else between 0 and 100."""
    with pytest.raises(UsageError, match="between 0 and 100"):
        calculate_percentile([1], percentile)


class Nowhere(tzinfo):
    """A time zone that does not know how far it is from UTC."""

    def utcoffset(self, _at):
        return None


def test_an_instant_whose_zone_says_nothing_is_utc():
    """A datetime with a time zone that has no offset is naive, as Python says."""
    assert duration_ms(NOON, datetime(2026, 11, 23, 12, 0, 1, tzinfo=Nowhere())) == 1000


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (WorkerMetrics, {}, "missing required field `worker_id`"),
        (TaskMetrics, {}, "missing required field `task_id`"),
        (LevelMetrics, {}, "missing required field `level`"),
        (FeatureMetrics, {}, "missing required field `computed_at`"),
        (FeatureMetrics, 5, "expected `object`, got `int`"),
        (FeatureMetrics, {"computed_at": "yesterday"}, "computed_at"),
        (FeatureMetrics, {"computed_at": NOON, "worker_metrics": 5}, "worker_metrics"),
        (FeatureMetrics, {"computed_at": NOON, "worker_metrics": [5]}, r"worker_metrics\[0\]"),
        (FeatureMetrics, {"computed_at": NOON, "level_metrics": [{"level": "one"}]}, r"level_metrics\[0\].level"),
        (LevelMetrics, {"level": 1, "duration_ms": "long"}, "duration_ms"),
    ],
)
def test_what_is_no_metrics_is_refused_in_one_sentence(kind, values, said):
    """`from_dict` needs what has no default, and takes values of the right types alone."""
    with pytest.raises(UsageError, match=rf"these are no {kind.__name__}: .*{said}"):
        kind.from_dict(values)


def test_tuples_are_lists_in_json():
    """Rows that were given as a tuple are in `to_dict` as lists of dicts."""
    metrics = FeatureMetrics(NOON, worker_metrics=(WorkerMetrics("0"),))
    assert metrics.to_dict()["worker_metrics"] == [WorkerMetrics("0").to_dict()]


@pytest.mark.parametrize("now_ns", [10**30, -(10**30)])
def test_a_present_that_no_calendar_holds(now_ns):
    """It is the caller's mistake, said in one sentence."""
    with pytest.raises(UsageError, match="now_ns is no instant"):
        MetricsCollector(run(), now_ns=now_ns)


def test_a_level_may_be_named_by_its_text():
    """As workers are, by number or text."""
    collector = MetricsCollector(run(step("a")))
    assert collector.compute_level_metrics("1") == collector.compute_level_metrics(1)


def test_the_export_takes_any_path(tmp_path):
    """A `pathlib.Path` as well as text; what can be no path is said in one sentence."""
    collector = MetricsCollector(run(step("a")), now_ns=now(0))
    collector.export_json(tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text())["exec_id"] == "exec_1"
    for path in ("", "a\0b"):
        with pytest.raises(UsageError, match="is no path"):
            collector.export_json(path)
