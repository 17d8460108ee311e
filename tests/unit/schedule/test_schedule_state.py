from __future__ import annotations

import pickle

import pytest
from scheduling import Scenario, names_of, plan_of

from otel_exec.errors import ImpossibleTransition, PlanError
from otel_exec.plan.graph import Resources
from otel_exec.schedule.capacity import Capacity
from otel_exec.schedule.events import AttemptClaimed, AttemptEnded, RunBegan, TimerFired
from otel_exec.schedule.instructions import CloseLevel, EndRun, OpenLevel, SettleStep, StartStep, Submit
from otel_exec.schedule.retries import RetryPolicy
from otel_exec.schedule.select import Decision
from otel_exec.schedule.state import RunState
from otel_exec.schedule.transitions import STORY_LENGTH


def test_schedule_whole_run() -> None:
    """A chain of two steps opens, runs and closes level by level, and the run ends with success."""
    run = Scenario(plan_of({"a": "", "b": "a"}))
    run.begin(at_ns=100)
    run.claim("a", at_ns=110)
    run.end("a", at_ns=120)
    run.claim("b", at_ns=130)
    run.end("b", at_ns=140)
    assert run.log == [
        OpenLevel(1, 100),
        StartStep(0, 100),
        Submit(0, attempt=1, created_ns=100, last_attempt=True, locked=False),
        SettleStep(0, 120, "success", attempts=1),
        CloseLevel(1, 120, start_ns=100),
        OpenLevel(2, 120),
        StartStep(1, 120),
        Submit(1, attempt=1, created_ns=120, last_attempt=True, locked=False),
        SettleStep(1, 140, "success", attempts=1),
        CloseLevel(2, 140, start_ns=120),
        EndRun(140, "success"),
    ]


def test_schedule_empty_plan() -> None:
    """A plan without steps ends with success as soon as it began."""
    run = Scenario(plan_of({}))
    assert run.begin(at_ns=5) == [EndRun(5, "success")]


def test_schedule_created_is_latest_upstream() -> None:
    """A step is created when the last of its upstreams settled, by their own instants, not by the order in which reports came."""
    run = Scenario(plan_of({"a": "", "b": "", "c": "a b"}))
    run.begin(at_ns=100)
    run.end("b", at_ns=300)
    run.end("a", at_ns=200)
    assert run.created["c"] == 300


def test_schedule_level_contains_early_created() -> None:
    """A level's span starts with the first created of its steps, though a report of an earlier settlement came later."""
    run = Scenario(plan_of({"a": "", "b": "", "below_a": "a", "below_b": "b"}))
    run.begin(at_ns=100)
    run.end("a", at_ns=300)
    run.end("b", at_ns=200)
    run.run("below_a", "below_b")
    closed = next(close for close in run.of(CloseLevel) if close.level == 2)
    assert [open_.at_ns for open_ in run.of(OpenLevel) if open_.level == 2] == [300]
    assert closed.start_ns == 200 == run.created["below_b"]


def test_schedule_nonblocking_not_waited_for() -> None:
    """A non-blocking edge is not waited for."""
    run = Scenario(plan_of({"train": "", "evaluate": ""}, nonblocking={"evaluate": "train"}))
    run.begin()
    assert run.submitted == ["train", "evaluate"]


def test_schedule_same_upstream_twice() -> None:
    """An upstream that a config refers to twice is waited for once."""
    run = Scenario(plan_of({"a": "", "b": "a a"}))
    run.begin()
    run.run("a", "b")
    assert run.outcome == "success"


def test_schedule_longest_chain_first() -> None:
    """Of the ready steps the one with the longest chain below starts first; among equals the plan's order decides."""
    plan = plan_of({"lone": "", "head": "", "lone_too": "", "middle": "head", "tail": "middle"})
    run = Scenario(plan, capacity=Capacity(workers=1))
    run.begin()
    while run.outcome is None:
        run.run(run.submitted[-1])
    assert run.submitted == ["head", "middle", "lone", "lone_too", "tail"]


def test_schedule_chain_ignores_cached() -> None:
    """Steps below that will not run make no chain longer."""
    plan = plan_of({"a": "", "b": "", "below_a": "a", "lower": "below_a", "below_b": "b"})
    run = Scenario(plan, capacity=Capacity(workers=1), decisions={"below_a": "cached", "lower": "cached"})
    run.begin()
    assert run.submitted == ["b"]


# Groups.


def test_schedule_group_spans_its_members() -> None:
    """A group is created with its first member, settles with its last, is never submitted, and has no level."""
    run = Scenario(plan_of({"a": "", "b": "a"}), decisions={"a": "skip", "b": "cached"})
    run.begin(at_ns=100)
    assert run.settled["a"] == SettleStep(0, 100, "skip", cause="not_needed")
    assert run.of(OpenLevel) == [OpenLevel(1, 100), OpenLevel(2, 100)]
    assert run.of(CloseLevel) == [CloseLevel(1, 100, 100), CloseLevel(2, 100, 100)]
    assert run.log[-1] == EndRun(100, "success")


def test_schedule_cached_opens_no_level() -> None:
    """A cached step does not open its level: that opens when its first step is created."""
    run = Scenario(plan_of({"a": "", "b": "a", "kept": "a"}), decisions={"kept": "cached"})
    run.begin(at_ns=100)
    assert [open_.level for open_ in run.of(OpenLevel)] == [1]
    run.end("a", at_ns=500)
    run.end("b", at_ns=600)
    assert CloseLevel(2, 600, start_ns=500) in run.log


def test_schedule_failed_previously() -> None:
    """A step that failed before and is not run again counts as failed, and what depends on it is skipped by its cause."""
    plan = plan_of({"a": "", "b": "a", "c": "b", "other": ""})
    below = Decision("skip", "a failed previously", cause="upstream_failed")
    run = Scenario(plan, decisions={"a": "failed", "b": below, "c": below})
    run.begin(at_ns=100)
    assert run.settled["a"] == SettleStep(0, 100, "failure", cause="failed_previously")
    assert run.settled["b"] == SettleStep(1, 100, "skip", cause="upstream_failed", by=0)
    assert run.settled["c"] == SettleStep(2, 100, "skip", cause="upstream_failed", by=0)
    run.run("other")
    assert run.outcome == "failure"


# What can't be.


def test_schedule_impossible_tells_story() -> None:
    """An event that can't have happened raises with the step's name, state and story."""
    run = Scenario(plan_of({"a": "", "b": "a"}))
    run.begin(at_ns=100)
    run.claim("a", at_ns=200)
    run.end("a", at_ns=300)
    with pytest.raises(ImpossibleTransition) as caught:
        run.state.handle(AttemptEnded(400, 0, 2, "success"))
    assert caught.value.step == "a"
    assert caught.value.state == "settled"
    assert caught.value.story == (
        (100, "created", "waiting", "ready"),
        (100, "submitted", "ready", "submitted"),
        (200, "claimed", "submitted", "running"),
        (300, "ended", "running", "settled"),
    )
    assert "300 ended: running -> settled" in str(caught.value)


@pytest.mark.parametrize(
    "event",
    [
        AttemptClaimed(9, 1, 1, "0"),  # not submitted
        AttemptEnded(9, 1, 1, "success"),  # not submitted
        AttemptClaimed(9, 0, 2, "0"),  # another attempt
        TimerFired(9, 0),  # no timer was set
        RunBegan(9),  # began already
    ],
)
def test_schedule_impossible_events(event: object) -> None:
    """Events out of turn raise and change nothing of the step."""
    run = Scenario(plan_of({"a": "", "b": "a"}))
    run.begin()
    before = list(run.state.ledger.states)
    with pytest.raises(ImpossibleTransition):
        run.state.handle(event)  # type: ignore[arg-type]  # any event
    assert run.state.ledger.states == before


def test_schedule_impossible_pickles() -> None:
    """The error survives pickling with its story."""
    error = pickle.loads(pickle.dumps(ImpossibleTransition("a", "ready", "ended", [(1, "created", "waiting", "ready")])))
    assert (error.step, error.state, error.what, error.story) == ("a", "ready", "ended", ((1, "created", "waiting", "ready"),))


def test_schedule_story_bounded() -> None:
    """Stories take no more room than their bound, however often a lock is asked for."""
    run = Scenario(plan_of({"a": ""}))
    run.begin()
    run.state._validate = False
    for _ in range(STORY_LENGTH // 3):
        run.log.clear()
        run.refuse("a")
        run.fire("a")
    assert len(run.state.story(0)) == STORY_LENGTH


def test_schedule_unknown_outcome() -> None:
    """An attempt can't come to an outcome that is not one of attempts."""
    run = Scenario(plan_of({"a": ""}))
    run.begin()
    with pytest.raises(ValueError, match="skip"):
        run.end("a", "skip")


def test_schedule_refuses_what_never_fits() -> None:
    """A run that could never start one of its steps is refused before it begins."""
    plan = plan_of({"a": ""}, resources={"a": Resources(num_gpus=1)})
    with pytest.raises(PlanError, match="1 GPUs"):
        RunState(plan, [Decision("run", "")], capacity=Capacity(workers=1), retries=RetryPolicy(jitter=float))


def test_schedule_decisions_fit_plan() -> None:
    """Decisions that are not one a step, or that run a step without what it depends on, are refused."""
    with pytest.raises(ValueError, match="'b' is to be run, but 'a'"):
        Scenario(plan_of({"a": "", "b": "a"}), decisions={"a": "skip"})
    with pytest.raises(ValueError, match="0 decisions for 1 steps"):
        RunState(plan_of({"a": ""}), [], capacity=Capacity(workers=1), retries=RetryPolicy(jitter=float))


def test_schedule_deterministic() -> None:
    """The same events give the same instructions."""

    def drive() -> list[object]:
        run = Scenario(plan_of({"a": "", "b": "", "c": "a b", "d": "a", "all": "c d"}, groups=["all"]), capacity=Capacity(workers=2))
        run.begin()
        while run.outcome is None:
            pending = [name for name in run.submitted if name not in run.settled]
            run.run(pending[-1])
        return list(run.log)

    assert drive() == drive()


def test_schedule_fan_of_instructions() -> None:
    """Everything that becomes possible at once is created and submitted by the one event that made it so."""
    run = Scenario(plan_of({"a": "", "b": "a", "c": "a", "d": "a"}))
    run.begin()
    run.claim("a")
    out = run.end("a")
    assert names_of(run, out, StartStep) == ["b", "c", "d"]
    assert names_of(run, out, Submit) == ["b", "c", "d"]
