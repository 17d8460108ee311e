from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from scheduling import plan_of

from otel_exec.errors import PlanError, UsageError
from otel_exec.schedule.select import Earlier, Selection, select

if TYPE_CHECKING:
    from otel_exec.plan.graph import Plan, Step


class Outputs:
    """What earlier runs left: `{step: status}` or an `Earlier`. Counts who was looked up."""

    def __init__(self, **there: str | Earlier) -> None:
        self.there = {name: Earlier(status=one) if isinstance(one, str) else one for name, one in there.items()}
        self.asked: list[str] = []

    def __call__(self, step: Step) -> Earlier:
        assert step.name not in self.asked, "looked up twice"
        assert not step.group
        self.asked.append(step.name)
        return self.there.get(step.name, Earlier())


def actions(plan: Plan, selection: Selection) -> dict[str, str]:
    return {step.name: decision.action for step, decision in zip(plan.steps, selection.decisions, strict=True)}


def reasons(plan: Plan, selection: Selection) -> dict[str, str]:
    return {step.name: decision.reason for step, decision in zip(plan.steps, selection.decisions, strict=True)}


CHAIN = plan_of({"a": "", "b": "a", "c": "b"})


def test_select_first_run() -> None:
    """Where nothing is there everything is run."""
    outputs = Outputs()
    assert actions(CHAIN, select(CHAIN, outputs)) == {"a": "run", "b": "run", "c": "run"}
    assert sorted(outputs.asked) == ["a", "b", "c"]


def test_select_cached_hides_upstreams() -> None:
    """A step that succeeded is taken as it is, and what lies above it is neither looked up nor run."""
    outputs = Outputs(a="", b="", c=Earlier("SUCCESS", exec_id="exec_1"))
    selection = select(CHAIN, outputs)
    assert actions(CHAIN, selection) == {"a": "skip", "b": "skip", "c": "cached"}
    assert [decision.cause for decision in selection.decisions] == ["not_needed", "not_needed", ""]
    assert selection.decisions[2].reason == "succeeded in exec_1"
    assert selection.decisions[2].earlier == Earlier("SUCCESS", exec_id="exec_1")
    assert outputs.asked == ["c"]


def test_select_cached_in_the_middle() -> None:
    """A step below a cached one runs on its output; above it nothing does."""
    assert actions(CHAIN, select(CHAIN, Outputs(b="SUCCESS"))) == {"a": "skip", "b": "cached", "c": "run"}


def test_select_needed_by_another() -> None:
    """An upstream of a cached step is run when something else needs it."""
    plan = plan_of({"a": "", "kept": "a", "fresh": "a"})
    assert actions(plan, select(plan, Outputs(kept="SUCCESS"))) == {"a": "run", "kept": "cached", "fresh": "run"}


def test_select_groups_are_walked() -> None:
    """A group is never cached or looked up: its members are walked."""
    plan = plan_of({"a": "", "b": "a", "all": "b"}, groups=["all"])
    assert actions(plan, select(plan, Outputs(b="SUCCESS"))) == {"a": "skip", "b": "cached", "all": "run"}


def test_select_nonblocking_alone_is_not_run() -> None:
    """A step that is only referred to by a non-blocking edge is not run."""
    plan = plan_of({"train": "", "evaluate": ""}, nonblocking={"evaluate": "train"}, targets=["evaluate"])
    assert actions(plan, select(plan, Outputs())) == {"train": "skip", "evaluate": "run"}


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("", "not run before"),
        ("FAILED", "failed before"),
        ("DEP_FAILED", "an upstream failed before"),
        ("CANCELLED", "cancelled before"),
        ("RUNNING", "interrupted before"),
        ("WAITING", "interrupted before"),
        ("SOMETHING_ELSE", "not run before"),
    ],
)
def test_select_reasons_to_run(status: str, reason: str) -> None:
    """Whatever did not succeed is run again, and the reason says what it had come to."""
    plan = plan_of({"a": ""})
    decision = select(plan, Outputs(a=status)).decisions[0]
    assert (decision.action, decision.reason) == ("run", reason)


def test_select_held_waits() -> None:
    """A step whose lock another run holds is waited for, and its upstreams are needed in case it must run here."""
    selection = select(CHAIN, Outputs(b=Earlier("RUNNING", held_by="host:1"), a="SUCCESS"))
    assert actions(CHAIN, selection) == {"a": "cached", "b": "wait", "c": "run"}
    assert selection.decisions[1].reason == "held by host:1"


# Failed before.


def test_select_failed_not_rerun() -> None:
    """Without rerun a step that failed counts as failed, and what is below it is skipped by name; everything else is run."""
    plan = plan_of({"a": "", "b": "a", "beside": "", "c": "b beside", "all": "c", "kept": "b"}, groups=["all"])
    selection = select(plan, Outputs(b="FAILED", kept="SUCCESS"), rerun_failed=False)
    assert actions(plan, selection) == {"a": "skip", "b": "failed", "beside": "run", "c": "skip", "all": "skip", "kept": "cached"}
    assert (selection.decisions[3].cause, selection.decisions[3].reason) == ("upstream_failed", "b failed previously")
    assert selection.decisions[0].cause == "not_needed"


def test_select_dep_failed_is_not_failed() -> None:
    """Without rerun a step that was only skipped for its upstream is run once the upstream is there."""
    plan = plan_of({"a": "", "b": "a"})
    assert actions(plan, select(plan, Outputs(a="SUCCESS", b="DEP_FAILED"), rerun_failed=False)) == {"a": "cached", "b": "run"}


def test_select_force_beats_failed() -> None:
    """A forced step is run again though failed ones are not."""
    plan = plan_of({"a": ""})
    assert actions(plan, select(plan, Outputs(a="FAILED"), force=["a"], rerun_failed=False)) == {"a": "run"}


# Run only, force.


def test_select_run_only_with_dependencies() -> None:
    """`run_only` runs what its regexes find with all that it depends on, and nothing else."""
    plan = plan_of({"a": "", "b": "a", "c": "b", "d": "b"})
    selection = select(plan, Outputs(), run_only=["^c$"])
    assert actions(plan, selection) == {"a": "run", "b": "run", "c": "run", "d": "skip"}
    assert selection.decisions[3].cause == "not_selected"


def test_select_run_only_cached_dependency() -> None:
    """Among the dependencies of what was asked for, cached ones stay, and those above are not needed rather than not selected."""
    selection = select(CHAIN, Outputs(b="SUCCESS"), run_only=["c"])
    assert [(decision.action, decision.cause) for decision in selection.decisions] == [("skip", "not_needed"), ("cached", ""), ("run", "")]


def test_select_regexes_search() -> None:
    """Regexes are searched for anywhere in a name."""
    plan = plan_of({"model/train/small": "", "model/train/large": "", "data": ""})
    assert actions(plan, select(plan, Outputs(), run_only=["train", "dat.$"])) == {"model/train/small": "run", "model/train/large": "run", "data": "run"}
    assert actions(plan, select(plan, Outputs(), run_only=["train/s"]))["model/train/large"] == "skip"


def test_select_force_runs_again() -> None:
    """A forced step is run though it succeeded; what it depends on is looked up, what depends on it stays as it is."""
    outputs = Outputs(a="SUCCESS", b="SUCCESS", c="SUCCESS")
    selection = select(CHAIN, outputs, force=["b"])
    assert actions(CHAIN, selection) == {"a": "cached", "b": "run", "c": "cached"}
    assert [decision.forced for decision in selection.decisions] == [False, True, False]
    assert selection.decisions[1].reason == "forced"


def test_select_force_runs_missing_upstreams() -> None:
    """A forced step has its upstreams run where their output is missing."""
    assert actions(CHAIN, select(CHAIN, Outputs(b="SUCCESS", c="SUCCESS"), force=["b"])) == {"a": "run", "b": "run", "c": "cached"}


def test_select_force_group_means_members() -> None:
    """Forcing a group forces what it called, groups of groups too."""
    plan = plan_of({"a": "", "b": "a", "inner": "b", "outer": "inner"}, groups=["inner", "outer"])
    assert actions(plan, select(plan, Outputs(a="SUCCESS", b="SUCCESS"), force=["outer"])) == {"a": "cached", "b": "run", "inner": "run", "outer": "run"}


def test_select_force_within_run_only() -> None:
    """A forced step that is neither asked for nor above what is stays out."""
    plan = plan_of({"a": "", "b": "a", "c": ""})
    assert actions(plan, select(plan, Outputs(a="SUCCESS", b="SUCCESS", c="SUCCESS"), run_only=["b"], force=["a", "c"])) == {
        "a": "run",
        "b": "cached",
        "c": "skip",
    }


def test_select_force_unreferenced() -> None:
    """A step that nothing asked for is not run by force alone."""
    plan = plan_of({"train": "", "evaluate": ""}, nonblocking={"evaluate": "train"}, targets=["evaluate"])
    assert actions(plan, select(plan, Outputs(), force=["train"]))["train"] == "skip"


@pytest.mark.parametrize("flag", ["run_only", "force"])
def test_select_bad_regex(flag: str) -> None:
    """A regex that does not compile is a usage error that names flag and regex."""
    with pytest.raises(UsageError, match=r"--[a-z-]+ '\(' is not a regular expression"):
        select(CHAIN, Outputs(), **{flag: ["("]})


def test_select_regex_without_match() -> None:
    """A regex that finds no step is a usage error that names the closest step and lists no more than a screenful of a large plan."""
    plan = plan_of({f"tokenize/{index}": "" for index in range(500)})
    with pytest.raises(UsageError, match=r"--force.*tokenise.*did you mean 'tokenize/") as caught:
        select(plan, Outputs(), force=["tokenise/"])
    assert len(str(caught.value)) < 1000
    with pytest.raises(UsageError, match="known: a, b, c"):
        select(CHAIN, Outputs(), run_only=["x"])


# Versions.


def test_select_other_version_under_hash() -> None:
    """Another version in a hashed path is a mistake, whatever it came to; all of them are told together."""
    plan = plan_of({"a": "", "b": ""})
    other = {"name": "a", "config": {"lr": 1}, "dependencies": []}
    with pytest.raises(PlanError) as caught:
        select(plan, Outputs(a=Earlier("SUCCESS", version=other), b=Earlier("FAILED", version=other)))
    assert [(mistake.step, mistake.where) for mistake in caught.value.mistakes] == [("a", "exp.py:1"), ("b", "exp.py:2")]
    assert "config.lr" in caught.value.mistakes[0].message
    assert "config.lr, name" in caught.value.mistakes[1].message


def test_select_other_version_under_override() -> None:
    """Another version in an overridden path is reused, with a warning that names the keys that differ."""
    plan = plan_of({"a": ""}, overridden=["a"])
    other = {"name": "a", "config": {"lr": 1, "same": 2}, "dependencies": [], "pseudo_dependencies": []}
    plan = replace(plan, steps=(replace(plan.steps[0], recorded_version={"name": "a", "config": {"same": 2, "n": 3}, "dependencies": []}),))
    selection = select(plan, Outputs(a=Earlier("SUCCESS", version=other)))
    assert selection.decisions[0].action == "cached"
    assert [warning.code for warning in selection.warnings] == ["output_of_another_version"]
    assert "config.lr, config.n, pseudo_dependencies differ" in selection.warnings[0].message


def test_select_other_version_run_again() -> None:
    """Another version in an overridden path whose step is run again is overwritten without a word."""
    plan = plan_of({"a": ""}, overridden=["a"])
    assert select(plan, Outputs(a=Earlier("FAILED", version={"name": "b"}))).warnings == ()


def test_select_same_version() -> None:
    """A version that differs only in how JSON holds it, or is unknown, is the same."""
    plan = plan_of({"a": "", "b": "", "c": ""})
    version = {"name": "a", "config": {"sizes": (1, 2)}, "dependencies": ()}
    plan = replace(plan, steps=(replace(plan.steps[0], recorded_version=version), *plan.steps[1:]))
    there = {"name": "a", "config": {"sizes": [1, 2]}, "dependencies": []}
    selection = select(plan, Outputs(a=Earlier("SUCCESS", version=there), b=Earlier("SUCCESS", version=None), c=Earlier("SUCCESS", version="old")))
    assert {decision.action for decision in selection.decisions} == {"cached"}
    assert selection.warnings == ()


def test_select_deep_plan() -> None:
    """A chain of 5,000 steps is decided without recursion."""
    names = [f"s{index}" for index in range(5000)]
    plan = plan_of({name: names[index - 1] if index else "" for index, name in enumerate(names)})
    assert set(actions(plan, select(plan, Outputs(s0="SUCCESS"))).values()) == {"cached", "run"}
