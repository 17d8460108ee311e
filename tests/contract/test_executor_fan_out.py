"""The battery's second half: `map_tasks` on all executors."""

from __future__ import annotations

import os

import executor_steps as steps
import msgspec
import pytest
from executor_rig import KINDS, Rig, span_of, wait_for
from executor_steps import Config

from otel_exec.aggregate.rebuild import fold_task_spans
from otel_exec.execute.base import Reported, WorkerStarted
from otel_exec.execute.fan_out import map_tasks


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def rig(kind, tmp_path):
    with Rig(kind, tmp_path, workers=3) as made:
        made.ready()
        yield made


def items_of(rig):
    return [span for span in rig.spans() if span.kind == "task" and "/" in span.attributes["exec.task.id"]]


class Folded:
    """Keeps what `fold_task_spans` makes of the rig's spool."""

    def __init__(self, rig):
        fold_task_spans(self, rig.spans())

    def fold(self, node_id, attempt, sums, *, items):
        assert (node_id, attempt) == ("step", 1)
        self.sums, self.items = sums, items


def plain(folds):
    """Folds as plain values; a histogram's samples have no order."""
    if isinstance(folds, msgspec.Struct):
        folds = {field: getattr(folds, field) for field in folds.__struct_fields__}
        if "exact" in folds:
            folds["exact"] = sorted(folds["exact"])
    if isinstance(folds, dict):
        return {key: plain(value) for key, value in folds.items()}
    return [plain(value) for value in folds] if isinstance(folds, list) else folds


def succeeded(report):
    assert report.outcome == "success", report.error
    return report


@pytest.mark.parametrize("count", [0, 1, 7, 300])
def test_results_keep_the_order_of_the_items(rig, count):
    """Results come in the order of the items; each item has one span under the task, and the fold counts them."""
    rig.submit(steps.fan_squares, count)
    report = succeeded(rig.report())
    spans = items_of(rig)
    assert sorted(span.attributes["exec.task.id"] for span in spans) == sorted(f"step/{n}" for n in range(count))
    assert {span.parent_span_id for span in spans} <= {span_of(report, "task").span_id}
    assert {span.name for span in spans} <= {"task square"}
    if count:
        assert (report.items.count, report.items.completed, report.items.failed, report.items.attempts) == (count, count, 0, count)
        assert report.items.busy_ns == sum(span.duration_ns for span in spans)
        assert report.items.samples.count == count
    else:
        assert report.items is None
    task = span_of(report, "task")
    assert all(task.start_ns <= span.start_ns <= span.end_ns <= task.end_ns for span in spans)


def test_idle_workers_help(rig, tmp_path):
    """Idle workers take items: several run at once, and what they ran is counted for them."""
    if rig.kind == "inline":
        pytest.skip("inline: there are no other workers")
    rig.submit(steps.fan_slow, Config(str(tmp_path / "workers"), 24))
    report = succeeded(rig.report())
    assert int((tmp_path / "workers").read_text()) > 1
    assert report.worker_id not in report.items.helped_ns
    by_worker = {}
    for span in items_of(rig):
        worker_id = span.attributes["exec.worker.id"]
        by_worker[worker_id] = by_worker.get(worker_id, 0) + span.duration_ns
    by_worker.pop(report.worker_id, None)  # on Ray the owner runs none
    assert report.items.helped_ns == by_worker


def test_the_first_failure_is_raised_as_itself(rig):
    """The step fails with the item's own exception; the item's span says so."""
    rig.submit(steps.fan_failing)
    report = rig.report()
    assert (report.outcome, report.error.type, report.error.message) == ("failure", "ValueError", "item 3 is bad")
    assert report.items.failed >= 1
    assert report.items.completed + report.items.failed + report.items.cancelled == report.items.count == 8
    failed = [span for span in items_of(rig) if span.attributes["exec.outcome"] == "failure"]
    assert [span.attributes["exec.task.id"] for span in failed] == ["step/3"]


@pytest.mark.parametrize("what", ["result", "exception"])
def test_what_an_item_can_not_send_back_is_a_sentence(rig, what):
    """Of a result: which item, what it is, what to do. Of an exception: its own type and words; where nothing is sent, both are what they are."""
    rig.submit(steps.fan_unsendable, what)
    report = rig.report()
    if what == "result" and rig.kind in {"inline", "threads"}:
        succeeded(report)
    elif what == "result":
        assert (report.outcome, report.error.type) == ("failure", "TypeError")
        assert report.error.message.startswith("the result of item 0, a _thread.lock, can't be sent back to its step: cannot pickle")
        assert report.error.message.endswith("; return plain data, or write a file and return its path")
    elif rig.kind in {"inline", "threads"}:
        assert report.error.type == "executor_steps.Unpicklable"
    else:
        assert (report.error.type, report.error.message) == ("otel_exec.errors.FanOutError", "item 0: executor_steps.Unpicklable: this and that")


def test_the_failure_can_be_caught(rig):
    """The owner may catch it; the note names item, attempt and worker."""
    rig.submit(steps.fan_catching)
    succeeded(rig.report())


def test_retries_are_linked(rig, tmp_path):
    """An item is tried again as often as asked; each attempt has a span, linked to the one before."""
    rig.submit(steps.fan_retrying, Config(str(tmp_path / "try")))
    report = succeeded(rig.report())
    assert (report.items.completed, report.items.attempts, report.items.failed) == (2, 6, 0)
    for index in (0, 1):
        spans = sorted((s for s in items_of(rig) if s.attributes["exec.task.id"] == f"step/{index}"), key=lambda s: s.attributes["exec.attempt"])
        assert [s.attributes["exec.attempt"] for s in spans] == [1, 2, 3]
        assert [[link.span_id for link in s.links] for s in spans] == [[], [spans[0].span_id], [spans[1].span_id]]


@pytest.mark.parametrize("name", ["fan_retrying", "fan_retrying_in_vain", "fan_nested", "fan_counting_tokens"])
def test_the_rebuild_counts_as_the_report_does(rig, tmp_path, name):
    """Folding the spool again gives the numbers of the report: tries that failed are among the percentiles and the busy time either way."""
    rig.submit(getattr(steps, name), Config(str(tmp_path / "try")))
    report = rig.report()
    folded = Folded(rig)
    assert plain(folded.items) == plain(report.items)
    assert report.items.samples.count == report.items.attempts >= report.items.count
    assert plain(folded.sums) == plain(report.sums)


def test_nested_fan_outs(rig):
    """Items may fan out themselves; their items are counted with the step's."""
    rig.submit(steps.fan_nested)
    report = succeeded(rig.report())
    assert report.items.count == 5 + 15
    spans = {span.span_id: span for span in items_of(rig)}
    assert sum(1 for span in spans.values() if span.parent_span_id in spans) == 15


def test_many_steps_fanning_out_at_once(rig):
    """However many steps fan out at once, nested too, nothing waits for ever."""
    for number in range(12):
        rig.submit(steps.fan_nested, name=f"s{number}")
    rig.until(lambda: len(rig.said(Reported)) == 12)
    assert {n.report.outcome for n in rig.said(Reported)} == {"success"}


def test_an_item_past_its_timeout(rig):
    """An item whose time ran out fails the fan-out with error type timeout; where it can't be ended, it is judged or abandoned."""
    if rig.kind == "inline":
        pytest.skip("inline: an item that never returns can't be ended; see test_late_items_inline")
    rig.submit(steps.fan_timeout)
    report = rig.report()
    assert report.error.type == "otel_exec.errors.FanOutError"
    assert "item 1: its timeout of 0.3 s passed" in report.error.message
    late = [span for span in items_of(rig) if span.attributes["exec.task.id"] == "step/1"]
    assert [(span.attributes["exec.outcome"], span.attributes["error.type"]) for span in late] == [("timeout", "timeout")]
    assert late[0].duration_ns >= 300_000_000
    rig.submit(steps.nothing, name="next")
    succeeded(rig.report("next"))


def test_items_with_a_timeout_on_a_lone_worker(kind, tmp_path):
    """Where no worker is idle, items with a timeout run in one extra worker."""
    with Rig(kind, tmp_path, workers=1) as rig:
        rig.submit(steps.fan_within_timeout)
        report = succeeded(rig.report())
        if kind == "ray":  # its items run anywhere but in the owner
            ran = {span.attributes["exec.worker.id"] for span in items_of(rig)}
            assert ran == set(report.items.helped_ns)
            assert report.worker_id not in ran
        elif kind != "inline":
            assert [n.worker_id for n in rig.said(WorkerStarted)] == ["0", "1"]
            assert {span.attributes["exec.worker.id"] for span in items_of(rig)} == {"1"}
            assert set(report.items.helped_ns) == {"1"}


@pytest.mark.parametrize("limit", [1, 2])
def test_max_workers_is_kept(rig, tmp_path, limit):
    """Never more items at once than max_workers, the owner included."""
    rig.submit(steps.fan_limited, Config(str(tmp_path / "at-once"), limit))
    succeeded(rig.report())


def test_closures_and_large_values_travel(rig):
    """A lambda over a local, and items and results of many hundred kilobytes."""
    rig.submit(steps.fan_closure, Config("", 10), name="closure")
    succeeded(rig.report("closure"))
    rig.submit(steps.fan_large, name="large")
    succeeded(rig.report("large"))


def test_what_items_print_and_time_belongs_to_the_step(rig):
    """Output of items is in the step's log, their phases in the step's phases, their spans under the phase that called."""
    rig.submit(steps.fan_talking)
    report = succeeded(rig.report())
    log = rig.file(".executor_log")
    assert sorted(log.splitlines()) == [f"item {n} speaks" for n in range(6)]
    assert {name: fold.count for name, fold in report.sums.phases.items()} == {"around": 1, "in item": 6}
    around = next(span for span in rig.spans() if span.name == "around")
    assert {span.parent_span_id for span in items_of(rig)} == {around.span_id}


def test_past_the_limit_of_spans_items_are_folded(kind, tmp_path):
    """More items than spans are allowed: all are counted, the rest has no span and is said to have none."""
    with Rig(kind, tmp_path, max_task_spans=5) as rig:
        rig.submit(steps.fan_talking, name="step")
        report = succeeded(rig.report())
        assert report.items.completed == 6
        assert len(items_of(rig)) == 5
        assert report.unspanned == 2  # the item and its phase
        assert report.sums.phases["in item"].count == 6


def test_interrupting_the_owner_ends_its_items(rig, tmp_path):
    """The owner's interrupt cancels the step and ends what runs elsewhere for it."""
    if rig.kind == "inline":
        pytest.skip("inline: interrupted by a signal handler alone")
    gate = str(tmp_path / "gate")
    rig.submit(steps.fan_blocking, Config(gate))
    rig.claimed()
    rig.until(lambda: os.path.exists(gate + ".begun"))  # on Ray the driver gives the items' workers their numbers
    rig.executor.interrupt("step", 1)
    report = rig.report()
    assert report.outcome == "cancellation"
    assert report.items.completed == 0
    for number in range(6):
        rig.submit(steps.nothing, name=f"s{number}")
    for number in range(6):
        succeeded(rig.report(f"s{number}"))


def test_outside_a_run_it_is_a_plain_map():
    """Without a run map_tasks is map; wrong arguments are refused either way."""
    assert map_tasks(str, range(3), max_workers=2, retries=1) == ["0", "1", "2"]
    for wrong in ({"max_workers": 0}, {"retries": -1}, {"timeout": 0}):
        with pytest.raises(ValueError, match="map_tasks"):
            map_tasks(str, [], **wrong)


def test_late_items_inline(tmp_path):
    """Inline an item past its timeout is judged when it returns."""
    with Rig("inline", tmp_path) as rig:
        rig.submit(steps.fan_late)
        report = rig.report()
        assert "its timeout of 0.001 s passed" in report.error.message
        (span,) = items_of(rig)
        assert (span.attributes["exec.task.id"], span.attributes["exec.outcome"], span.attributes["error.type"]) == ("step/0", "timeout", "timeout")


@pytest.mark.parametrize("kind", ["processes", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_death_uses_up_no_retry_of_an_item(kind, tmp_path):
    """An item whose worker died once may still fail once."""
    with Rig(kind, tmp_path, workers=3) as rig:
        rig.ready()
        rig.submit(steps.fan_unlucky, Config(os.path.join(rig.folder, "tries")))
        succeeded(rig.report())
        assert sorted(span.attributes["exec.outcome"] for span in items_of(rig)) == ["error", "failure", "success"]


def test_a_worker_that_dies_fails_its_item_alone(tmp_path):
    """An item that ends each worker that takes it has two tries for that, and is then its fan-out's failure, by name; the step's own worker and the others go on."""
    with Rig("processes", tmp_path, workers=3) as rig:
        rig.ready()
        rig.submit(steps.fan_deadly)
        report = rig.report()
        assert report.error.type == "otel_exec.errors.FanOutError"
        assert "SIGKILL" in report.error.message
        lost = [span for span in items_of(rig) if span.attributes["exec.outcome"] == "error"]
        assert lost
        assert {span.attributes["error.type"] for span in lost} == {"worker_died"}
        assert max(span.attributes["exec.attempt"] for span in lost) == 3
        rig.submit(steps.nothing, name="next")
        succeeded(rig.report("next"))


def test_killing_the_owner_ends_its_items(tmp_path):
    """When the owner's step is killed nobody goes on working for it."""
    with Rig("processes", tmp_path, workers=2) as rig:
        rig.ready()
        gate = str(tmp_path / "gate")
        rig.submit(steps.fan_blocking, Config(gate))
        wait_for(gate + ".begun")
        rig.executor.kill("step", 1)
        for number in range(6):
            rig.submit(steps.nothing, name=f"s{number}")
        for number in range(6):
            succeeded(rig.report(f"s{number}"))
        assert os.path.exists(gate) is False
