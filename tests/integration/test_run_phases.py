"""What a run's record says of phases: node times, nodes beside the steps, attempts, fan-outs and forks, live and made again from the spool."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import pytest
from support.metric_checks import check_metrics, written_points
from support.run_checks import EXECUTORS, check_run, step_named

from otel_exec import deferred, map_tasks, output, phase, step, time_phase
from otel_exec.testing import run_in


def _item(number):
    with phase("in item", tokens=number), time_phase("", "graph_node", "node phase", input_tokens=1):
        pass


def _fans_out(config):
    del config
    with phase("around"):
        map_tasks(_item, range(6), max_workers=2)


def _flaky(config):
    mark = Path(config["mark"])
    with phase("work"), time_phase("", "graph_node", "node phase"):
        if not mark.exists():
            mark.touch()
            raise ValueError("the first time")


def _child():
    with phase("in child"):
        pass


def _forks(config):
    del config
    with phase("around"):
        child = multiprocessing.get_context("fork").Process(target=_child)
        child.start()
        child.join()


def _parallel(config):
    del config
    barrier = threading.Barrier(3, timeout=30)

    def one():
        with phase("side by side"):
            barrier.wait()

    with phase("outer"):
        threads = [threading.Thread(target=one) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


@step("{name}", retries=1)
def one_step(name, fn, mark):
    return deferred(fn)({"name": name, "mark": mark, "out": output()})


@pytest.mark.parametrize("executor", EXECUTORS)
def test_shares_and_the_rest_add_up_to_the_nodes_time(tmp_path, executor):
    """Of each step and each of its attempts, in nanoseconds, for retries, fan-outs, threads and nodes; and `check_run` holds the rebuilt record to the same."""
    steps = [one_step(name, fn, str(tmp_path / name)) for name, fn in (("fans", _fans_out), ("flaky", _flaky), ("parallel", _parallel))]
    record = run_in(tmp_path, steps, executor=executor, workers=2)
    check_run(record)
    for each in record.steps:
        assert each.node_time_ns == sum(attempt.node_time_ns for attempt in each.attempts)
        for whole in (each, *each.attempts):
            assert 0 <= sum(found.share_ns for found in whole.phases.values()) <= whole.node_time_ns
            assert all(0 <= found.self_ns <= found.total_ns and found.union_ns <= found.total_ns for found in whole.phases.values())
    fans, flaky = step_named(record, "fans"), step_named(record, "flaky")
    items = fans.items
    assert (fans.phases["in item"].count, fans.phases["(nodes)"].count, fans.token_usage) == (6, 6, {"tokens": 15})
    # Its own task without the wait, and the items.
    assert items.busy_ns < fans.node_time_ns < items.busy_ns + fans.attempts[0].execution_ns
    assert [attempt.phases["work"].errors for attempt in flaky.attempts] == [1, 0]
    (node,) = record.nodes
    assert (node.node_id, node.phases["node phase"].count, node.token_usage) == ("graph_node", 8, {"input_tokens": 6})
    assert [(part.node_id, part.attempt, part.phases["node phase"].count) for part in node.attempts] == [
        (fans.node_id, 1, 6),
        (flaky.node_id, 1, 1),
        (flaky.node_id, 2, 1),
    ]
    assert node.total_ns == sum(part.total_ns for part in node.attempts)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_phases_of_forked_children_count(tmp_path, executor):
    """A child process that a step forks has a spool file of its own; its phases are in the step's record, live as rebuilt."""
    record = run_in(tmp_path, one_step("forks", _forks, ""), executor=executor)
    assert {name: found.count for name, found in record.steps[0].phases.items()} == {"around": 1, "in child": 1}
    check_run(record)


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_phases_of_forked_children_are_in_the_metrics(tmp_path, temporality):
    """The last request has them as the record has, with the span that measured each."""
    record = run_in(tmp_path, one_step("forks", _forks, ""), console_metrics=True, metric_temporality=temporality)
    points = written_points(record)
    if temporality == "cumulative":
        check_metrics(points, record)
    phases = [point for point in points if point.metric == "otel_exec.phase.duration" and point.count]
    counted = {point.attributes["exec.phase"]: (point.count, point.sum) for point in phases}
    assert counted == {name: (1, pytest.approx(found.total_ns / 1e9)) for name, found in record.steps[0].phases.items()}
