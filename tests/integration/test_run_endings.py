"""How runs end that don't end well: gates that hang, steps that cancel themselves, locks lost between attempts, mistakes found late."""

from __future__ import annotations

import asyncio
import json
import os
import threading

import pytest

from otel_exec import StepsFailed, UsageError, deferred, step, versioned
from otel_exec.schedule.gates import parse_gate
from otel_exec.testing import recorded_spans, run_in


def _work(config: dict[str, object]) -> None:
    print("the last words of", config["number"])
    if config["mode"] == "cancelled":
        raise asyncio.CancelledError
    if config["mode"] == "failed":
        raise LookupError("not here")


work = deferred(_work)


@step(name="{mode}/{number}")
def node(number: int, mode: str = "fine", up=None):
    return work({"number": versioned(number), "mode": mode, "up": up})


def _hangs(level: int) -> None:
    threading.Event().wait(60)


@pytest.mark.parametrize("gate", [_hangs, ["sleep", "60"], ["sh", "-c", "trap '' TERM; sleep 60"], ["sh", "-c", "sleep 60 & wait"]])
def test_a_gate_that_does_not_end_ends_with_the_run(tmp_path, gate):
    """After the run's timeout and the grace a gate that goes on is killed, or given up where it is a function."""
    with pytest.raises(StepsFailed) as failed:
        run_in(tmp_path, [node(2, up=node(1))], gates=[gate], timeout_s=0.3, grace_s=0.2)
    record = failed.value.record
    assert record.outcome == "timeout"
    assert [gate.outcome for gate in record.gates] == ["cancellation"]
    assert record.steps[1].outcome == "cancellation"
    assert [span.attributes["exec.outcome"] for span in recorded_spans(record) if span.kind == "gate"] == ["cancellation"]


def test_a_gate_that_is_none_is_said_before_anything_runs(tmp_path):
    """A gate that can't be split into words, or is no gate at all, is a mistake of its caller."""
    for wrong in ("pytest 'tests", "", [], 3, None):
        with pytest.raises(UsageError, match="gate"):
            run_in(tmp_path, [node(2, up=node(1))], gates=[wrong])
    assert not os.path.exists(tmp_path / "outputs")
    assert parse_gate("/usr/bin/env true").name == "env"


def test_what_a_command_leaves_behind_does_not_hold_its_gate(tmp_path):
    """A gate has ended when its command has, whoever still holds its output open."""
    record = run_in(tmp_path, [node(2, up=node(1))], gates=[["sh", "-c", "echo said; sleep 30 &"]])
    assert [(gate.outcome, gate.output) for gate in record.gates] == [("success", "said\n")]


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_a_step_that_cancels_itself_is_named(tmp_path, executor):
    """A step whose own code cancels it is a cause like any other: it is named, its exception is the error's cause."""
    with pytest.raises(StepsFailed, match="cancelled/1 cancelled itself") as failed:
        run_in(tmp_path, [node(2, up=node(1, "cancelled"))], executor=executor)
    assert isinstance(failed.value.__cause__, asyncio.CancelledError)
    assert [each.outcome for each in failed.value.record.steps] == ["cancellation", "skip"]


def test_the_first_failure_is_the_cause(tmp_path):
    """The cause is the failure that settled first, whatever its place in the plan."""
    steps = [node(2, "failed", up=node(1)), node(3, "failed")]
    with pytest.raises(StepsFailed) as failed:
        run_in(tmp_path, steps, executor="threads", workers=1)
    first = min((each for each in failed.value.record.steps if each.outcome == "failure"), key=lambda each: each.end_ns)
    assert f"in step {first.name!r}" in failed.value.__cause__.__notes__[0]


def test_a_dry_run_is_no_run(tmp_path):
    """`run(dry_run=True)` is refused: it would have to return a record of nothing."""
    with pytest.raises(UsageError, match="--dry-run"):
        run_in(tmp_path, [node(1)], dry_run=True)
    assert list(tmp_path.iterdir()) == []


def test_what_failed_before_keeps_its_message(tmp_path):
    """A step that is not run again, since it failed previously, is shown with the message of that failure."""
    with pytest.raises(StepsFailed):
        run_in(tmp_path, [node(1, "failed")])
    with pytest.raises(StepsFailed) as failed:
        run_in(tmp_path, [node(1, "failed")], rerun_failed=False)
    error = failed.value.record.steps[0].error
    assert (error.type, error.message) == ("failed_previously", "LookupError: not here")


def test_all_workers_that_were_asked_for_are_there(tmp_path):
    """A run has the workers that it was told to have, however few its steps are: items of a fan-out go to them."""
    record = run_in(tmp_path, [node(1)], executor="threads", workers=3)
    assert record.executor.workers == len(record.workers) == 3


def test_a_cached_step_below_a_forced_one_is_said(tmp_path):
    """A step that is taken as it was though one that it depends on is run again gives a warning."""
    run_in(tmp_path, [node(2, up=node(1))])
    record = run_in(tmp_path, [node(2, up=node(1))], force=["fine/1"])
    assert [(each.name, each.cached) for each in record.steps] == [("fine/1", False), ("fine/2", True)]
    assert [warning.code for warning in record.warnings] == ["cached_below_forced"]
    assert json.loads((tmp_path / "run.json").read_text())["warnings"][0]["code"] == "cached_below_forced"
