from __future__ import annotations

import pytest
from scheduling import MS, Scenario, plan_of

from otel_exec.errors import ImpossibleTransition
from otel_exec.schedule.instructions import CloseLevel, EndRun, OpenLevel, RunGates


def test_levels_overlap_without_barrier() -> None:
    """Without a barrier a step of level 2 starts while level 1 goes on."""
    run = Scenario(plan_of({"a": "", "slow": "", "b": "a"}))
    run.begin()
    run.run("a")
    assert [open_.level for open_ in run.of(OpenLevel)] == [1, 2]
    run.run("b")
    assert [close.level for close in run.of(CloseLevel)] == [2]


def test_barrier_holds_next_level() -> None:
    """With a barrier level 2 is created when all of level 1 has settled, failed ones included, a microsecond after its end at least."""
    run = Scenario(plan_of({"a": "", "slow": "", "b": "a"}), barrier=True)
    run.begin()
    run.run("a")
    assert "b" not in run.created
    run.claim("slow")
    run.end("slow", "failure", at_ns=10 * MS)
    assert CloseLevel(1, 10 * MS, start_ns=MS) in run.log
    assert run.created["b"] == 10 * MS + 1000
    assert OpenLevel(2, 10 * MS + 1000) in run.log


def test_barrier_level_ends_with_latest_settled() -> None:
    """The barrier is passed after the latest settlement of the level, not after the one reported last."""
    run = Scenario(plan_of({"a": "", "b": "", "c": "a b"}), barrier=True)
    run.begin(at_ns=100)
    run.end("a", at_ns=900)
    run.end("b", at_ns=800)
    assert run.created["c"] == 1900


def test_barrier_skipped_levels_in_order() -> None:
    """Levels of which nothing runs open and close in their turn with no length, never touching the one before."""
    run = Scenario(plan_of({"a": "", "b": "a", "c": "b", "d": "c"}), decisions={"a": "skip", "b": "cached", "d": "run"}, barrier=True)
    run.begin(at_ns=10_000)
    assert run.of(CloseLevel) == [CloseLevel(1, 10_000, 10_000), CloseLevel(2, 11_000, 11_000)]
    assert run.created == {"c": 12_000}
    run.claim("c")
    run.end("c", "failure", at_ns=50_000)
    assert run.of(CloseLevel)[-2:] == [CloseLevel(3, 50_000, 12_000), CloseLevel(4, 51_000, 51_000)]
    assert run.log[-1] == EndRun(51_000, "failure")


def test_barrier_below_group() -> None:
    """With a barrier too, what depends on a group waits for its members and for the level before its own."""
    run = Scenario(plan_of({"a": "", "g": "a", "b": "g", "other": ""}, groups=["g"]), barrier=True)
    run.begin()
    run.run("a")
    assert "b" not in run.created
    run.run("other")
    run.run("b")
    assert run.outcome == "success"


# Gates.


def test_gates_run_between_levels() -> None:
    """Gates run after every level but the last; the next level is created when they have ended."""
    run = Scenario(plan_of({"a": "", "b": "a", "c": "b"}), gates=True)
    run.begin()
    run.run("a")
    assert run.log[-2:] == [CloseLevel(1, run.now, MS), RunGates(1)]
    run.end_gates(1, at_ns=20 * MS)
    assert run.created["b"] == 20 * MS
    run.run("b")
    run.end_gates(2)
    run.run("c")
    assert [gate.level for gate in run.of(RunGates)] == [1, 2]
    assert run.outcome == "success"


def test_gates_created_after_level_end() -> None:
    """Gates that ended at the level's own end still leave a microsecond between the levels."""
    run = Scenario(plan_of({"a": "", "b": "a"}), gates=True)
    run.begin()
    run.run("a")
    end_ns = run.now
    run.end_gates(1, at_ns=end_ns)
    assert run.created["b"] == end_ns + 1000


def test_gates_failing_end_the_run() -> None:
    """A failing gate ends the run as a failure; what had not run is skipped for it."""
    run = Scenario(plan_of({"a": "", "b": "a", "c": "b", "all": "b c"}, groups=["all"]), gates=True)
    run.begin()
    run.run("a")
    run.end_gates(1, passed=False)
    assert {name: (one.outcome, one.cause) for name, one in run.settled.items() if name != "a"} == {
        "b": ("skip", "gate_failed"),
        "c": ("skip", "gate_failed"),
        "all": ("skip", "gate_failed"),
    }
    assert run.outcome == "failure"
    assert len(run.of(RunGates)) == 1


def test_gates_after_cached_level() -> None:
    """Gates also guard what comes after a cached level: a gate that failed is not passed by running again."""
    run = Scenario(plan_of({"a": "", "b": "a"}), decisions={"a": "cached"}, gates=True)
    run.begin()
    assert run.of(RunGates) == [RunGates(1)]
    assert not run.submitted


def test_gates_not_run_for_nothing() -> None:
    """Where nothing is left to run no gate is."""
    run = Scenario(plan_of({"a": "", "b": "a"}), decisions={"a": "skip", "b": "cached"}, gates=True)
    run.begin()
    assert not run.of(RunGates)
    assert run.outcome == "success"


def test_gates_unasked() -> None:
    """The end of gates that do not run is impossible."""
    run = Scenario(plan_of({"a": "", "b": "a"}), gates=True)
    run.begin()
    with pytest.raises(ImpossibleTransition):
        run.end_gates(1)
