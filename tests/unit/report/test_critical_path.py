from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from otel_exec.record.model import AttemptRecord, ExecutorRecord, Experiment, RunRecord, StepRecord
from otel_exec.report.critical_path import Node, critical_path, of_record

WORKFLOWS = Path(__file__).parents[4] / "shared" / "data" / "workflows"


def record_of(*steps: StepRecord) -> RunRecord:
    return RunRecord(
        schema_version="1.0",
        exec_id="exec_1",
        trace_id="1",
        root_span_id="2",
        outcome="success",
        experiment=Experiment("demo"),
        executor=ExecutorRecord("inline", 1),
        prefix="/outputs",
        run_folder="/outputs/.otel_exec/runs/exec_1",
        start_time="2026-11-23T14:41:14.000000+00:00",
        steps=list(steps),
    )


def test_critical_path_diamond() -> None:
    """The path takes the heavier branch; the other one has the difference as slack."""
    path = critical_path([Node("a", 10, []), Node("left", 5, ["a"]), Node("right", 7, ["a"]), Node("end", 1, ["left", "right"])])
    assert path.steps == ["a", "right", "end"]
    assert path.duration_ns == 18
    assert path.slack_ns == {"a": 0, "left": 2, "right": 0, "end": 0}


def test_critical_path_independent_chains() -> None:
    """A chain beside the heaviest one has slack up to the end of the run's heaviest chain."""
    path = critical_path([Node("a", 10, []), Node("b", 3, []), Node("c", 2, ["b"])])
    assert path.steps == ["a"]
    assert path.slack_ns == {"a": 0, "b": 5, "c": 5}


def test_critical_path_empty() -> None:
    """Nothing, or nothing that took time, has no path."""
    assert critical_path([]).steps == []
    path = critical_path([Node("a", 0, []), Node("b", 0, ["a"])])
    assert (path.steps, path.duration_ns, path.slack_ns) == ([], 0, {"a": 0, "b": 0})


def test_critical_path_ties_by_node_id() -> None:
    """Of chains that weigh the same, the one whose node ids come first is told, in whatever order the steps stand."""
    nodes = [Node("z", 5, []), Node("b", 5, []), Node("y", 1, ["b"]), Node("c", 1, ["b", "z"]), Node("m", 0, ["c"])]
    assert critical_path(nodes).steps == ["b", "c"]
    assert critical_path(nodes[::-1]).steps == ["b", "c"]


def test_critical_path_tie_after_weightless_start() -> None:
    """Weightless steps ahead of a chain decide no tie: the first that weighs something does."""
    nodes = [Node("a_cached", 0, []), Node("z", 5, ["a_cached"]), Node("b_cached", 0, []), Node("y", 5, ["b_cached"])]
    assert critical_path(nodes).steps == ["y"]


def test_critical_path_weightless_in_the_middle() -> None:
    """A weightless step between two that count is part of the chain."""
    assert critical_path([Node("a", 5, []), Node("kept", 0, ["a"]), Node("b", 5, ["kept"])]).steps == ["a", "kept", "b"]


def test_critical_path_groups_are_passed_through() -> None:
    """A group weighs nothing and is on no path; what is below it follows its members, and ties are decided by steps, not by the group's id."""
    nodes = [
        Node("a", 5, []),
        Node("b", 6, []),
        Node("a_group", 99, ["a", "b"], group=True),
        Node("a_outer", 0, ["a_group"], group=True),
        Node("z", 2, ["a_outer"]),
        Node("m", 2, ["b"]),
    ]
    path = critical_path(nodes)
    assert path.steps == ["b", "m"]
    assert path.duration_ns == 8
    assert path.slack_ns == {"a": 1, "b": 0, "z": 0, "m": 0}
    assert critical_path(nodes[:-1]).steps == ["b", "z"]


def test_critical_path_odd_edges() -> None:
    """Edges to unknown steps, repeated edges and circles change nothing else and end."""
    path = critical_path([Node("a", 5, ["gone"]), Node("b", 1, ["a", "a"]), Node("x", 1, ["y"]), Node("y", 2, ["x"])])
    assert (path.steps, path.duration_ns) == (["a", "b"], 6)


def test_critical_path_of_record() -> None:
    """A step weighs its last attempt's execution: 0 when it is cached, a group or was not run."""

    def attempts(*execution_ns: int | None) -> list[AttemptRecord]:
        return [AttemptRecord(attempt, execution_ns=ns) for attempt, ns in enumerate(execution_ns, 1)]

    path = of_record(
        record_of(
            StepRecord("cached-1", "cached", cached=True, attempts=attempts(500)),
            StepRecord("a-1", "a", depends_on=["cached-1"], attempts=attempts(900, 20)),
            StepRecord("all-1", "all", group=True, depends_on=["a-1"]),
            StepRecord("b-1", "b", depends_on=["all-1"], attempts=attempts(30)),
            StepRecord("skipped-1", "skipped", depends_on=["b-1"]),
            StepRecord("refused-1", "refused", attempts=attempts(None)),
        )
    )
    assert path.steps == ["a-1", "b-1"]
    assert path.duration_ns == 50
    assert path.slack_ns == {"cached-1": 0, "a-1": 0, "b-1": 0, "skipped-1": 0, "refused-1": 50}


def test_critical_path_encodes() -> None:
    """The path is a value of the record and goes through JSON."""
    path = critical_path([Node("a", 2**60, [])])
    assert msgspec.json.decode(msgspec.json.encode(path)) == {"steps": ["a"], "duration_ns": 2**60, "slack_ns": {"a": 0}}


def test_critical_path_long_chain() -> None:
    """A chain of 20,000 steps is found without recursion."""
    nodes = [Node(f"s{index:05}", 1, [f"s{index - 1:05}"] if index else []) for index in range(20_000)]
    assert critical_path(nodes).duration_ns == 20_000
    assert critical_path(nodes[::-1]).steps == [node.node_id for node in nodes]


@pytest.mark.parametrize("file", sorted(path.name for path in WORKFLOWS.glob("*.json")) or [None])
def test_critical_path_of_real_workflows(file: str | None) -> None:
    """Of recorded production workflows, path and slack are what relaxing all edges until nothing changes gives."""
    if file is None:
        pytest.skip("no workflow graphs: they lie in ../shared/data/workflows, beside the repository")
    tasks = json.loads((WORKFLOWS / file).read_text())["tasks"]
    weight = {task["id"]: round(task["runtime_s"] * 1e9) for task in tasks}
    edges = [(parent, task["id"]) for task in tasks for parent in task["parents"]]
    start = dict.fromkeys(weight, 0)
    while late := [(above, below) for above, below in edges if start[below] < start[above] + weight[above]]:
        for above, below in late:
            start[below] = max(start[below], start[above] + weight[above])
    longest = max(start[task] + weight[task] for task in weight)
    latest_end = dict.fromkeys(weight, longest)
    while early := [(above, below) for above, below in edges if latest_end[above] > latest_end[below] - weight[below]]:
        for above, below in early:
            latest_end[above] = min(latest_end[above], latest_end[below] - weight[below])

    path = critical_path(Node(task["id"], weight[task["id"]], task["parents"]) for task in tasks)
    assert path.duration_ns == longest
    assert path.slack_ns == {task: latest_end[task] - weight[task] - start[task] for task in weight}
    assert sum(weight[task] for task in path.steps) == longest
    assert all(link in set(edges) for link in zip(path.steps, path.steps[1:], strict=False))
    assert all(path.slack_ns[task] == 0 for task in path.steps)
