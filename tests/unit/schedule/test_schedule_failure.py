from __future__ import annotations

import pytest
from scheduling import MS, S, Scenario, names_of, plan_of

from otel_exec.schedule.capacity import Capacity
from otel_exec.schedule.instructions import InterruptRunning, RecallAll, SetTimer, SettleStep, Submit
from otel_exec.schedule.retries import RetryPolicy


def test_failure_skips_downstream() -> None:
    """What depends on a failed step is skipped by its first cause at that instant, and independent branches go on."""
    run = Scenario(plan_of({"a": "", "b": "a", "c": "b", "other": "", "below_other": "other"}))
    run.begin()
    run.claim("a")
    run.end("a", "failure", at_ns=5 * MS)
    assert run.settled["b"] == SettleStep(1, 5 * MS, "skip", "upstream_failed", by=0)
    assert run.settled["c"] == SettleStep(2, 5 * MS, "skip", "upstream_failed", by=0)
    run.run("other", "below_other")
    assert run.settled["below_other"].outcome == "success"
    assert run.outcome == "failure"


def test_failure_first_cause_stands() -> None:
    """A step below two failed ones names the one that failed first."""
    run = Scenario(plan_of({"a": "", "b": "", "c": "a b"}))
    run.begin()
    run.end("b", "failure")
    run.end("a", "timeout")
    assert run.settled["c"].by == run.at["b"]
    assert len([one for one in run.of(SettleStep) if one.index == run.at["c"]]) == 1


def test_failure_through_group() -> None:
    """A failure passes through a group at once; the group itself waits for its other members and comes to a skip, not a failure."""
    run = Scenario(plan_of({"a": "", "b": "", "both": "a b", "after": "both"}, groups=["both"]))
    run.begin()
    out = run.end("a", "failure")
    assert names_of(run, out, SettleStep) == ["a", "after"]
    assert run.settled["after"].by == run.at["a"]
    run.run("b")
    assert (run.settled["both"].outcome, run.settled["both"].cause, run.settled["both"].by) == ("skip", "upstream_failed", run.at["a"])
    assert run.outcome == "failure"


@pytest.mark.parametrize("outcome", ["failure", "timeout", "error"])
def test_failure_outcomes_fail_the_run(outcome: str) -> None:
    """Failure, timeout and error of a step each make the run a failure and keep their own word."""
    run = Scenario(plan_of({"a": ""}))
    run.begin()
    run.end("a", outcome)
    assert run.settled["a"].outcome == outcome
    assert run.outcome == "failure"


def test_failure_cancelled_by_itself() -> None:
    """A step that the user's code cancelled keeps others from running, and the run is no success."""
    run = Scenario(plan_of({"a": "", "b": "a"}))
    run.begin()
    run.end("a", "cancellation")
    assert run.settled["b"].cause == "upstream_failed"
    assert run.outcome == "cancellation"


# Retries.


def test_retry_backs_off_exponentially() -> None:
    """Back-off doubles with each attempt up to its cap, its upper half left to chance."""
    least, most = RetryPolicy(jitter=lambda: 0.0), RetryPolicy(jitter=lambda: 0.999_999)
    assert [least.backoff_ns(attempt) / S for attempt in (1, 2, 3, 8, 100_000)] == [0.25, 0.5, 1.0, 30.0, 30.0]
    assert [round(most.backoff_ns(attempt) / S, 3) for attempt in (1, 2, 8)] == [0.5, 1.0, 60.0]


def test_retry_second_attempt() -> None:
    """A failed attempt with a retry left is tried again after its back-off, created anew when the timer fired, with the lock kept."""
    run = Scenario(plan_of({"a": ""}, retries={"a": 1}))
    run.begin()
    assert run.of(Submit)[0].last_attempt is False
    run.claim("a")
    out = run.end("a", "failure", at_ns=1 * S)
    assert out == [SetTimer(0, 1 * S + S // 4, "backoff")]
    out = run.fire("a", at_ns=2 * S)
    assert out == [Submit(0, attempt=2, created_ns=2 * S, last_attempt=True, locked=True)]
    run.claim("a")
    run.end("a", "failure")
    assert run.settled["a"].attempts == 2
    assert run.settled["a"].outcome == "failure"


def test_retry_gives_worker_back() -> None:
    """A step in back-off holds no worker."""
    run = Scenario(plan_of({"a": "", "b": ""}, retries={"a": 1}), capacity=Capacity(workers=1))
    run.begin()
    run.claim("a")
    out = run.end("a", "failure")
    assert names_of(run, out, Submit) == ["b"]


def test_retry_unclaimed_takes_lock_again() -> None:
    """An attempt that nobody claimed, and one that lost its lease, leave the next one without the lock."""
    run = Scenario(plan_of({"a": ""}, retries={"a": 3}))
    run.begin()
    run.end("a", "error", blameless=True)
    assert [one.locked for one in run.fire("a") if isinstance(one, Submit)] == [False]
    run.claim("a")
    run.end("a", "error", lock_lost=True)
    assert [one.locked for one in run.fire("a") if isinstance(one, Submit)] == [False]
    run.claim("a")
    run.end("a", "failure")
    assert [one.locked for one in run.fire("a") if isinstance(one, Submit)] == [True]


def test_retry_blameless_deaths() -> None:
    """Deaths that may not be the step's fault use up its retries and then two tries more, and no further."""
    run = Scenario(plan_of({"a": ""}, retries={"a": 1}))
    run.begin()
    for attempt in (1, 2, 3):
        assert run.attempt["a"] == attempt
        run.claim("a")
        run.end("a", "error", blameless=True)
        run.fire("a")
    assert [submit.last_attempt for submit in run.of(Submit)] == [False, True, True, True]
    run.claim("a")
    run.end("a", "error", blameless=True)
    assert (run.settled["a"].outcome, run.settled["a"].attempts) == ("error", 4)


def test_retry_failure_gets_no_extra_tries() -> None:
    """The two tries more are for deaths alone: a failure in one of them is final."""
    run = Scenario(plan_of({"a": ""}))
    run.begin()
    run.end("a", "error", blameless=True)
    run.fire("a")
    run.end("a", "failure")
    assert run.settled["a"].outcome == "failure"


@pytest.mark.parametrize(("retry_timeouts", "again"), [(True, True), (False, False)])
def test_retry_timeouts(*, retry_timeouts: bool, again: bool) -> None:
    """A timeout is tried again exactly where the executor can end an attempt."""
    run = Scenario(plan_of({"a": ""}, retries={"a": 1}), retries=RetryPolicy(jitter=float, retry_timeouts=retry_timeouts))
    run.begin()
    run.claim("a")
    run.end("a", "timeout")
    assert bool(run.of(SetTimer)) is again
    assert ("a" in run.settled) is not again


def test_retry_never_after_cancellation() -> None:
    """An attempt that was cancelled is not tried again, whatever retries are left."""
    run = Scenario(plan_of({"a": ""}, retries={"a": 5}))
    run.begin()
    run.end("a", "cancellation")
    assert run.settled["a"].outcome == "cancellation"


# Locks.


def test_lock_refused_asks_again() -> None:
    """A refused step gives its worker back and asks again as the same attempt, at intervals that double from 50 ms to 1 s."""
    run = Scenario(plan_of({"a": "", "b": ""}), capacity=Capacity(workers=1))
    run.begin(at_ns=MS)
    out = run.refuse("a")
    assert names_of(run, out, Submit) == ["b"]
    run.run("b")
    waited = []
    for _ in range(7):
        timer = run.of(SetTimer)[-1]
        assert timer.why == "lock"
        refused_ns = run.state.story(0)[-1][0]
        waited.append((timer.at_ns - refused_ns) // MS)
        assert run.fire("a") == [Submit(0, attempt=1, created_ns=MS, last_attempt=True, locked=False)]
        run.refuse("a")
    assert waited == [50, 100, 200, 400, 800, 1000, 1000]


def test_lock_then_found_cached() -> None:
    """A step that another run finished meanwhile is settled as cached, with no attempt made, and what is below it goes on."""
    run = Scenario(plan_of({"a": "", "b": "a"}))
    run.begin()
    run.refuse("a")
    run.fire("a")
    out = run.find_cached("a")
    settled = run.settled["a"]
    assert (settled.outcome, settled.cause, settled.attempts) == ("success", "cached", 0)
    assert names_of(run, out, Submit) == ["b"]


def test_recalled_is_submitted_again() -> None:
    """An attempt that the executor gave back outside a cancellation is handed over again under its number."""
    run = Scenario(plan_of({"a": ""}))
    run.begin()
    assert run.recall("a") == [Submit(0, attempt=1, created_ns=MS, last_attempt=True, locked=False)]


# Fail-fast.


def test_fail_fast_cancels_the_rest() -> None:
    """With fail-fast the first final failure settles what has not started, recalls and interrupts the rest, and the run is a failure."""
    run = Scenario(plan_of({"a": "", "b": "", "c": "", "d": "b"}), capacity=Capacity(workers=2), fail_fast=True)
    run.begin()
    run.claim("b")
    out = run.end("b", "failure")
    assert run.settled["d"].cause == "upstream_failed"
    assert run.settled["c"].cause == "cancelled"
    assert out[-2:] == [RecallAll(), InterruptRunning()]
    run.claim("a")
    run.end("a", "success")
    assert run.settled["a"].outcome == "success"
    assert run.outcome == "failure"


def test_fail_fast_waits_for_retries() -> None:
    """A failure that is tried again does not cancel anything yet."""
    run = Scenario(plan_of({"a": "", "b": ""}, retries={"a": 1}), fail_fast=True)
    run.begin()
    run.end("a", "failure")
    assert not run.of(RecallAll)


def test_fail_fast_failed_previously() -> None:
    """A step that failed previously is the first failure too."""
    run = Scenario(plan_of({"a": "", "b": ""}), decisions={"a": "failed"}, fail_fast=True)
    run.begin()
    assert run.settled["b"].cause == "cancelled"
    assert run.outcome == "failure"


def test_fail_fast_late_report() -> None:
    """A failure that is reported late cancels nothing before it was created."""
    run = Scenario(plan_of({"a": "", "b": "", "more": "", "c": "a"}), capacity=Capacity(workers=2), fail_fast=True)
    run.begin()
    run.end("a", at_ns=9 * MS)
    run.end("b", "failure", at_ns=8 * MS)
    assert run.created["c"] == 9 * MS
    assert run.settled["c"] == SettleStep(run.at["c"], 9 * MS, "cancellation", "cancelled")


def test_failure_group_first_cause_stands() -> None:
    """A group with two failed members names the one that failed first."""
    run = Scenario(plan_of({"a": "", "b": "", "both": "a b"}, groups=["both"]))
    run.begin()
    run.end("b", "failure")
    run.end("a", "failure")
    assert run.settled["both"].by == run.at["b"]


def test_lock_refused_to_later_attempt() -> None:
    """A later attempt that finds the lock with another run has it no more, and has to take it again."""
    run = Scenario(plan_of({"a": ""}, retries={"a": 1}))
    run.begin()
    run.claim("a")
    run.end("a", "failure")
    assert [one.locked for one in run.fire("a") if isinstance(one, Submit)] == [True]
    run.refuse("a")
    assert run.fire("a") == [Submit(0, attempt=2, created_ns=run.of(Submit)[1].created_ns, last_attempt=True, locked=False)]
