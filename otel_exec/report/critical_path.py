"""The critical path of a run: the heaviest chain over its dependencies, and every step's slack.

What comes in: a record, or nodes with durations. What goes out: `CriticalPath`. Pure.

Over blocking edges a step weighs its last attempt's task span: 0 where it was cached, not run, or is a group. Groups are passed through: their members stand in
their place. Of chains that weigh the same, the one whose list of node ids comes first is told; steps that weigh nothing are left out at both ends.
No number of workers can make a run faster than this chain. Slack is how much longer a step could have taken before the chain through it is the heaviest.

Source: critical path method, forward and backward pass (Kelley and Walker, 1959).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from otel_exec.record.model import CriticalPath

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from otel_exec.record.model import RunRecord, StepRecord

__all__ = ["Node", "critical_path", "of_record"]


class Node(NamedTuple):
    """A step as the critical path sees it. `depends_on` are node ids. A group weighs nothing and is on no path."""

    node_id: str
    duration_ns: int
    depends_on: Sequence[str]
    group: bool = False


def of_record(record: RunRecord) -> CriticalPath:
    """Return the critical path of a run."""
    return critical_path(Node(step.node_id, _duration_ns(step), step.depends_on, step.group) for step in record.steps)


def _duration_ns(step: StepRecord) -> int:
    if step.group or step.cached or not step.attempts:
        return 0
    return step.attempts[-1].execution_ns or 0


def critical_path(nodes: Iterable[Node]) -> CriticalPath:
    """Return the heaviest chain, its weight, and the slack of each node that is not a group.

    Args:
        nodes: in any order; edges to nodes that are not among them, and those that would close a circle, are passed over.

    Cost: O(nodes + edges), and no recursion.
    """
    steps = _upstreams_first(list(nodes))
    place: dict[str, int] = {}
    above: list[list[int]] = []
    below: list[list[int]] = [[] for _ in steps]
    weights = [0 if step.group else step.duration_ns for step in steps]
    # Forward: the heaviest chain that ends before each step. Backward: the heaviest that begins after it.
    before = [0] * len(steps)
    after = [0] * len(steps)
    for index, step in enumerate(steps):
        upstreams = [place[node_id] for node_id in step.depends_on if node_id in place]
        above.append(upstreams)
        place[step.node_id] = index
        if upstreams:
            before[index] = max([before[upstream] + weights[upstream] for upstream in upstreams])
            for upstream in upstreams:
                below[upstream].append(index)
    for index in range(len(steps) - 1, -1, -1):
        if below[index]:
            after[index] = max([after[downstream] + weights[downstream] for downstream in below[index]])
    longest_ns = max([before[index] + weight for index, weight in enumerate(weights)], default=0)
    slack = {step.node_id: longest_ns - before[index] - weights[index] - after[index] for index, step in enumerate(steps) if not step.group}
    return CriticalPath(steps=_chain(steps, weights, below, before, after, longest_ns), duration_ns=longest_ns, slack_ns=slack)


def _chain(steps: list[Node], weights: list[int], below: list[list[int]], before: list[int], after: list[int], longest_ns: int) -> list[str]:
    """Walk down the heaviest chain: first the first step on it that weighs something, then always the first by name of those that go on with what is left of its weight."""
    chain: list[str] = []
    left_ns = longest_ns
    candidates = [index for index, weight in enumerate(weights) if weight and not before[index]]
    while left_ns:
        heaviest = [index for index in candidates if weights[index] + after[index] == left_ns]
        for index in heaviest:  # grows: a group's place is taken by what comes below it
            if steps[index].group:
                heaviest.extend(downstream for downstream in below[index] if weights[downstream] + after[downstream] == left_ns)
        going_on = [index for index in heaviest if not steps[index].group]
        if not going_on:  # a damaged file's steps depend on each other in a circle
            break
        here = min(going_on, key=lambda index: steps[index].node_id)
        chain.append(steps[here].node_id)
        left_ns -= weights[here]
        candidates = below[here]
    return chain


def _upstreams_first(nodes: list[Node]) -> list[Node]:
    """Return the nodes with upstreams before downstreams, in the given order where that is so already; those on a circle come last."""
    seen: set[str] = set()
    known = {node.node_id for node in nodes}
    for node in nodes:
        if any(upstream in known and upstream not in seen for upstream in node.depends_on):
            break
        seen.add(node.node_id)
    else:
        return nodes
    by_id = {node.node_id: node for node in nodes}
    waits_for = {node.node_id: len([upstream for upstream in node.depends_on if upstream in by_id]) for node in nodes}
    below: dict[str, list[str]] = {}
    for node in nodes:
        for upstream in node.depends_on:
            below.setdefault(upstream, []).append(node.node_id)
    ready = deque(node_id for node_id, count in waits_for.items() if not count)
    ordered: dict[str, Node] = {}
    while ready:
        node_id = ready.popleft()
        ordered[node_id] = by_id[node_id]
        for downstream in below.get(node_id, ()):
            waits_for[downstream] -= 1
            if not waits_for[downstream]:
                ready.append(downstream)
    return list((ordered | by_id).values())
