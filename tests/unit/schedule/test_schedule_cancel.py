from __future__ import annotations

import pytest
from scheduling import MS, Scenario, plan_of

from otel_exec.schedule.capacity import Capacity
from otel_exec.schedule.events import CancelRequested
from otel_exec.schedule.instructions import EndRun, InterruptRunning, RecallAll, SettleStep, Submit


@pytest.mark.parametrize(("reason", "outcome"), [("interrupt", "cancellation"), ("terminate", "cancellation"), ("timeout", "timeout")])
def test_cancel_reasons(reason: str, outcome: str) -> None:
    """Each reason to cancel gives the run its outcome."""
    run = Scenario(plan_of({"a": "", "b": "a"}))
    run.begin()
    run.claim("a")
    run.cancel(reason)
    run.end("a", "cancellation")
    assert run.settled["a"].outcome == "cancellation"
    assert run.outcome == outcome


def test_cancel_settles_what_has_not_started() -> None:
    """What waits, is ready, backs off or asks for a lock is settled as cancelled at once, with the attempts it made; nothing new starts."""
    edges = {"running": "", "failed": "", "locked": "", "in_hand": "", "in_hand_too": "", "ready": "", "below": "running"}
    run = Scenario(plan_of(edges, retries={"failed": 1}), capacity=Capacity(workers=3))
    run.begin()
    run.claim("running")
    run.claim("failed")
    run.end("failed", "failure")
    run.refuse("locked")
    assert run.submitted == ["running", "failed", "locked", "in_hand", "in_hand_too"]
    out = run.cancel()
    assert {one.index: (one.outcome, one.cause, one.attempts) for one in out if isinstance(one, SettleStep)} == {
        run.at["failed"]: ("cancellation", "cancelled", 1),
        run.at["locked"]: ("cancellation", "cancelled", 0),
        run.at["ready"]: ("cancellation", "cancelled", 0),
        run.at["below"]: ("cancellation", "cancelled", 0),
    }
    assert not [one for one in out if isinstance(one, Submit)]
    assert run.outcome is None


def test_cancel_instructions_come_last() -> None:
    """Recall and interrupt come after all settlements, since the runner answers a recall while it still obeys."""
    run = Scenario(plan_of({"a": "", "b": "", "below": "a", "all": "below"}, groups=["all"]))
    run.begin()
    out = run.cancel()
    assert out[-2:] == [RecallAll(), InterruptRunning()]


def test_cancel_recalled() -> None:
    """An attempt that was recalled for the cancellation is settled as cancelled, with no attempt made."""
    run = Scenario(plan_of({"a": "", "b": ""}))
    run.begin()
    run.claim("a")
    run.cancel()
    run.recall("b")
    assert run.settled["b"] == SettleStep(1, run.now, "cancellation", "cancelled")
    run.end("a", "success")
    assert run.settled["a"].outcome == "success"
    assert run.outcome == "cancellation"


def test_cancel_refused_meanwhile() -> None:
    """A step that finds its lock taken after the cancellation does not wait for it."""
    run = Scenario(plan_of({"a": ""}))
    run.begin()
    run.cancel()
    run.refuse("a")
    assert run.settled["a"].cause == "cancelled"
    assert run.outcome == "cancellation"


def test_cancel_claimed_late() -> None:
    """An attempt whose claim arrives after the cancellation is interrupted as well."""
    run = Scenario(plan_of({"a": ""}))
    run.begin()
    run.cancel()
    assert run.claim("a") == [InterruptRunning()]


def test_cancel_failure_is_final() -> None:
    """A failure during the cancellation is final, retries left or not."""
    run = Scenario(plan_of({"a": ""}, retries={"a": 3}))
    run.begin()
    run.claim("a")
    run.cancel()
    run.end("a", "failure")
    assert run.settled["a"].outcome == "failure"
    assert run.outcome == "cancellation"


def test_cancel_group() -> None:
    """A group whose members were cancelled is cancelled; one with a member that really failed says so."""
    plan = plan_of({"a": "", "b": "a", "c": "", "group": "a b", "other": "c"}, groups=["group", "other"])
    run = Scenario(plan)
    run.begin()
    run.claim("a")
    run.claim("c")
    run.cancel()
    run.end("a", "cancellation")
    run.end("c", "failure")
    assert (run.settled["group"].outcome, run.settled["group"].cause) == ("cancellation", "cancelled")
    assert (run.settled["other"].outcome, run.settled["other"].by) == ("skip", run.at["c"])


def test_cancel_twice_first_reason_stands() -> None:
    """A second request changes nothing: the first reason stands."""
    run = Scenario(plan_of({"a": ""}))
    run.begin()
    run.cancel("timeout")
    assert run.cancel("interrupt") == []
    run.end("a", "cancellation")
    assert run.outcome == "timeout"


def test_cancel_after_end() -> None:
    """A request after the run ended is too late to change anything."""
    run = Scenario(plan_of({"a": ""}))
    run.begin()
    run.run("a")
    assert run.cancel() == []
    assert run.outcome == "success"


def test_cancel_before_begin() -> None:
    """A request before the run began lets nothing start; cached steps stay cached."""
    run = Scenario(plan_of({"a": "", "b": "", "c": "b"}), decisions={"a": "cached"})
    assert run.state.handle(CancelRequested(1, "interrupt")) == []
    run.begin(at_ns=2)
    assert run.settled["a"].outcome == "success"
    assert run.settled["c"].cause == "cancelled"
    assert not run.submitted
    assert run.log[-1] == EndRun(2, "cancellation")


def test_cancel_with_nothing_in_hand() -> None:
    """A run that only waits for timers ends at once when it is cancelled, with nothing to recall; a timer that fires later is nothing."""
    run = Scenario(plan_of({"a": "", "b": "a"}, retries={"a": 1}))
    run.begin()
    run.claim("a")
    run.end("a", "failure")
    out = run.cancel()
    assert not {RecallAll(), InterruptRunning()} & set(out)
    assert run.outcome == "cancellation"
    assert run.fire("a") == []


def test_cancel_during_gates() -> None:
    """A cancellation during gates interrupts them and the run ends when they have."""
    run = Scenario(plan_of({"a": "", "b": "a"}), gates=True)
    run.begin()
    run.run("a")
    assert run.cancel()[-1] == InterruptRunning()
    assert run.settled["b"].cause == "cancelled"
    assert run.outcome is None
    run.end_gates(1, passed=False, at_ns=run.now + MS)
    assert run.outcome == "cancellation"
