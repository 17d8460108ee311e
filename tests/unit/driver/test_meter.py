"""The meter: what it counts as busy, when it writes, and that nothing of it reaches the run."""

from __future__ import annotations

from types import SimpleNamespace

from support.metric_checks import latest, written_points
from support.sample_record import twelve_steps

from otel_exec.aggregate.aggregator import Aggregator
from otel_exec.config import resolve
from otel_exec.driver.meter import Meter, busy_workers
from otel_exec.execute.base import OpenSpan
from otel_exec.record.run_store import JournalLine
from otel_exec.testing import SteppingClock

NOW = 10_000_000_000


def runner_with(*, claimed=(), beats=()):
    """A runner as far as the meter looks at it: attempts by worker (`None`: not claimed yet), beats as worker, age and kind of what is open."""
    running = {number: SimpleNamespace(worker_id=worker or "", claimed_ns=None if worker is None else 1) for number, worker in enumerate(claimed)}
    opened = {worker: (OpenSpan("a" * 16, "b" * 16, kind, "x", "n", 0),) for worker, _, kind in beats}
    return SimpleNamespace(attempts=SimpleNamespace(running=running), beats=opened, beat_ns={worker: NOW - age_ns for worker, age_ns, _ in beats})


def test_who_is_busy():
    """A worker is busy with an attempt that it claimed, or with an item that it spoke of a moment ago; not with what it spoke of long ago, or with a phase alone."""
    runner = runner_with(claimed=("0", None), beats=[("1", 10**9, "task"), ("2", 3 * 10**9, "task"), ("3", 0, "phase")])
    assert busy_workers(runner, NOW) == {"0", "1"}


def meter_in(folder, **settings):
    record = twelve_steps()
    record.run_folder = str(folder)
    aggregator = Aggregator(record)
    clock = SteppingClock()
    meter = Meter(str(folder), resolve(settings, {}), aggregator, clock, {"service.name": "demo"}, ["a"], sampled=True)
    return meter, aggregator, clock


def written(aggregator):
    return written_points(aggregator.record)


def test_it_writes_at_the_start_at_each_interval_and_at_the_end(tmp_path):
    """Between two intervals nothing is written, whatever happens; at the end the rest is."""
    meter, aggregator, clock = meter_in(tmp_path, metric_interval_s=5.0)
    requests = []
    meter.begin()
    for _ in range(12):
        clock.advance(10**9)
        meter.keep(runner_with())
        requests.append(len({point.at_ns for point in written(aggregator)}))
    assert requests == [1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3]
    meter.end()
    assert len({point.at_ns for point in written(aggregator)}) == 4


def test_what_happened_is_taken_in_once(tmp_path):
    """Transitions are taken out of the aggregator's news when they are counted."""
    meter, aggregator, _ = meter_in(tmp_path)
    meter.begin()
    step = next(step for step in aggregator.record.steps if step.outcome == "success")
    line = JournalLine(0, "settled", node=step.node_id, outcome="success")
    aggregator.transition(line)
    meter.keep(runner_with())
    assert aggregator.news == []
    meter.end()
    counted = [point.value for (name, _), point in latest(written(aggregator)).items() if name == "otel_exec.steps" and point.value]
    assert counted == [1]


def test_what_goes_wrong_is_one_warning(tmp_path):
    """Where the folder is gone nothing is raised; the record has one warning, and nothing is collected any more."""
    meter, aggregator, clock = meter_in(tmp_path / "missing")
    meter.begin()
    clock.advance(10**11)
    meter.keep(runner_with())
    meter.end()
    assert [(warning.code, warning.count) for warning in aggregator.record.warnings if warning.code == "metrics_failed"] == [("metrics_failed", 1)]
    assert aggregator.news is None
