"""What must hold of a run's state after every event; switched on by tests.

What comes in: a `RunState`. What goes out: nothing, or an AssertionError that names the invariant and the step. Costs O(steps + edges); changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_exec.schedule.capacity import Pool
from otel_exec.schedule.transitions import BACKOFF, LOCK_WAIT, OPEN, READY, RUNNING, SETTLED, SUBMITTED, WAITING

if TYPE_CHECKING:
    from otel_exec.schedule.state import RunState

__all__ = ["check"]


def check(state: RunState) -> None:
    """Raise an AssertionError that names the invariant if one does not hold."""
    _check_steps(state)
    _check_capacity(state)
    _check_levels(state)
    _check_progress(state)


def _check_steps(state: RunState) -> None:
    states = state.ledger.states
    for step in state.plan.steps:
        at = states[step.index]
        open_upstreams = [upstream for upstream in step.depends_on if states[upstream] != SETTLED]
        assert state.waits_for[step.index] == len(open_upstreams), f"{step.name!r} miscounts the upstreams it waits for"
        assert bool(state.outcomes[step.index]) == (at == SETTLED), f"{step.name!r} has an outcome exactly when it is settled"
        if at in {READY, SUBMITTED, RUNNING, BACKOFF, LOCK_WAIT}:
            assert not step.group, f"{step.name!r} is a group, which never runs"
            assert state.decisions[step.index].action in {"run", "wait"}, f"{step.name!r} was not to be run"
            assert all(state.outcomes[upstream] == "success" for upstream in step.depends_on), f"{step.name!r} runs though an upstream did not succeed"
        assert at != OPEN or step.group, f"{step.name!r} is open though it is no group"


def _check_capacity(state: RunState) -> None:
    states = state.ledger.states
    pool = state.ready.pool
    counted = Pool(state.capacity)
    for index, at in enumerate(states):
        if at in {SUBMITTED, RUNNING}:
            counted.take(state.ready.demand(index))
    for name in ("in_hand", "not_plain", "says_cpus", "alone", "cpus", "used"):
        assert getattr(pool, name) == getattr(counted, name), f"the pool miscounts {name}"
    assert len(state.ready) == states.count(READY), "the ready steps are those that wait for room"
    capacity = state.capacity
    assert pool.in_hand <= capacity.workers + (0 if pool.not_plain else capacity.prefetch), "more is in hand than workers can take"
    assert capacity.max_concurrent is None or pool.in_hand <= capacity.max_concurrent, "more is in hand than --max-concurrent allows"
    assert not pool.alone or pool.in_hand == 1, "a step that wants more CPUs than there are runs with nothing beside it"
    for kind, amount in pool.used.items():
        assert 0 <= amount <= pool.total(kind), f"more {kind} are taken than there are"
    if pool.says_cpus and not pool.alone and pool.cpus_total is not None:
        assert pool.cpus <= pool.cpus_total, "more CPUs are taken than there are"


def _check_levels(state: RunState) -> None:
    states = state.ledger.states
    left = [0] * (state.plan.levels + 1)
    for step in state.plan.steps:
        if step.level is not None and states[step.index] != SETTLED:
            left[step.level] += 1
        if state.barrier and step.level is not None and step.level > state.levels.current:
            assert states[step.index] in {WAITING, SETTLED}, f"{step.name!r} was created before the barrier was passed"
    assert state.levels.left == left, "the levels miscount their open steps"
    assert state.unsettled == len(states) - states.count(SETTLED), "the run miscounts its open steps"


def _check_progress(state: RunState) -> None:
    states = state.ledger.states
    if not state.began:
        return
    assert state.ended == (not state.unsettled and not state.levels.gating), "the run ends when all has settled"
    if state.cancelled:
        assert not {WAITING, READY, BACKOFF, LOCK_WAIT} & {at for at, step in zip(states, state.plan.steps, strict=True) if not step.group}, (
            "after a cancellation nothing waits"
        )
    if not state.ended and not state.levels.gating:
        assert {SUBMITTED, RUNNING, BACKOFF, LOCK_WAIT} & set(states), "a run that has not ended has something under way"
