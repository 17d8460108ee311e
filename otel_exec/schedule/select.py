"""Which steps of a plan will be run, which are taken as they are, and why.

What comes in: a plan and a way to look a step's earlier status up. What goes out: one `Decision` a step, and warnings. Pure but for the lookup it is given.

The walk goes upstream from the steps that were asked for (the plan's targets, or those that `--run-only` names) and stops at each step whose output is there: what lies
above it is not even looked up. Groups have no output, so their members are always walked. Forced steps are walked from as well, wherever they lie.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from otel_exec.errors import Mistake, PlanError, UsageError, unknown_name
from otel_exec.plan.graph import PlanWarning
from otel_exec.semconv import StatusWord

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from otel_exec.plan.graph import Plan, Step

__all__ = ["Decision", "Earlier", "Lookup", "Selection", "select", "will_run"]

_NAMES_LISTED: Final = 20
"""A mistyped regex lists so many step names at most, the closest ones."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an earlier run left of a step. `status` is the last event's word, "" where there is none; `held_by` names a live lock's holder.

    `version` is that of `.executor_info` there, `None` where unknown. The times are those of `cached_from`, `None` where unknown.
    `message` is the last event's: the error of a step that failed.
    """

    status: str = ""
    held_by: str = ""
    version: object = None
    exec_id: str | None = None
    trace_id: str | None = None
    step_span_id: str | None = None
    times: dict[str, object] = field(default_factory=dict)
    message: str = ""


class Lookup(Protocol):
    """Reads what an earlier run left of a step. Called at most once a step, only for those that matter, never for a group."""

    def __call__(self, step: Step) -> Earlier:
        """Return what is there of the step."""
        ...


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done with a step. `action` is `run`, `cached`, `skip` (not needed or not selected), `wait` (another run has it; then it is run or cached) or `failed` (failed previously, not to be run again).

    `reason` is a short phrase for the dry run. `earlier` is there where it was looked up.
    `cause` of a `skip`: `not_needed`, `not_selected`, or `upstream_failed` (below one that failed previously). `forced`: it is run though its output may be there.
    """

    action: str
    reason: str
    earlier: Earlier | None = None
    cause: str = ""
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """One decision a step, in the plan's order, and what the user should know about them."""

    decisions: tuple[Decision, ...]
    warnings: tuple[PlanWarning, ...] = ()


def select(
    plan: Plan,
    lookup: Lookup,
    *,
    run_only: Sequence[str] = (),
    force: Sequence[str] = (),
    rerun_failed: bool = True,
) -> Selection:
    """Return one decision a step, in the plan's order.

    Regexes are searched for in step names (`re.search`: `train` finds `model/train/small`; anchor with `^` and `$` for more). One that finds a group means its members.

    Args:
        plan: the steps.
        lookup: reads what is there of a step.
        run_only: only the steps that these find are asked for, with all that they depend on.
        force: the steps that these find are run again though they succeeded, if they are among those asked for or above them.
        rerun_failed: a step that failed before is run again; else it counts as failed, and what depends on it is not run.

    Raises:
        UsageError: a regex does not compile or matches no step.
        PlanError: a hashed output path holds another version.
    """
    chosen = _matching(plan, "--run-only", run_only) if run_only else None
    forced = _with_members(plan, _matching(plan, "--force", force)) if force else frozenset()
    roots = chosen if chosen is not None else frozenset(plan.targets)
    asked_for = _with_upstreams(plan, roots)

    count = len(plan.steps)
    needed = [index in roots or (index in forced and index in asked_for) for index in range(count)]
    decisions: list[Decision | None] = [None] * count
    mistakes: list[Mistake] = []
    warnings: list[PlanWarning] = []
    for step in reversed(plan.steps):  # downstream first: whoever needs a step was decided before it
        index = step.index
        if not needed[index]:
            selected = chosen is None or index in asked_for
            decisions[index] = Decision("skip", "not needed", cause="not_needed") if selected else Decision("skip", "not selected", cause="not_selected")
            continue
        decision = _decide(step, lookup, forced=index in forced, rerun_failed=rerun_failed)
        decisions[index] = decision
        if decision.earlier is not None:
            _compare_versions(step, decision, mistakes, warnings)
        if decision.action in {"run", "wait"}:
            for upstream in step.depends_on:
                needed[upstream] = True
    if mistakes:
        raise PlanError(mistakes[::-1])
    for index in sorted(forced):
        stale = [step.name for step in plan.steps if index in step.depends_on and getattr(decisions[step.index], "action", "") == "cached"]
        if stale:
            message = f"{plan.steps[index].name} is run again, but {', '.join(stale)}, which depends on it, is taken as it was: force it too if it is to follow"
            warnings.append(PlanWarning("cached_below_forced", message))
    decided = [decision for decision in decisions if decision is not None]
    return Selection(_below_failed(plan, decided), tuple(warnings[::-1]))


def _decide(step: Step, lookup: Lookup, *, forced: bool, rerun_failed: bool) -> Decision:
    if step.group:
        return Decision("run", "groups the steps it calls")
    earlier = lookup(step)
    if earlier.held_by:
        return Decision("wait", f"held by {earlier.held_by}", earlier, forced=forced)
    if forced:
        return Decision("run", "forced", earlier, forced=True)
    if earlier.status == StatusWord.SUCCESS:
        return Decision("cached", f"succeeded in {earlier.exec_id}" if earlier.exec_id else "succeeded before", earlier)
    if earlier.status == StatusWord.FAILED and not rerun_failed:
        return Decision("failed", "failed previously", earlier)
    return Decision("run", _REASONS.get(earlier.status, "not run before"), earlier)


_REASONS: Final = {
    StatusWord.FAILED.value: "failed before",
    StatusWord.DEP_FAILED.value: "an upstream failed before",
    StatusWord.CANCELLED.value: "cancelled before",
    StatusWord.RUNNING.value: "interrupted before",
    StatusWord.WAITING.value: "interrupted before",
}


def _below_failed(plan: Plan, decisions: list[Decision]) -> tuple[Decision, ...]:
    """Return the decisions with everything to be run below a step that failed previously turned into a `skip`."""
    first = {index: index for index, decision in enumerate(decisions) if decision.action == "failed"}
    if not first:
        return tuple(decisions)
    for step in plan.steps:
        decision = decisions[step.index]
        if decision.action not in {"run", "wait"}:
            continue
        cause = next((first[upstream] for upstream in step.depends_on if upstream in first), None)
        if cause is not None:
            first[step.index] = cause
            reason = f"{plan.steps[cause].name} failed previously"
            decisions[step.index] = Decision("skip", reason, decision.earlier, cause="upstream_failed", forced=decision.forced)
    return tuple(decisions)


def will_run(plan: Plan, decisions: Sequence[Decision]) -> list[bool]:
    """Return for each step whether it may come to run.

    Raises:
        ValueError: the decisions don't fit the plan: they are not one a step, or run a step without what it depends on.
    """
    if len(decisions) != len(plan.steps):
        raise ValueError(f"{len(decisions)} decisions for {len(plan.steps)} steps")
    for step, decision in zip(plan.steps, decisions, strict=True):
        if decision.action not in {"run", "wait"}:
            continue
        for upstream in step.depends_on:
            above = decisions[upstream]
            if above.action == "skip" and above.cause != "upstream_failed":
                raise ValueError(f"step {step.name!r} is to be run, but {plan.steps[upstream].name!r}, which it depends on, is not: {above.reason}")
    return [decision.action in {"run", "wait"} and not step.group for step, decision in zip(plan.steps, decisions, strict=True)]


# Regexes and the steps that they find.


def _matching(plan: Plan, flag: str, regexes: Iterable[str]) -> frozenset[int]:
    found: set[int] = set()
    for regex in regexes:
        try:
            pattern = re.compile(regex)
        except re.error as error:
            raise UsageError(f"{flag} {regex!r} is not a regular expression: {error}") from None
        matches = [step.index for step in plan.steps if pattern.search(step.name)]
        if not matches:
            names = list({step.name for step in plan.steps})
            close = names if len(names) <= _NAMES_LISTED else difflib.get_close_matches(regex, names, n=_NAMES_LISTED, cutoff=0.0)
            raise UsageError(f"{flag}: no step's name matches; {unknown_name('step', regex, close)}")
        found.update(matches)
    return frozenset(found)


def _with_members(plan: Plan, found: frozenset[int]) -> frozenset[int]:
    """Return the steps found, groups replaced by what they called, groups of groups too."""
    steps: set[int] = set()
    pending = sorted(found)
    seen = set(pending)
    for index in pending:  # grows
        step = plan.steps[index]
        if not step.group:
            steps.add(index)
            continue
        for member in step.members or step.depends_on:
            if member not in seen:
                seen.add(member)
                pending.append(member)
    return frozenset(steps)


def _with_upstreams(plan: Plan, roots: frozenset[int]) -> frozenset[int]:
    """Return the roots and everything above them over blocking edges."""
    above = set(roots)
    for step in reversed(plan.steps):
        if step.index in above:
            above.update(step.depends_on)
    return frozenset(above)


# Versions.


def _compare_versions(step: Step, decision: Decision, mistakes: list[Mistake], warnings: list[PlanWarning]) -> None:
    """Compare what stands in the step's output with what the step is.

    A hash of six digits can be another version's by chance; overwriting or reusing that one's output would both be wrong. A path that the user gave may hold anything.
    """
    there = decision.earlier.version if decision.earlier is not None else None
    if not isinstance(there, Mapping) or there == step.recorded_version:
        return
    here = json.loads(json.dumps(step.recorded_version, default=repr))  # as it would have been written: tuples are lists
    keys = _differing_keys(there, here)
    if not keys:
        return
    differing = ", ".join(keys)
    if step.override_output_path is None:
        mistakes.append(
            Mistake(
                f"its output path {step.output_path} holds another version with the same hash, which differs in {differing}",
                step=step.name,
                where=step.where or None,
                hint="rename the step or give it an override_output_path",
            )
        )
    elif decision.action == "cached":
        message = f"step {step.name!r} reuses {step.output_path}, which holds another version: {differing} differ; --force it to make its own ({step.where})"
        warnings.append(PlanWarning("output_of_another_version", message))


_ABSENT: Final = object()


def _differing_keys(there: Mapping[str, object], here: Mapping[str, object]) -> list[str]:
    """Return the keys in which two versions differ, those of the config one by one (`config.lr`)."""
    keys: list[str] = []
    for key in sorted({*there, *here}):
        old, new = there.get(key, _ABSENT), here.get(key, _ABSENT)
        if old == new:
            continue
        if key == "config" and isinstance(old, Mapping) and isinstance(new, Mapping):
            keys.extend(f"config.{name}" for name in sorted({*old, *new}) if old.get(name, _ABSENT) != new.get(name, _ABSENT))
        else:
            keys.append(key)
    return keys
