"""The critical path of a run: the heaviest chain over its dependencies, and every step's slack (requirement H).

What comes in: a record. What goes out: `CriticalPath`. Pure.

Over blocking edges a step weighs its last attempt's task span: 0 where it was cached, not run, or is a group. Groups are passed through: their members stand in
their place. Of chains that weigh the same, the one whose node ids come first in the alphabet is told; steps that weigh nothing are left out at both ends.
No number of workers can make a run faster than this chain. Slack is how much longer a step could have taken before the chain through it is the heaviest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_exec.record.model import CriticalPath

if TYPE_CHECKING:
    from otel_exec.record.model import RunRecord, StepRecord

__all__ = ["of_record"]


def of_record(record: RunRecord) -> CriticalPath:
    """Return the critical path of a run.

    Args:
        record: its steps stand upstreams first, as in every plan; an edge to a step that stands later, or to none, is passed over.

    Cost: O(steps + edges), but for the sort of a chain's ties.
    """
    steps = record.steps
    place: dict[str, int] = {}
    above: list[list[int]] = []
    for index, step in enumerate(steps):
        above.append([place[node_id] for node_id in step.depends_on if node_id in place])
        place[step.node_id] = index
    weights = [_weight(step) for step in steps]

    # Forward: the heaviest chain that ends before each step. Backward: the heaviest that begins after it.
    before = [0] * len(steps)
    after = [0] * len(steps)
    below: list[list[int]] = [[] for _ in steps]
    for index, upstreams in enumerate(above):
        for upstream in upstreams:
            before[index] = max(before[index], before[upstream] + weights[upstream])
            below[upstream].append(index)
    for index in range(len(steps) - 1, -1, -1):
        ending = after[index] + weights[index]
        for upstream in above[index]:
            after[upstream] = max(after[upstream], ending)
    longest_ns = max((start + weight for start, weight in zip(before, weights, strict=True)), default=0)
    slack = {step.node_id: longest_ns - before[index] - weights[index] - after[index] for index, step in enumerate(steps) if not step.group}
    chain = _chain(steps, weights, above, below, after, longest_ns) if longest_ns else []
    return CriticalPath(steps=chain, duration_ns=longest_ns, slack_ns=slack)


def _weight(step: StepRecord) -> int:
    if step.group or step.cached or not step.attempts:
        return 0
    return step.attempts[-1].execution_ns or 0


def _chain(steps: list[StepRecord], weights: list[int], above: list[list[int]], below: list[list[int]], after: list[int], longest_ns: int) -> list[str]:
    """Walk down the heaviest chain from the first step on it that weighs something."""
    chain: list[str] = []
    left_ns = longest_ns
    candidates = [index for index in range(len(steps)) if not above[index]]
    while left_ns:
        heaviest = [index for index in candidates if weights[index] + after[index] == left_ns]
        here = min(heaviest, key=lambda index: steps[index].node_id)
        if not steps[here].group and (weights[here] or chain):
            chain.append(steps[here].node_id)
        left_ns -= weights[here]
        candidates = below[here]
    return chain
