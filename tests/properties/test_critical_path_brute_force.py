from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from otel_exec.report.critical_path import Node, critical_path


@st.composite
def graphs(draw: st.DrawFn) -> list[Node]:
    """Small graphs with few different weights, so that ties are the rule; node ids don't follow the order of the graph."""
    count = draw(st.integers(1, 8))
    ids = draw(st.permutations("abcdefgh"))[:count]
    nodes = []
    for index, node_id in enumerate(ids):
        above = draw(st.lists(st.sampled_from(ids[:index]), max_size=3)) if index else []
        group = bool(above) and draw(st.integers(0, 3)) == 0
        nodes.append(Node(node_id, 0 if group else draw(st.integers(0, 3)), above, group))
    return nodes


def chains(nodes: list[Node]) -> list[list[Node]]:
    """Every chain of the graph, of whatever length, by brute force, groups left out."""
    by_id = {node.node_id: node for node in nodes}

    def ending_in(node: Node) -> list[list[Node]]:
        longer = [chain for upstream in node.depends_on for chain in ending_in(by_id[upstream])]
        return [[*chain, node] for chain in [[], *longer]]

    return [[node for node in chain if not node.group] for node in nodes for chain in ending_in(node)]


def weight(chain: list[Node]) -> int:
    return sum(node.duration_ns for node in chain)


@settings(max_examples=400, deadline=None)
@given(nodes=graphs(), data=st.data())
def test_critical_path_is_the_heaviest_chain(nodes: list[Node], data: st.DataObject) -> None:
    """Of any graph, in any order of its nodes, path, weight and slack are what trying every chain gives."""
    every = chains(nodes)
    longest = max(weight(chain) for chain in every)
    heaviest = [chain for chain in every if weight(chain) == longest and chain and chain[0].duration_ns and chain[-1].duration_ns]
    path = critical_path(data.draw(st.permutations(nodes)))
    assert path.duration_ns == longest
    assert path.steps == min(([node.node_id for node in chain] for chain in heaviest), default=[])
    assert path.slack_ns == {node.node_id: longest - max(weight(chain) for chain in every if node in chain) for node in nodes if not node.group}
