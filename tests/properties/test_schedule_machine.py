from __future__ import annotations

import random
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scheduling import MS, S, Scenario, plan_of

from otel_exec.plan.graph import Resources
from otel_exec.schedule.capacity import Capacity
from otel_exec.schedule.instructions import CloseLevel, EndRun, InterruptRunning, OpenLevel, RecallAll, RunGates, SetTimer, SettleStep, StartStep, Submit
from otel_exec.schedule.retries import BLAMELESS_TRIES, RetryPolicy
from otel_exec.schedule.select import Earlier, select

if TYPE_CHECKING:
    from otel_exec.plan.graph import Plan
    from otel_exec.schedule.instructions import Instruction

RESOURCES = st.sampled_from(
    [
        *[Resources()] * 4,
        Resources(num_cpus=1),
        Resources(num_cpus=2),
        Resources(num_cpus=9),
        Resources(num_cpus=0),
        Resources(num_gpus=1),
        Resources(num_gpus=2, num_cpus=2),
        Resources(memory_bytes=70),
        Resources(custom={"licence": 1}),
    ]
)
OUTCOMES = st.sampled_from(["success", "success", "success", "failure", "timeout", "error", "cancellation"])


@st.composite
def plans(draw: st.DrawFn, most: int = 12) -> Plan:
    """Any graph, groups and groups of groups among its steps; what a group has not called never depends on nothing."""
    count = draw(st.integers(1, most))
    edges: dict[str, str] = {}
    groups = []
    for index in range(count):
        above = draw(st.sets(st.integers(0, index - 1), max_size=4)) if index else set()
        edges[f"s{index}"] = " ".join(f"s{upstream}" for upstream in sorted(above))
        if above and draw(st.integers(0, 3)) == 0:
            groups.append(f"s{index}")
    resources = {name: draw(RESOURCES) for name in edges}
    retries = {name: draw(st.integers(0, 2)) for name in edges}
    targets = draw(st.sets(st.sampled_from(sorted(edges)), min_size=1))
    return plan_of(edges, groups=groups, resources=resources, retries=retries, targets=sorted(targets) if draw(st.booleans()) else None)


class ScheduleMachine(RuleBasedStateMachine):
    """Any graph under anything that can happen to it, in any order.

    The machine is the runner and the executor: it obeys instructions, and its rules are what the world may do next. `RunState.check` holds after each event;
    what is checked here is what can be seen from outside.
    """

    @initialize(
        plan=plans(),
        data=st.data(),
        workers=st.integers(1, 3),
        prefetch=st.integers(0, 2),
        max_concurrent=st.none() | st.integers(1, 3),
        mode=st.sampled_from(["", "barrier", "gates"]),
        fail_fast=st.booleans(),
    )
    def begin(self, plan: Plan, data: st.DataObject, workers: int, prefetch: int, max_concurrent: int | None, mode: str, *, fail_fast: bool) -> None:
        statuses = data.draw(st.lists(st.sampled_from(["", "", "", "SUCCESS", "FAILED"]), min_size=len(plan.steps), max_size=len(plan.steps)), "statuses")
        selection = select(plan, lambda step: Earlier(status=statuses[step.index]), rerun_failed=data.draw(st.booleans(), "rerun_failed"))
        self.plan = plan
        self.capacity = Capacity(workers, prefetch, max_concurrent, cpus=3, gpus=2, memory_bytes=100, custom={"licence": 1})
        self.scenario = Scenario(
            plan,
            decisions={step.name: decision for step, decision in zip(plan.steps, selection.decisions, strict=True)},
            capacity=self.capacity,
            retries=RetryPolicy(jitter=lambda: 0.5),
            barrier=mode == "barrier",
            gates=mode == "gates",
            fail_fast=fail_fast,
        )
        self.decisions = selection.decisions
        self.mode = mode
        self.fail_fast = fail_fast
        self.cancelled = False
        self.ended: EndRun | None = None
        self.settled: dict[int, SettleStep] = {}
        self.created: dict[int, int] = {}
        self.submitted: dict[int, int] = {}
        self.running: dict[int, int] = {}
        self.timers: dict[int, int] = {}
        self.attempts: dict[int, int] = {}
        self.open_levels: dict[int, int] = {}
        self.closed_levels: dict[int, tuple[int, int]] = {}
        self.gates: int | None = None
        self.obey(self.scenario.begin(at_ns=S))

    # The runner: obeys, and sees to it that what it is told makes sense.

    def obey(self, out: list[Instruction]) -> None:
        for instruction in out:
            assert self.ended is None, "nothing follows the end of the run"
            match instruction:
                case StartStep(index, at_ns):
                    self.start(index, at_ns)
                case Submit():
                    self.submit(instruction)
                case SettleStep():
                    self.settle(instruction)
                case SetTimer(index, at_ns, _):
                    assert at_ns > self.scenario.now
                    assert not self.cancelled
                    self.timers[index] = at_ns
                case OpenLevel(level, at_ns):
                    assert level not in self.open_levels
                    assert level not in self.closed_levels
                    self.open_levels[level] = at_ns
                case CloseLevel(level, at_ns, start_ns):
                    assert start_ns <= self.open_levels.pop(level) <= at_ns
                    self.closed_levels[level] = (start_ns, at_ns)
                    self.close(level, start_ns, at_ns)
                case RunGates(level):
                    assert self.mode == "gates"
                    assert level in self.closed_levels
                    assert level < self.plan.levels
                    self.gates = level
                case RecallAll() | InterruptRunning():
                    self.cancelled = True
                case EndRun():
                    self.ended = instruction

    def start(self, index: int, at_ns: int) -> None:
        step = self.plan.steps[index]
        assert index not in self.created, "a step is created once"
        assert index not in self.settled
        assert not self.cancelled, "nothing is created after a cancellation"
        self.created[index] = at_ns
        if step.group:
            return
        for upstream in step.depends_on:
            assert self.settled[upstream].outcome == "success", "a step is created after its upstreams succeeded"
            assert self.settled[upstream].at_ns <= at_ns
        if self.mode:
            for other in self.plan.steps:
                if other.level is not None and step.level is not None and other.level < step.level:
                    assert self.settled[other.index].at_ns < at_ns, "the barrier holds until the level before has settled"
        else:
            assert at_ns == max([self.settled[upstream].at_ns for upstream in step.depends_on], default=S)

    def submit(self, submit: Submit) -> None:
        index = submit.index
        step = self.plan.steps[index]
        assert index in self.created
        assert index not in {**self.submitted, **self.running, **self.settled, **self.timers}
        assert not step.group
        assert not self.cancelled, "nothing is handed over after a cancellation"
        assert submit.attempt == self.attempts.get(index, 0) + 1
        self.submitted[index] = submit.attempt
        self.within_capacity()

    def settle(self, settle: SettleStep) -> None:
        index = settle.index
        assert index not in self.settled, "a step settles exactly once"
        assert settle.attempts == self.attempts.get(index, 0)
        assert index not in self.submitted
        assert index not in self.running
        self.settled[index] = settle
        self.timers.pop(index, None)
        step = self.plan.steps[index]
        if step.group and settle.cause not in {"not_needed", "not_selected"}:
            members = [self.settled[member] for member in step.depends_on]
            assert (settle.outcome == "success") == all(member.outcome == "success" for member in members)
            assert settle.outcome in {"success", "skip", "cancellation"}
            assert settle.at_ns == max(member.at_ns for member in members)
        if settle.cause == "upstream_failed":
            assert settle.by is not None
            assert self.settled[settle.by].outcome in {"failure", "timeout", "error", "cancellation"}

    def close(self, level: int, start_ns: int, at_ns: int) -> None:
        members = [step.index for step in self.plan.steps if step.level == level]
        assert all(index in self.settled for index in members), "a level closes after its last step"
        for index in members:
            if index in self.created:
                assert start_ns <= self.created[index] <= self.settled[index].at_ns <= at_ns, "a step lies within its level"
        if self.mode and level > 1:
            assert start_ns >= self.closed_levels[level - 1][1] + 1000, "levels that wait for one another don't touch"

    def within_capacity(self) -> None:
        in_hand = [self.plan.steps[index].resources for index in {**self.submitted, **self.running}]
        plain = all(one.plain for one in in_hand)
        assert len(in_hand) <= self.capacity.workers + (self.capacity.prefetch if plain else 0)
        assert len(in_hand) <= (self.capacity.max_concurrent or 99)
        assert sum(one.num_gpus or 0 for one in in_hand) <= 2
        assert sum(one.memory_bytes or 0 for one in in_hand) <= 100
        assert sum(one.custom.get("licence", 0) for one in in_hand) <= 1
        if any(one.num_cpus is not None for one in in_hand):
            assert sum(1 if one.num_cpus is None else one.num_cpus for one in in_hand) <= 3 or len(in_hand) == 1

    # The world: what can happen next.

    def name(self, index: int) -> str:
        return self.plan.steps[index].name

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.submitted)), "step")
        self.running[index] = self.submitted.pop(index)
        out = self.scenario.claim(self.name(index))
        assert out == ([InterruptRunning()] if self.cancelled else [])

    @precondition(lambda self: self.submitted or self.running)
    @rule(data=st.data(), outcome=OUTCOMES, blameless=st.booleans())
    def end(self, data: st.DataObject, outcome: str, *, blameless: bool) -> None:
        index = data.draw(st.sampled_from(sorted({**self.submitted, **self.running})), "step")
        # Reports come in another order than attempts ended in.
        created_ns = next(submit.created_ns for submit in reversed(self.scenario.of(Submit)) if submit.index == index)
        at_ns = max(created_ns, self.scenario.now + data.draw(st.integers(-3, 5), "ms") * MS)
        self.submitted.pop(index, None)
        self.running.pop(index, None)
        self.attempts[index] = self.attempts.get(index, 0) + 1
        was_cancelled = self.cancelled
        # The timer is set from the instant of the end, which may lie a little before the last event.
        before, self.scenario.now = self.scenario.now, min(self.scenario.now, at_ns)
        out = self.scenario.end(self.name(index), outcome, at_ns, blameless=blameless)
        self.obey(out)
        self.scenario.now = max(before, self.scenario.now)
        tried_again = index in self.timers
        if outcome in {"success", "cancellation"} or was_cancelled:
            assert not tried_again
        assert self.attempts[index] <= 1 + self.plan.steps[index].retries + BLAMELESS_TRIES
        if not tried_again:
            assert self.settled[index].outcome == outcome
            if self.fail_fast and outcome in {"failure", "timeout", "error"} and not was_cancelled:
                self.cancelled = True

    @precondition(lambda self: self.submitted)
    @rule(data=st.data(), what=st.sampled_from(["refuse", "find_cached", "recall"]))
    def turn_back(self, data: st.DataObject, what: str) -> None:
        index = data.draw(st.sampled_from(sorted(self.submitted)), "step")
        del self.submitted[index]
        self.obey(getattr(self.scenario, what)(self.name(index)))

    @precondition(lambda self: self.timers)
    @rule(data=st.data())
    def fire(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.timers)), "step")
        self.obey(self.scenario.fire(self.name(index), at_ns=self.timers.pop(index)))

    @precondition(lambda self: self.gates is not None)
    @rule(passed=st.booleans())
    def end_gates(self, *, passed: bool) -> None:
        level, self.gates = self.gates, None
        assert level is not None
        self.obey(self.scenario.end_gates(level, passed=passed))

    @precondition(lambda self: self.ended is None and not self.cancelled)
    @rule(reason=st.sampled_from(["interrupt", "terminate", "timeout"]), now=st.integers(0, 5))
    def cancel(self, reason: str, now: int) -> None:
        if now:  # rarely, so that most runs get somewhere
            return
        out = self.scenario.cancel(reason)
        self.cancelled = True
        self.obey(out)

    @precondition(lambda self: self.ended is not None)
    @rule()
    def cancel_too_late(self) -> None:
        assert self.scenario.cancel() == []

    @invariant()
    def something_is_under_way(self) -> None:
        """A run either has ended or waits for something that will happen: it never starves."""
        if hasattr(self, "plan"):
            assert (self.ended is not None) != bool(self.submitted or self.running or self.timers or self.gates is not None)

    def teardown(self) -> None:
        """Let the world go on without surprises: the run ends, with every step settled once and every level closed."""
        if not hasattr(self, "plan"):
            return
        chance = random.Random(len(self.settled))
        while self.ended is None:
            if self.gates is not None:
                level, self.gates = self.gates, None
                self.obey(self.scenario.end_gates(level))
            elif self.timers:
                index = min(self.timers)
                self.obey(self.scenario.fire(self.name(index), at_ns=self.timers.pop(index)))
            else:
                index = chance.choice(sorted({**self.submitted, **self.running}))
                self.submitted.pop(index, None)
                self.running.pop(index, None)
                self.attempts[index] = self.attempts.get(index, 0) + 1
                self.obey(self.scenario.end(self.name(index)))
        assert sorted(self.settled) == list(range(len(self.plan.steps)))
        assert sorted(self.closed_levels) == list(range(1, self.plan.levels + 1))
        assert not self.open_levels
        assert self.ended.at_ns >= max(settle.at_ns for settle in self.settled.values())
        outcomes = {settle.outcome for settle in self.settled.values()}
        if self.ended.outcome == "success":
            assert outcomes <= {"success", "skip"}
            assert {settle.cause for settle in self.settled.values()} <= {"", "cached", "not_needed", "not_selected"}
        event(f"run {self.ended.outcome}")


ScheduleMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
TestScheduleMachine = ScheduleMachine.TestCase
