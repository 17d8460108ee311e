"""The running sums of a run against sums over its whole record, and against percentiles written out."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from otel_exec.aggregate.tally import Tally
from otel_exec.complete import progress_of
from otel_exec.metrics import MetricsCollector
from otel_exec.record.model import AttemptRecord, ExecutorRecord, Experiment, LevelRecord, RunRecord, StepRecord, WorkerRecord

OUTCOMES = ["success", "failure", "timeout", "error", "cancellation", "skip"]
instants = st.none() | st.integers(-5, 10**15)


@st.composite
def attempts(draw, number):
    worker = draw(st.none() | st.sampled_from("012"))
    return AttemptRecord(
        number,
        worker_id=worker,
        outcome=draw(st.none() | st.sampled_from(OUTCOMES)),
        created_ns=draw(instants),
        claimed_ns=draw(instants),
        start_ns=draw(instants),
        end_ns=draw(instants),
        settled_ns=draw(instants),
        verification_ns=draw(instants),
    )


@st.composite
def steps(draw, index):
    group = draw(st.integers(0, 9)) == 0
    outcome = draw(st.none() | st.sampled_from(OUTCOMES))
    cached = outcome == "success" and draw(st.booleans())
    reason = draw(st.sampled_from(["not_needed", "not_selected", "upstream_failed"])) if outcome == "skip" else None
    tries = 0 if cached or outcome == "skip" or group else draw(st.integers(0, 3))
    return StepRecord(
        f"s{index}",
        f"s{index}",
        template=draw(st.none() | st.sampled_from(["a/{n}", "b"])),
        level=None if group else draw(st.integers(1, 3)),
        group=group,
        outcome=outcome,
        reason=reason,
        cached=cached,
        attempts=[draw(attempts(number + 1)) for number in range(tries)],
    )


@st.composite
def records(draw):
    made = [draw(steps(index)) for index in range(draw(st.integers(0, 12)))]
    return RunRecord(
        "1.0",
        "exec_1",
        "1",
        "1",
        draw(st.sampled_from(["running", "success", "interrupted"])),
        Experiment("demo"),
        ExecutorRecord("inline", 1),
        "p",
        "r",
        draw(st.sampled_from(["", "2026-11-27T14:41:14+00:00", "tomorrow"])),
        start_time_unix_nano=draw(st.sampled_from(["0", "1795790474000000000", "x", "-5"])),
        duration_ns=draw(instants),
        steps=made,
        levels=[LevelRecord(number, draw(instants), draw(instants)) for number in (1, 2, 3)],
        workers=[
            WorkerRecord(
                worker,
                started_at=draw(st.sampled_from([None, "2026-11-27T14:41:14+00:00", "x"])),
                ready_at=draw(st.sampled_from([None, "2026-11-27T14:41:13+00:00"])),
                start_ns=draw(instants),
                ready_ns=draw(instants),
                end_ns=draw(instants),
            )
            for worker in "012"
        ],
    )


@given(records(), st.data())
def test_sums_kept_as_steps_come_are_those_of_the_whole_record(record, data):
    """In whatever order steps are taken and settle, and however often that is told, counts, averages, percentiles and tries are the record's."""
    bare = [msgspec.structs.replace(step, outcome=None, reason=None, cached=False, attempts=[]) for step in record.steps]
    tally = Tally(bare)
    for step in data.draw(st.permutations(record.steps)):
        if step.attempts and not step.group and data.draw(st.booleans()):
            tally.claimed(step)
        for _ in range(data.draw(st.integers(1, 2))):
            if step.outcome is not None:
                tally.settled(step)
            elif step.attempts and not step.group:
                tally.claimed(step)
    kept, whole = (MetricsCollector(record, now_ns=10**18, tally=each) for each in (tally, None))
    assert kept.compute_feature_metrics() == whole.compute_feature_metrics()
    assert kept.template_records() == whole.template_records()
    assert progress_of(tally) == progress_of(Tally(record.steps))
    assert {step.node_id for step in tally.failures} == {step.node_id for step in Tally(record.steps).failures}


@given(records())
def test_no_record_gives_a_negative_number_or_an_exception(record):
    """Times missing, reversed, of another zone, ids of nothing: null or 0."""
    collector = MetricsCollector(record, now_ns=10**18)
    collector.fill(record)

    def look(value):
        if isinstance(value, dict):
            for each in value.values():
                look(each)
        elif isinstance(value, list):
            for each in value:
                look(each)
        elif isinstance(value, (int, float)):
            assert value >= 0

    look(record.metrics)
    look(msgspec.to_builtins(record.templates))
    for level in record.levels:
        assert level.completed_count + level.failed_count <= level.settled_count <= level.task_count
        assert level.sample_count <= level.completed_count
    for step in record.steps:
        look(collector.compute_task_metrics(step.node_id).to_dict())
    assert progress_of(Tally(record.steps)).done <= progress_of(Tally(record.steps)).total
