"""Closing what a dead run left open: from journal, finished spans and lists of open ones alone."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from otel_exec.aggregate.journal_index import Settled
from otel_exec.aggregate.open_ends import MESSAGE, UNKNOWN, OpenEnds
from otel_exec.record.journal import JournalLine
from otel_exec.record.model import ExecutorRecord, Experiment, RunRecord, StepRecord
from otel_exec.spans.open_spans import OpenEntry
from otel_exec.spans.span_record import SpanRecord

TRACE = "a" * 32
ROOT = "0" * 15 + "1"
LEVEL, STEP, TASK, WORKER, PHASE = (f"{number:016x}" for number in range(2, 7))
LAST = 10_000


def record(**more):
    """A run of two steps, the second after the first."""
    steps = [StepRecord("a-1", "a", fn_name="f", template="a", level=1, output_path="o/a"), StepRecord("b-2", "b", fn_name="g", level=2, depends_on=["a-1"])]
    return RunRecord(
        "1.0",
        "exec_1",
        TRACE,
        ROOT,
        "running",
        Experiment("demo"),
        ExecutorRecord("processes", 2),
        "p",
        "p/r",
        "",
        start_time_unix_nano="1000",
        steps=steps,
        **more,
    )


JOURNAL = [
    JournalLine(1000, "began", span=ROOT, data={"parent": "f" * 16, "sampled": False}),
    JournalLine(1100, "worker", worker="0", cause="started", span=WORKER),
    JournalLine(1200, "level", span=LEVEL, data={"level": 1}),
    JournalLine(1200, "created", node="a-1", span=STEP),
    JournalLine(2000, "claimed", node="a-1", attempt=1, worker="0", span=TASK),
]
OPENED = [("worker-0", OpenEntry(TASK, STEP, "task", "task f", "a-1", 2500)), ("worker-0", OpenEntry(PHASE, TASK, "phase", "think", "a-1", 3000))]


def closed(journal=JOURNAL, opened=OPENED, finished=(), settled=None):
    """Close; returns the spans by name."""
    ends = OpenEnds(record(), journal, opened)
    for span in finished:
        ends.finished(span)
    spans = ends.close(LAST, settled or {})
    assert len({span.span_id for span in spans}) == len(spans)
    return {span.name: span for span in spans}


def test_everything_that_was_open_ends_at_the_last_sign_of_life():
    """Run, worker, level, step, load, task and phase: each under its parent, with error.type interrupted."""
    spans = closed()
    shape = {name: (span.kind, span.parent_span_id, span.start_ns, span.end_ns) for name, span in spans.items()}
    assert shape == {
        "run demo": ("run", "f" * 16, 1000, LAST),
        "worker init": ("worker_init", WORKER, 1100, LAST),
        "worker": ("worker", ROOT, 1100, LAST),
        "load": ("load", STEP, 2000, 2500),
        "task f": ("task", STEP, 2500, LAST),
        "a": ("step", LEVEL, 1200, LAST),
        "level 1": ("level", ROOT, 1200, LAST),
        "think": ("phase", TASK, 3000, LAST),
    }
    assert {span.attributes.get("error.type") for name, span in spans.items() if name in {"run demo", "worker", "task f", "a", "think"}} == {"interrupted"}
    assert spans["a"].status_message == MESSAGE
    assert {span.flags & 1 for span in spans.values()} == {0}, "the run was not sampled"
    assert spans["think"].attributes["exec.attempt"] == 1


@pytest.mark.parametrize("torn", range(1, len(JOURNAL) + 1))
def test_an_open_item_is_no_try_at_the_step(torn):
    """Neither the owner's item, on its own worker, nor another's: each is closed under its number, and the step has the one attempt that it had."""
    items = [
        ("worker-0", OpenEntry("a1" * 8, TASK, "task", "task own", "a-1", 2600, 3, 1)),
        ("worker-1", OpenEntry("a2" * 8, PHASE, "task", "task helped", "a-1", 2700, 0, 2)),
    ]
    for opened in ([*items, *OPENED], [*OPENED, *items]):
        spans = closed(JOURNAL[:torn], opened)
        tasks = {
            name: (span.attributes["exec.task.id"], span.attributes["exec.attempt"], span.attributes["exec.worker.id"])
            for name, span in spans.items()
            if span.kind == "task"
        }
        assert tasks == {"task f": ("a-1", 1, "0"), "task own": ("a-1/3", 1, "0"), "task helped": ("a-1/0", 2, "1")}
        assert (spans["task f"].span_id, spans["task f"].start_ns) == (TASK, 2500)
        assert spans["a"].span_id == STEP


def test_the_same_files_give_the_same_spans():
    """Recovery that is begun again after it was itself killed writes the same ids."""
    assert closed() == closed()


@pytest.mark.parametrize("torn", range(len(JOURNAL)))
def test_whatever_the_journal_lacks_every_span_has_a_parent(torn):
    """A driver that is killed between two writes leaves a journal that knows less than the workers' files."""
    for journal in (JOURNAL[:torn], JOURNAL[torn:], [*JOURNAL[:torn], *JOURNAL[torn + 1 :]]):
        spans = closed(journal)
        ids = {span.span_id for span in spans.values()} | {"f" * 16, ""}
        assert {span.parent_span_id for span in spans.values()} <= ids
        assert spans["think"].end_ns == LAST


def test_a_parent_that_nobody_knows_is_closed_as_unknown():
    """What lies under a span of the user's own that never ended must not hang in the air."""
    span = SpanRecord(TRACE, "e" * 16, "d" * 16, "think", "phase", 4000, 5000, {"exec.id": "exec_1"})
    unknown = closed(finished=[span])[UNKNOWN]
    assert (unknown.span_id, unknown.parent_span_id, unknown.start_ns, unknown.end_ns, unknown.kind) == ("d" * 16, ROOT, 4000, LAST, "")


def test_a_step_that_its_own_file_knows_to_be_settled_is_closed_so():
    """The worker wrote SUCCESS and the driver could not: outcomes are facts."""
    step = closed(settled={"a-1": Settled("success", 7000)})["a"]
    assert (step.attributes["exec.outcome"], step.end_ns, step.status, "error.type" in step.attributes) == ("success", 7000, 0, False)


def test_a_step_that_was_settled_after_the_last_sign_of_life_is_the_last_sign_of_life():
    """A worker's last word in its status file may be later than all that journal and spool know: everything around the step ends with it."""
    spans = closed(settled={"a-1": Settled("success", LAST + 200)})
    assert {spans[name].end_ns for name in ("a", "level 1", "worker", "run demo")} == {LAST + 200}


def test_what_had_ended_is_not_closed_again():
    """A span that is in the spool keeps its own end."""
    task = SpanRecord(TRACE, TASK, STEP, "task f", "task", 2500, 6000, {"node.id": "a-1", "exec.task.id": "a-1", "exec.attempt": 1})
    spans = closed(finished=[task])
    assert "task f" not in spans
    assert (spans["store"].start_ns, spans["store"].end_ns) == (6000, LAST)


def test_any_order_of_finished_spans_closes_the_same():
    """Spool files are read in the order of their names, which says nothing."""
    spans = [
        SpanRecord(TRACE, "b" * 16, STEP, "load", "load", 2000, 2500, {"node.id": "a-1", "exec.attempt": 1}),
        SpanRecord(TRACE, PHASE, TASK, "think", "phase", 3000, 3500, {"node.id": "a-1"}),
        SpanRecord("c" * 32, WORKER, "", "another trace's", "worker", 1, 2, {}),
    ]
    results = [msgspec.to_builtins(sorted(closed(finished=order).values(), key=lambda span: span.span_id)) for order in itertools.permutations(spans)]
    assert all(result == results[0] for result in results)
    assert "load" not in {span[3] for span in results[0]}


@pytest.mark.parametrize("settled", [None, Settled("success", LAST - 100)])
def test_an_attempt_that_ended_before_its_claim_was_written_down_queued_until_then(settled):
    """The driver was killed before it heard of it: its queue ends where its load begins, and what follows it is a back-off, unless its step was settled with it."""
    of = {"node.id": "a-1", "exec.attempt": 1}
    parts = [
        SpanRecord(TRACE, "1" * 16, STEP, "load", "load", 3_000, 4_000, of),
        SpanRecord(TRACE, TASK, STEP, "task f", "task", 4_000, 5_000, {**of, "exec.task.id": "a-1"}),
        SpanRecord(TRACE, "2" * 16, STEP, "store", "store", 5_000, LAST - 100, of),
    ]
    journal = [line for line in JOURNAL if line.what not in {"claimed", "ended"}]
    made = [span for span in closed(journal, (), parts, {"a-1": settled} if settled else None).values() if span.parent_span_id == STEP]
    (queue,) = [span for span in made if span.kind == "queue"]
    assert queue.end_ns == 3_000
    after = [(span.kind, span.start_ns, span.end_ns) for span in made if span.start_ns >= LAST - 100]
    assert after == ([] if settled else [("backoff", LAST - 100, LAST)])


def test_a_level_begins_with_its_first_step():
    """The line that says so may be dated a moment after a step that was ready before it."""
    journal = [*JOURNAL[:2], JournalLine(1300, "level", span=LEVEL, data={"level": 1}), *JOURNAL[3:]]
    spans = closed(journal)
    assert spans["level 1"].start_ns == spans["a"].start_ns == 1200
