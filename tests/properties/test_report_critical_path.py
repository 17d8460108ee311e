"""The critical path against every chain of small graphs."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from support.sample_record import twelve_steps

from otel_exec.record.model import AttemptRecord, StepRecord
from otel_exec.report.critical_path import of_record


@st.composite
def graphs(draw):
    """Up to eight steps with edges from earlier ones; some are groups, some cached, some were tried twice."""
    steps = []
    for index in range(draw(st.integers(0, 8))):
        depends_on = [step.node_id for step in steps if draw(st.booleans())]
        kind = draw(st.sampled_from(["ran", "ran", "ran", "group", "cached", "not run", "retried"]))
        weight = draw(st.integers(0, 5))
        attempts = [AttemptRecord(1, execution_ns=weight)] if kind in {"ran", "cached"} else []
        if kind == "retried":
            attempts = [AttemptRecord(1, execution_ns=99), AttemptRecord(2, execution_ns=weight)]
        steps.append(
            StepRecord(f"{draw(st.sampled_from('abc'))}{index}", "s", depends_on=depends_on, group=kind == "group", cached=kind == "cached", attempts=attempts)
        )
    return steps


def weight_of(step):
    return 0 if step.group or step.cached or not step.attempts else step.attempts[-1].execution_ns


def chains(steps):
    """Return every chain from a step without upstreams to one without downstreams."""
    by_id = {step.node_id: step for step in steps}
    below = {step.node_id: [other.node_id for other in steps if step.node_id in other.depends_on] for step in steps}

    def onward(node):
        return [[node, *rest] for after in below[node] for rest in onward(after)] or [[node]]

    return [[by_id[node] for node in chain] for step in steps if not step.depends_on for chain in onward(step.node_id)]


@given(graphs())
@settings(max_examples=300, deadline=None)
def test_the_path_is_the_heaviest_chain_and_slack_is_what_is_missing_to_it(steps):
    """No chain weighs more; a step's slack is the difference to the heaviest chain through it; the path's steps are one such chain without groups."""
    record = twelve_steps()
    record.steps = steps
    told = of_record(record)
    every = chains(steps)
    heaviest = max((sum(map(weight_of, chain)) for chain in every), default=0)
    assert told.duration_ns == heaviest
    for step in steps:
        if not step.group:
            through = max(sum(map(weight_of, chain)) for chain in every if step in chain)
            assert told.slack_ns[step.node_id] == heaviest - through
    assert set(told.slack_ns) == {step.node_id for step in steps if not step.group}
    by_id = {step.node_id: step for step in steps}
    assert sum(weight_of(by_id[node]) for node in told.steps) == heaviest
    assert all(told.slack_ns[node] == 0 and not by_id[node].group for node in told.steps)
    if told.steps:
        assert weight_of(by_id[told.steps[0]]) > 0
        assert weight_of(by_id[told.steps[-1]]) > 0
