"""The scheduler's decisions as a pure function: events in, instructions out.

What comes in: the plan, what `select` decided, and one `Event` at a time, each with its instant. What goes out: the `Instruction`s that follow from it, in the order
to be obeyed. Never reads a clock, starts a thread, touches a file or rolls dice of its own: the same events give the same instructions.
(The model is `worker_state_machine` of dask/distributed.)

Every step takes one way through the table in `transitions.py`. How failure, retries, locks and cancellation lead along it is told here; what may run at once is
`capacity.py`'s, which of the ready steps comes first `ready.py`'s, levels and the barrier `levels.py`'s, and what must hold at all times `invariants.py`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from otel_exec.errors import ImpossibleTransition, PlanError
from otel_exec.schedule.capacity import impossible
from otel_exec.schedule.events import (
    AttemptClaimed,
    AttemptEnded,
    AttemptRecalled,
    AttemptRefused,
    CancelRequested,
    Event,
    GatesEnded,
    RunBegan,
    StepFoundCached,
    TimerFired,
)
from otel_exec.schedule.instructions import EndRun, Instruction, InterruptRunning, RecallAll, SetTimer, SettleStep, StartStep
from otel_exec.schedule.invariants import check
from otel_exec.schedule.levels import Levels
from otel_exec.schedule.ready import ReadySteps
from otel_exec.schedule.retries import Attempts
from otel_exec.schedule.select import will_run
from otel_exec.schedule.transitions import BACKOFF, LOCK_WAIT, OPEN, READY, RUNNING, SETTLED, SUBMITTED, WAITING, Ledger
from otel_exec.semconv import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_exec.plan.graph import Plan
    from otel_exec.schedule.capacity import Capacity
    from otel_exec.schedule.retries import RetryPolicy
    from otel_exec.schedule.select import Decision

__all__ = ["RunState"]

SUCCESS: Final = Outcome.SUCCESS.value
FAILURE: Final = Outcome.FAILURE.value
TIMEOUT: Final = Outcome.TIMEOUT.value
ERROR: Final = Outcome.ERROR.value
CANCELLATION: Final = Outcome.CANCELLATION.value
SKIP: Final = Outcome.SKIP.value

_FAILED: Final = frozenset({FAILURE, TIMEOUT, ERROR})
_OF_ATTEMPTS: Final = frozenset({SUCCESS, CANCELLATION, *_FAILED})
_RUN_OUTCOME_OF_REASON: Final = {"interrupt": CANCELLATION, "terminate": CANCELLATION, "timeout": TIMEOUT}


class RunState:
    """One run: where each step stands, and what follows from what happens.

    Called by one thread. After an `ImpossibleTransition` the run can't go on.

    Args:
        plan: the steps.
        decisions: one a step, from `select`: what is run, what is taken as it is.
        capacity: what may run at once.
        retries: how often and how soon a step is tried again.
        barrier: a level starts when all of the one before has settled.
        gates: gates run between each two levels; implies the barrier.
        fail_fast: the first failure cancels the rest.
        validate: check every invariant after every event, which costs O(steps) each time; for tests.

    Raises:
        PlanError: a step asks for more than there is in all, so that it would never run.
        ValueError: the decisions don't fit the plan.
    """

    def __init__(
        self,
        plan: Plan,
        decisions: Sequence[Decision],
        *,
        capacity: Capacity,
        retries: RetryPolicy,
        barrier: bool = False,
        gates: bool = False,
        fail_fast: bool = False,
        validate: bool = False,
    ) -> None:
        taking_part = will_run(plan, decisions)
        if mistakes := impossible(plan, decisions, capacity):
            raise PlanError(mistakes)
        count = len(plan.steps)
        self.plan = plan
        self.decisions = tuple(decisions)
        self.barrier = barrier or gates
        self.capacity = capacity
        self.ledger = Ledger(plan)
        self.ready = ReadySteps(plan, taking_part, capacity)
        self.levels = Levels(plan, barrier=self.barrier, gates=gates)
        self.outcomes: list[str] = [""] * count
        self.ended = False
        self.unsettled = count
        self.waits_for = [len(step.depends_on) for step in plan.steps]
        self.attempts = Attempts(plan, retries)
        self._fail_fast = fail_fast
        self._validate = validate
        self._below = plan.downstream()
        self._groups_of: dict[int, list[int]] = {}
        for step in plan.steps:
            if step.group:
                for member in dict.fromkeys(step.members or step.depends_on):
                    self._groups_of.setdefault(member, []).append(step.index)
        self._states = self.ledger.states
        self.began = False
        self._began_ns = 0
        self._now_ns = 0
        self._last_ns = 0
        self._settled_ns = [0] * count
        self._causes = [""] * count
        # Of what could not run any more, the first step that kept it from running.
        self._blames: dict[int, int] = {}
        # Steps whose last upstream settled while the present event is being handled.
        self._ripe: list[int] = []
        self._cancelled_as: str | None = None
        self._stop_what_runs = False
        self._any_failed = False
        self._any_cancelled = False

    def handle(self, event: Event) -> list[Instruction]:
        """Return what follows from an event, in the order to be obeyed.

        Raises:
            ImpossibleTransition: the event can't have happened; the error tells the step's story.
        """
        out: list[Instruction] = []
        self._now_ns = max(self._now_ns, event.at_ns)
        match event:
            case AttemptEnded():
                self._attempt_ended(event, out)
            case AttemptClaimed():
                self._attempt_claimed(event, out)
            case AttemptRefused():
                self._attempt_refused(event, out)
            case StepFoundCached():
                self._found_cached(event, out)
            case AttemptRecalled():
                self._attempt_recalled(event, out)
            case TimerFired():
                self._timer_fired(event)
            case GatesEnded():
                self._gates_ended(event, out)
            case CancelRequested():
                self._cancel_requested(event, out)
            case RunBegan():
                self._run_began(event, out)
            case _:
                assert_never(event)
        if self.began:
            self._go_on(event.at_ns, out)
        if self._validate:
            self.check()
        return out

    def check(self) -> None:
        """Raise an AssertionError that names the invariant if one does not hold."""
        check(self)

    def story(self, index: int) -> tuple[tuple[int, str, str, str], ...]:
        """Return what happened to a step, oldest first: (at_ns, what happened, from, to)."""
        return self.ledger.story(index)

    @property
    def cancelled(self) -> bool:
        """Whether nothing new starts any more."""
        return self._cancelled_as is not None

    # What happens to the run.

    def _run_began(self, event: RunBegan, out: list[Instruction]) -> None:
        if self.began:
            raise ImpossibleTransition(None, "running", "RunBegan")
        self.began = True
        self._began_ns = event.at_ns
        failed = []
        for index, decision in enumerate(self.decisions):
            if decision.action == "cached":
                self._settle(index, "decided", event.at_ns, SUCCESS, out, cause="cached")
            elif decision.action == "failed":
                self._settle(index, "decided", event.at_ns, FAILURE, out, cause="failed_previously")
                failed.append(index)
            elif decision.action == "skip" and decision.cause != "upstream_failed":
                self._settle(index, "decided", event.at_ns, SKIP, out, cause=decision.cause)
        for index in failed:
            self._fail_downstream(index, event.at_ns, out)
        self._ripe = [index for index, count in enumerate(self.waits_for) if not count]
        if self._cancelled_as is not None:
            self._settle_what_has_not_started(out)
        elif failed and self._fail_fast:
            self._cancel(FAILURE, out)

    def _cancel_requested(self, event: CancelRequested, out: list[Instruction]) -> None:
        # The first reason stands: what comes after it finds a run that is already ending.
        if self.ended or self._cancelled_as is not None:
            return
        outcome = _RUN_OUTCOME_OF_REASON[event.reason]
        if not self.began:
            self._cancelled_as = outcome
        else:
            self._cancel(outcome, out)

    def _cancel(self, outcome: str, out: list[Instruction]) -> None:
        self._cancelled_as = outcome
        self._stop_what_runs = True
        self._settle_what_has_not_started(out)

    def _settle_what_has_not_started(self, out: list[Instruction]) -> None:
        self.ready.clear()
        for step in self.plan.steps:
            # A group settles with its members.
            if not step.group and self._states[step.index] in {WAITING, READY, BACKOFF, LOCK_WAIT}:
                # The failure that fail-fast heeds may be reported late: nothing ends before it began for that.
                at_ns = max(self._now_ns, self.attempts.created_ns[step.index])
                self._settle(step.index, "cancelled", at_ns, CANCELLATION, out, cause="cancelled")

    def _gates_ended(self, event: GatesEnded, out: list[Instruction]) -> None:
        if not self.levels.gating or event.level != self.levels.current:
            raise ImpossibleTransition(None, f"at level {self.levels.current}", f"GatesEnded of level {event.level}")
        if not event.passed and self._cancelled_as is None:
            self._any_failed = True
            for step in self.plan.steps:
                if not step.group and self._states[step.index] == WAITING:
                    self._settle(step.index, "gate_failed", event.at_ns, SKIP, out, cause="gate_failed")
        self._let_in(self.levels.gates_ended(event.at_ns))

    # What happens to an attempt.

    def _attempt_claimed(self, event: AttemptClaimed, out: list[Instruction]) -> None:
        self._expect(event, "claimed")
        self.ledger.move(event.index, "claimed", RUNNING, event.at_ns)
        self.attempts.locked[event.index] = True
        self.attempts.claimed_ns[event.index] = event.at_ns
        if self._cancelled_as is not None:
            out.append(InterruptRunning())

    def _attempt_ended(self, event: AttemptEnded, out: list[Instruction]) -> None:
        index = event.index
        self._expect(event, "ended")
        if event.outcome not in _OF_ATTEMPTS:
            raise ValueError(f"an attempt can't come to {event.outcome!r}")
        claimed_ns = self.attempts.claimed_ns.pop(index, None)
        if claimed_ns is not None:
            self.ready.took(index, event.at_ns - claimed_ns)
        if event.outcome not in _FAILED or self._cancelled_as is not None or not self.attempts.tries_again(event):
            self.attempts.made[index] = event.attempt
            self._settle(index, "ended", event.at_ns, event.outcome, out)
            self.ready.give_back(index)
            if event.outcome in _FAILED or (event.outcome == CANCELLATION and self._cancelled_as is None):
                self._fail_downstream(index, event.at_ns, out)
                if self._fail_fast and event.outcome in _FAILED and self._cancelled_as is None:
                    self._cancel(FAILURE, out)
            return
        self.ledger.move(index, "ended", BACKOFF, event.at_ns)
        self.ready.give_back(index)
        self.attempts.made[index] = event.attempt
        if event.lock_lost:
            self.attempts.locked[index] = False
        out.append(SetTimer(index, event.at_ns + self.attempts.backoff_ns(event), "backoff"))

    def _attempt_refused(self, event: AttemptRefused, out: list[Instruction]) -> None:
        index = event.index
        self._expect(event, "refused")
        if self._cancelled_as is not None:
            self._settle(index, "refused", event.at_ns, CANCELLATION, out, cause="cancelled")
        else:
            self.ledger.move(index, "refused", LOCK_WAIT, event.at_ns)
            out.append(SetTimer(index, event.at_ns + self.attempts.refused_ns(index), "lock"))
        self.ready.give_back(index)

    def _found_cached(self, event: StepFoundCached, out: list[Instruction]) -> None:
        self._expect(event, "found_cached")
        self._settle(event.index, "found_cached", event.at_ns, SUCCESS, out, cause="cached")
        self.ready.give_back(event.index)

    def _attempt_recalled(self, event: AttemptRecalled, out: list[Instruction]) -> None:
        index = event.index
        self._expect(event, "recalled")
        if self._cancelled_as is not None:
            self._settle(index, "recalled", event.at_ns, CANCELLATION, out, cause="cancelled")
        else:
            self.ledger.move(index, "recalled", READY, event.at_ns)
            self.ready.push(index)
        self.ready.give_back(index)

    def _timer_fired(self, event: TimerFired) -> None:
        index = event.index
        before = self._states[index]
        # A cancellation settles what waits for a timer; the timer may come all the same.
        if before == SETTLED and self._cancelled_as is not None:
            return
        self.ledger.move(index, "timer_fired", READY, event.at_ns)
        if before == BACKOFF:
            self.attempts.created_ns[index] = event.at_ns
        self.ready.push(index)

    def _expect(self, event: AttemptClaimed | AttemptEnded | AttemptRefused | StepFoundCached | AttemptRecalled, what: str) -> None:
        if event.attempt != self.attempts.made[event.index] + 1:
            raise self.ledger.impossible(event.index, f"{what} (attempt {event.attempt}, expected {self.attempts.made[event.index] + 1})")

    # What follows.

    def _go_on(self, at_ns: int, out: list[Instruction]) -> None:
        """Create what can be created, hand over what fits, and end the run when all has settled."""
        while True:
            for index in self._ripe:  # grows while groups settle
                self._ripened(index, out)
            self._ripe.clear()
            let_in = self.levels.pass_barrier(out)
            if let_in is None:
                break
            self._let_in(let_in)
        if self._cancelled_as is None:
            while (fits := self.ready.pop()) is not None:
                self.ledger.move(fits, "submitted", SUBMITTED, at_ns)
                out.append(self.attempts.submit(fits))
        if self._stop_what_runs:
            # These come last: the runner answers a recall with events while it still obeys.
            self._stop_what_runs = False
            if self.ready.pool.in_hand:
                out.append(RecallAll())
            if self.ready.pool.in_hand or self.levels.gating:
                out.append(InterruptRunning())
        if not self.unsettled and not self.levels.gating and not self.ended:
            self.ended = True
            out.append(EndRun(max(at_ns, self._last_ns, self.levels.end_ns), self._outcome()))

    def _let_in(self, members: list[int]) -> None:
        """Count the steps of the level behind the barrier as ripe."""
        self._ripe.extend(index for index in members if not self.waits_for[index])

    def _ripened(self, index: int, out: list[Instruction]) -> None:
        """All upstreams of the step have settled: create it, or settle the group."""
        if self._states[index] == SETTLED:
            return
        step = self.plan.steps[index]
        settled_ns = self._settled_ns
        latest = max([settled_ns[upstream] for upstream in step.depends_on], default=self._began_ns)
        if step.group:
            self._settle_group(index, latest, out)
            return
        level = step.level or 0
        if level > self.levels.current:
            return
        created = max(latest, self.levels.floor_ns)
        self.ledger.move(index, "created", READY, created)
        self.attempts.created_ns[index] = created
        self.levels.created(level, created, out)
        if self._groups_of:
            self._open_groups_of(index, created, out)
        out.append(StartStep(index, created))
        self.ready.push(index)

    def _open_groups_of(self, index: int, at_ns: int, out: list[Instruction]) -> None:
        """Create the groups of which the step is the first member to be created, groups of groups too."""
        pending = list(self._groups_of.get(index, ()))
        for group in pending:  # grows
            if self._states[group] == WAITING:
                self.ledger.move(group, "created", OPEN, at_ns)
                out.append(StartStep(group, at_ns))
                pending.extend(self._groups_of.get(group, ()))

    def _settle_group(self, index: int, at_ns: int, out: list[Instruction]) -> None:
        """Settle a group: it succeeds when all its members did, and else was kept from it by the first that did not; it fails nothing by itself."""
        members = self.plan.steps[index].depends_on
        outcome, cause, by = SUCCESS, "", self._blames.get(index)
        if by is not None:
            outcome, cause = SKIP, "upstream_failed"
        else:
            for member in members:
                if self.outcomes[member] != SUCCESS:
                    outcome = self.outcomes[member]
                    cause = "cancelled" if outcome == CANCELLATION else self._causes[member]
                    break
        self._settle(index, "members_settled", at_ns, outcome, out, cause=cause, by=by)

    def _settle(self, index: int, what: str, at_ns: int, outcome: str, out: list[Instruction], *, cause: str = "", by: int | None = None) -> None:
        self.ledger.move(index, what, SETTLED, at_ns)
        self.outcomes[index] = outcome
        self._causes[index] = cause
        self._settled_ns[index] = at_ns
        self._last_ns = max(self._last_ns, at_ns)
        self.unsettled -= 1
        if outcome in _FAILED:
            self._any_failed = True
        elif outcome == CANCELLATION:
            self._any_cancelled = True
        out.append(SettleStep(index, at_ns, outcome, cause, by, self.attempts.made[index]))
        level = self.plan.steps[index].level
        if level is not None:
            self.levels.settled(level, at_ns, out)
        waits_for = self.waits_for
        for below in self._below[index]:
            waits_for[below] -= 1
            if not waits_for[below]:
                self._ripe.append(below)

    def _fail_downstream(self, first: int, at_ns: int, out: list[Instruction]) -> None:
        """Settle everything that can't run any more because `first` did not succeed. A group only passes the word on: it settles with its last member."""
        pending = [first]
        for index in pending:  # grows
            for below in self._below[index]:
                if self._states[below] == SETTLED or below in self._blames:
                    continue
                self._blames[below] = first
                if not self.plan.steps[below].group:
                    self._settle(below, "upstream_failed", at_ns, SKIP, out, cause="upstream_failed", by=first)
                pending.append(below)

    def _outcome(self) -> str:
        if self._cancelled_as is not None:
            return self._cancelled_as
        if self._any_failed:
            return FAILURE
        return CANCELLATION if self._any_cancelled else SUCCESS
