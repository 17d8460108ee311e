"""Plans in a line and runs step by step, for tests of the scheduler.

`plan_of({"a": "", "b": "a"})` is a plan; `Scenario(plan)` drives its `RunState` by the steps' names, every invariant checked after every event,
and keeps what was instructed. Time goes on by a millisecond an event unless a test says otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from otel_exec.plan.graph import Plan, Resources, Step
from otel_exec.schedule.capacity import Capacity
from otel_exec.schedule.events import (
    AttemptClaimed,
    AttemptEnded,
    AttemptRecalled,
    AttemptRefused,
    CancelRequested,
    GatesEnded,
    RunBegan,
    StepFoundCached,
    TimerFired,
)
from otel_exec.schedule.instructions import EndRun, SetTimer, SettleStep, StartStep, Submit
from otel_exec.schedule.retries import RetryPolicy
from otel_exec.schedule.select import Decision
from otel_exec.schedule.state import RunState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from otel_exec.schedule.events import Event
    from otel_exec.schedule.instructions import Instruction

_T = TypeVar("_T")
MS = 1_000_000
S = 1_000_000_000


def plan_of(
    edges: Mapping[str, str],
    *,
    groups: Sequence[str] = (),
    nonblocking: Mapping[str, str] | None = None,
    resources: Mapping[str, Resources] | None = None,
    retries: Mapping[str, int] | None = None,
    targets: Sequence[str] | None = None,
    overridden: Sequence[str] = (),
    template: str | None = None,
) -> Plan:
    """Return a plan of `{step: "its upstreams, by blanks"}`, upstreams first. Without `targets` the steps that nothing depends on are asked for; `template` is that of all of them."""
    names = list(edges)
    at = {name: index for index, name in enumerate(names)}
    level_of: dict[str, int] = {}
    steps = []
    for name, above in edges.items():
        upstreams = above.split()
        level_of[name] = max((level_of[upstream] for upstream in upstreams), default=0) + (name not in groups)
        group = name in groups
        steps.append(
            Step(
                index=at[name],
                node_id=f"{name}-000000",
                name=name,
                template=template or name,
                fn=None if group else print,
                fn_name="" if group else "print",
                config=None,
                call_style="config",
                recorded_config=None,
                recorded_version={"name": name, "config": {}, "dependencies": []},
                output_path=None if group else f"/outputs/{name}-000000",
                depends_on=tuple(at[upstream] for upstream in upstreams),
                pseudo_depends_on=tuple(at[upstream] for upstream in (nonblocking or {}).get(name, "").split()),
                level=None if group else level_of[name],
                override_output_path=f"/elsewhere/{name}" if name in overridden else None,
                resources=(resources or {}).get(name, Resources()),
                retries=(retries or {}).get(name, 0),
                where=f"exp.py:{at[name] + 1}",
                members=tuple(at[upstream] for upstream in upstreams) if group else (),
            )
        )
    below = {upstream for step in steps for upstream in step.depends_on}
    asked = tuple(at[name] for name in targets) if targets is not None else tuple(index for index in range(len(steps)) if index not in below)
    return Plan(tuple(steps), asked, "/outputs", max(level_of.values(), default=0))


class Scenario:
    """A run that a test drives. `log` holds every instruction so far; the methods return what their event led to."""

    def __init__(
        self,
        plan: Plan,
        *,
        decisions: Mapping[str, Decision | str] | None = None,
        capacity: Capacity | None = None,
        retries: RetryPolicy | None = None,
        barrier: bool = False,
        gates: bool = False,
        fail_fast: bool = False,
    ) -> None:
        self.plan = plan
        self.at = {step.name: step.index for step in plan.steps}
        given = {
            name: Decision(one, one, cause="not_needed" if one == "skip" else "") if isinstance(one, str) else one for name, one in (decisions or {}).items()
        }
        self.state = RunState(
            plan,
            [given.get(step.name, Decision("run", "not run before")) for step in plan.steps],
            capacity=capacity or Capacity(workers=100),
            retries=retries or RetryPolicy(jitter=lambda: 0.0),
            barrier=barrier,
            gates=gates,
            fail_fast=fail_fast,
            validate=True,
        )
        self.now = 0
        self.log: list[Instruction] = []
        self.attempt: dict[str, int] = {}

    def handle(self, event: Event) -> list[Instruction]:
        self.now = max(self.now, event.at_ns)
        out = self.state.handle(event)
        self.log += out
        for instruction in out:
            if isinstance(instruction, Submit):
                self.attempt[self.plan.steps[instruction.index].name] = instruction.attempt
        return out

    def _at(self, at_ns: int | None) -> int:
        return self.now + MS if at_ns is None else at_ns

    def begin(self, at_ns: int = MS) -> list[Instruction]:
        return self.handle(RunBegan(at_ns))

    def claim(self, name: str, at_ns: int | None = None) -> list[Instruction]:
        return self.handle(AttemptClaimed(self._at(at_ns), self.at[name], self.attempt[name], "0"))

    def end(self, name: str, outcome: str = "success", at_ns: int | None = None, *, blameless: bool = False, lock_lost: bool = False) -> list[Instruction]:
        return self.handle(AttemptEnded(self._at(at_ns), self.at[name], self.attempt[name], outcome, blameless, lock_lost))

    def run(self, *names: str) -> list[Instruction]:
        """Claim and end each with success."""
        for name in names:
            self.claim(name)
            out = self.end(name)
        return out

    def refuse(self, name: str) -> list[Instruction]:
        return self.handle(AttemptRefused(self._at(None), self.at[name], self.attempt[name], "another:1"))

    def find_cached(self, name: str) -> list[Instruction]:
        return self.handle(StepFoundCached(self._at(None), self.at[name], self.attempt[name]))

    def recall(self, name: str) -> list[Instruction]:
        return self.handle(AttemptRecalled(self._at(None), self.at[name], self.attempt[name]))

    def fire(self, name: str, at_ns: int | None = None) -> list[Instruction]:
        """Fire the step's last timer, when it is due unless said otherwise."""
        due = [timer.at_ns for timer in self.of(SetTimer) if timer.index == self.at[name]][-1]
        return self.handle(TimerFired(due if at_ns is None else at_ns, self.at[name]))

    def end_gates(self, level: int, *, passed: bool = True, at_ns: int | None = None) -> list[Instruction]:
        return self.handle(GatesEnded(self._at(at_ns), level, passed))

    def cancel(self, reason: str = "interrupt") -> list[Instruction]:
        return self.handle(CancelRequested(self._at(None), reason))

    def of(self, kind: type[_T]) -> list[_T]:
        return [instruction for instruction in self.log if isinstance(instruction, kind)]

    def name(self, index: int) -> str:
        return self.plan.steps[index].name

    @property
    def submitted(self) -> list[str]:
        """The names of all steps submitted so far, in order, once for each attempt handed over."""
        return [self.name(instruction.index) for instruction in self.of(Submit)]

    @property
    def created(self) -> dict[str, int]:
        return {self.name(instruction.index): instruction.at_ns for instruction in self.of(StartStep)}

    @property
    def settled(self) -> dict[str, SettleStep]:
        return {self.name(instruction.index): instruction for instruction in self.of(SettleStep)}

    @property
    def outcome(self) -> str | None:
        ends = self.of(EndRun)
        assert len(ends) <= 1
        return ends[0].outcome if ends else None


def names_of(scenario: Scenario, out: Sequence[Instruction], kind: type[Submit | SettleStep | StartStep]) -> list[str]:
    """Return the names of the steps that one kind of instruction in `out` is about."""
    return [scenario.name(instruction.index) for instruction in out if isinstance(instruction, kind)]


def with_retries(plan: Plan, retries: int) -> Plan:
    """Return the plan with `retries` for every step."""
    return replace(plan, steps=tuple(replace(step, retries=retries) for step in plan.steps))
