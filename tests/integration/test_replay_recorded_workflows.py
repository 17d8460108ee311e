"""Recorded workflows, replayed: what ran is held against what graph theory says of the same graph."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
RECORDED = REPOSITORY.parent / "shared" / "data" / "workflows"
SAMPLE = REPOSITORY / "examples" / "data" / "survey.json"

WORKFLOWS = [pytest.param(SAMPLE, 0.002, id="survey")] + [
    pytest.param(path, 0.0002, id=path.stem) for path in (sorted(RECORDED.glob("*.json")) if RECORDED.is_dir() else [])
]


def _graph(path):
    """Id to parents, read without the example's own reader."""
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = content["workflow"]["specification"]["tasks"] if "workflow" in content else content["tasks"]
    return [(row["id"], set(row["parents"])) for row in rows]


def _generations(parents):
    """The topological generation of each node, by peeling off what has no parents left."""
    level, left, number = {}, {node: set(above) for node, above in parents.items()}, 0
    while left:
        number += 1
        free = [node for node, above in left.items() if not above]
        assert free, "a cycle"
        for node in free:
            level[node] = number
            del left[node]
        for above in left.values():
            above.difference_update(free)
    return level


def _slack(parents, weight):
    """The heaviest chain's weight and each node's slack: the heaviest chain less the heaviest chain through the node."""
    order = sorted(parents, key=_generations(parents).get)
    children = {node: [below for below in parents if node in parents[below]] for node in parents}
    before, after = {}, {}
    for node in order:
        before[node] = max((before[above] + weight[above] for above in parents[node]), default=0)
    for node in reversed(order):
        after[node] = max((after[below] + weight[below] for below in children[node]), default=0)
    longest = max(before[node] + weight[node] + after[node] for node in parents)
    return longest, {node: longest - before[node] - weight[node] - after[node] for node in parents}


@pytest.mark.parametrize(("path", "scale"), WORKFLOWS)
def test_a_recorded_workflow_replays_as_its_graph_says(path, scale, tmp_path):
    """Every task runs once, after its parents, in its topological generation; critical path and slack are what an independent computation gives."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    script = REPOSITORY / "examples" / "replay_workflow.py"
    done = subprocess.run(
        [sys.executable, str(script), str(path), "--scale", str(scale)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    steps = {step["node_id"]: step for step in record["steps"] if not step["group"]}
    graph = _graph(path)

    assert len(steps) == len(graph)
    assert {step["outcome"] for step in steps.values()} == {"success"}
    assert all(len(step["attempts"]) == 1 for step in steps.values())

    parents = {node: set(step["depends_on"]) for node, step in steps.items()}
    levels = _generations(parents)
    assert {node: step["level"] for node, step in steps.items()} == levels
    by_id = _generations(dict(graph))
    assert sorted(levels.values()) == sorted(by_id.values())
    assert sum(map(len, parents.values())) == sum(len(above) for _, above in graph)

    for node, step in steps.items():
        (attempt,) = step["attempts"]
        assert step["start_ns"] <= attempt["start_ns"] <= attempt["end_ns"] <= step["end_ns"]
        for above in parents[node]:
            assert steps[above]["end_ns"] <= step["start_ns"], f"{node} began before {above} had settled"

    weight = {node: step["attempts"][0]["end_ns"] - step["attempts"][0]["start_ns"] for node, step in steps.items()}
    longest, slack = _slack(parents, weight)
    told = record["critical_path"]
    assert told["duration_ns"] == longest
    assert {node: told["slack_ns"][node] for node in steps} == slack
    chain = [node for node in told["steps"] if node in steps]
    assert sum(weight[node] for node in chain) == longest
    assert all(slack[node] == 0 for node in chain)
    assert all(above in parents[node] for above, node in itertools.pairwise(chain))
    assert record["duration_ns"] >= longest
