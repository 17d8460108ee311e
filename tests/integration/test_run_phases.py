"""What a run's record says of phases: node times, nodes beside the steps, attempts, fan-outs and forks, live and made again from the spool."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from support.metric_checks import check_metrics, written_points
from support.run_checks import EXECUTORS, check_rebuilt, check_run, step_named

from otel_exec import deferred, map_tasks, output, phase, step, time_phase
from otel_exec.aggregate import sweep, task_fold
from otel_exec.semconv import Kind
from otel_exec.testing import recorded_spans, run_in


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


def _dies_once_elsewhere(item):
    owner, mark = item
    with phase("finished", tokens=3):
        pass
    if os.getpid() != owner and not os.path.exists(mark):
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)


def _loses_an_item(config):
    map_tasks(_dies_once_elsewhere, [(os.getpid(), config["mark"])] * 6, retries=1)


def test_phases_of_an_item_whose_worker_died_count(tmp_path):
    """What had finished in it is on disk, and in the record that the run itself writes, as in the rebuilt one."""
    record = run_in(tmp_path, one_step("loses", _loses_an_item, str(tmp_path / "mark")), executor="processes", workers=2)
    (found,) = record.steps
    check_rebuilt(record)
    tries = [span for span in recorded_spans(record) if span.kind == Kind.TASK and span.attributes["exec.task.id"] != found.node_id]
    assert [span.attributes["error.type"] for span in tries if span.attributes["exec.outcome"] == "error"] == ["worker_died"]
    assert (found.items.count, found.items.completed, found.items.attempts) == (6, 6, 7)
    assert (found.phases["finished"].count, found.token_usage) == (7, {"tokens": 21})


def _makes_up(config):
    del config
    for number in range(10):
        with phase(f"item {number}"), time_phase("", f"node {number}", "call"):
            pass


def test_names_past_the_limit_are_said(tmp_path, monkeypatch):
    """The record has a row of others, and says how many phases are in it; live as rebuilt."""
    monkeypatch.setattr(sweep, "MAX_NAMES", 4)
    monkeypatch.setattr(task_fold, "MAX_NODES", 3)
    record = run_in(tmp_path, one_step("makes up", _makes_up, ""), executor="inline")
    assert set(record.steps[0].phases) == {"(nodes)", "(others)", "item 0", "item 1", "item 2"}
    assert [node.node_id for node in record.nodes] == ["(others)", "node 0", "node 1", "node 2"]
    assert {warning.code: warning.count for warning in record.warnings} == {"names_past_limit": 7, "nodes_past_limit": 7}
    check_run(record)


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
