"""The aggregator takes its inputs in any order, and twice."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from support.scheduling import plan_of

from otel_exec.aggregate.aggregator import Aggregator
from otel_exec.aggregate.assemble import render, step_skeletons
from otel_exec.record.model import SCHEMA_VERSION, ExecutorRecord, Experiment, RunRecord
from otel_exec.record.run_store import JournalLine
from otel_exec.report.steps import execution_ns
from otel_exec.testing import memory_recorder

NODE = "a-000000"
START = 1_000_000_000


def record():
    return RunRecord(
        schema_version=SCHEMA_VERSION,
        exec_id="exec_test",
        trace_id="1" * 32,
        root_span_id="f" * 16,
        outcome="running",
        experiment=Experiment("demo"),
        executor=ExecutorRecord("inline", 1),
        prefix="/p",
        run_folder="/p/run",
        start_time="",
        start_time_unix_nano=str(START),
        steps=step_skeletons(plan_of({"a": ""})),
    )


def spans():
    """Two attempts at one step: queue, load, task, store; back-off; the same again."""
    recorder, _ = memory_recorder()
    common = {"node.id": NODE, "exec.worker.id": "0", "exec.level": 1}
    made = []
    at = START
    for attempt in (1, 2):
        mine = {**common, "exec.attempt": attempt}
        for kind, length in (("queue", 10), ("load", 5), ("task", 100), ("store", 3), *([("backoff", 50)] if attempt == 1 else [])):
            more = {"exec.task.id": NODE} if kind == "task" else {}
            outcome = ("failure" if attempt == 1 else "success") if kind == "task" else None
            made.append(recorder.make(kind, kind, at, at + length, attributes={**mine, **more}, outcome=outcome, error_type=None))
            at += length
    made.append(recorder.make("step", "a", START, at, attributes=common, outcome="success"))
    made.append(recorder.make("level", "level 1", START, at, attributes=common))
    made.append(recorder.make("run", "run demo", START, at + 7, outcome="success"))
    return made


LINES = [
    JournalLine(START, "began"),
    JournalLine(START, "created", node=NODE, span="e" * 16),
    JournalLine(START + 10, "claimed", node=NODE, attempt=1, worker="0"),
    JournalLine(START + 118, "ended", node=NODE, attempt=1, worker="0", outcome="failure", error={"type": "ValueError", "message": "no"}),
    JournalLine(START + 178, "claimed", node=NODE, attempt=2, worker="0"),
    JournalLine(START + 286, "ended", node=NODE, attempt=2, worker="0", outcome="success"),
    JournalLine(START + 286, "settled", node=NODE, outcome="success"),
    JournalLine(START + 293, "ended_run", outcome="success"),
]


def folded(spans_in_order, *, times=1):
    aggregator = Aggregator(record())
    for _ in range(times):
        for line in LINES:
            aggregator.transition(line)
        aggregator.ingest(spans_in_order)
    return msgspec.to_builtins(render(aggregator))


def test_the_parts_of_a_step_are_its_numbers():
    """Each part is the span's own nanoseconds, and together they are the step's."""
    (step,) = folded(spans())["steps"]
    first, second = step["attempts"]
    parts = ("queue_ns", "load_ns", "execution_ns", "store_ns", "backoff_ns")
    assert [first[part] for part in parts] == [10, 5, 100, 3, 50]
    assert [second[part] for part in parts] == [10, 5, 100, 3, None]
    assert step["end_ns"] - step["start_ns"] == sum(attempt[part] or 0 for attempt in (first, second) for part in parts)
    assert (first["outcome"], first["error"]["type"], step["outcome"], step["error"]) == ("failure", "ValueError", "success", None)
    assert step["total_duration_seconds"] == 286e-9


@pytest.mark.parametrize("seed", range(8))
def test_spans_may_come_in_any_order(seed):
    """Rotations and reversals of the spans give the same record."""
    made = spans()
    turned = made[seed:] + made[:seed]
    assert folded(turned) == folded(made) == folded(turned[::-1])


def test_everything_may_come_twice():
    """What an input sets it sets again."""
    made = spans()
    assert folded(list(itertools.chain(made, made)), times=2) == folded(made)


def test_a_warning_is_kept_once_and_counted():
    """The same code and message are one warning."""
    aggregator = Aggregator(record())
    for _ in range(3):
        aggregator.warn("code", "said")
    aggregator.warn("code", "said otherwise", 2)
    assert [(warning.message, warning.count) for warning in aggregator.record.warnings] == [("said", 3), ("said otherwise", 2)]


def test_a_step_found_cached_while_the_run_went_on_says_who_made_it():
    """The transition brings the earlier run's ids and times; numbers that are none are left out."""
    aggregator = Aggregator(record())
    aggregator.transition(JournalLine(START, "created", node=NODE))
    data = {"exec_id": "exec_other", "trace_id": "2" * 32, "span_id": "3" * 16, "duration_seconds": 1.5}
    aggregator.transition(JournalLine(START + 9, "settled", node=NODE, outcome="success", cause="cached", data=data))
    step = aggregator.steps[NODE]
    assert (step.cached, step.cached_from.exec_id, step.cached_from.duration_seconds) == (True, "exec_other", 1.5)
    aggregator.transition(JournalLine(START + 9, "settled", node=NODE, outcome="success", cause="cached", data={**data, "duration_seconds": "long"}))
    assert (step.cached_from.exec_id, step.cached_from.duration_seconds) == ("exec_other", None)


RECORDER, _ = memory_recorder()


def part(kind, start, end):
    return RECORDER.make(kind, kind, START + start, START + end, attributes={"node.id": NODE, "exec.attempt": 1})


@pytest.mark.parametrize("turned", [False, True])
def test_an_attempt_has_settled_when_it_has_ended(turned):
    """That it was queued and loaded settles nothing, whichever comes first; its end does, and so does the step's where no worker took it."""
    for lines, parts, settled in (
        (LINES[1:3], [part("queue", 0, 10), part("load", 10, 15)], None),
        ([LINES[1], JournalLine(START + 9, "settled", node=NODE, outcome="cancellation", cause="cancelled")], [part("queue", 0, 9)], 9),
        (LINES[1:4], [part("queue", 0, 10), part("load", 10, 118)], 118),
    ):
        aggregator = Aggregator(record())
        if turned:
            aggregator.ingest(parts)
        for line in lines:
            aggregator.transition(line)
        if not turned:
            aggregator.ingest(parts)
        assert aggregator.steps[NODE].attempts[0].settled_ns == settled


def test_an_attempt_that_queued_twice_names_its_longer_wait():
    """Where a lock was held, the span in which it queued longest, with the end of that span, and both together as its queue."""
    aggregator = Aggregator(record())
    longer, shorter = part("queue", 0, 30), part("queue", 50, 60)
    aggregator.ingest([shorter, part("wait", 30, 50), longer])
    (attempt,) = aggregator.steps[NODE].attempts
    assert attempt.queue_ns == 40
    assert aggregator.longest_queue(aggregator.steps[NODE], attempt) == (START + 30, longer.span_id)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_duration_is_that_of_the_last_attempt_that_began(order):
    """An attempt that was queued when the run was killed takes no duration away, whichever spans are read first."""
    recorder, _ = memory_recorder()
    common = {"node.id": NODE, "exec.worker.id": "0"}
    made = []
    for attempt, kind, start, end in ((1, "queue", 0, 10), (1, "task", 10, 110), (1, "store", 110, 113), (2, "queue", 163, 170)):
        more = {"exec.task.id": NODE} if kind == "task" else {}
        outcome = "failure" if kind == "task" else None
        made.append(
            recorder.make(kind, kind, START + start, START + end, attributes={**common, "exec.attempt": attempt, **more}, outcome=outcome, error_type=None)
        )
    taken = record()
    aggregator = Aggregator(taken)
    aggregator.ingest([made[index] for index in order])
    (step,) = taken.steps
    assert step.duration_seconds == 100 / 1e9
    assert execution_ns(step) == 100
