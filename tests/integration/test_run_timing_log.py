from __future__ import annotations

import logging
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from otel_exec import deferred, map_tasks, phase, step, time_phase, timing_collector, versioned
from otel_exec.testing import recorded_spans, run_in

_LINE = re.compile(r"TIMING otel_exec\.timing exec_id=(\S+) node_id=(\S+) phase=(.+) dur_ms=(\d+\.\d{3}) status=(ok|error)$")


def _item(number: int) -> None:
    with phase("item"):
        time.sleep(0)


def _work(config: dict[str, int]) -> None:
    with phase("outer"), phase("line\nbreak"):
        pass
    try:
        with phase("fails"):
            raise LookupError
    except LookupError:
        pass
    map_tasks(_item, range(3))


work = deferred(_work)


@step(name="timed/{number}")
def timed(number: int):
    return work({"number": versioned(number)})


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_each_phase_is_logged_once(tmp_path, capfd, executor):
    """With `timing` every phase of every worker is one line, on stderr and in the run's own log, with its span's duration."""
    before = (logging.getLogger("otel_exec.timing").handlers[:], logging.root.handlers[:], logging.root.level)
    record = run_in(tmp_path, [timed(1), timed(2)], executor=executor, workers=2, timing=True)
    said = capfd.readouterr().err.splitlines()
    with open(os.path.join(record.run_folder, "run.log"), encoding="utf-8") as file:
        logged = file.read().splitlines()
    phases = [span for span in recorded_spans(record) if span.kind == "phase"]
    expected = sorted(
        (
            record.exec_id,
            str(span.attributes["node.id"]),
            span.name.replace("\n", "\\n"),
            f"{span.duration_ns / 1e6:.3f}",
            "error" if span.status == 2 else "ok",
        )
        for span in phases
    )
    assert len(expected) == 12
    assert sorted(match.groups() for line in logged if (match := _LINE.search(line))) == expected
    assert sorted(match.groups() for line in said if (match := _LINE.search(line))) == expected
    assert (logging.getLogger("otel_exec.timing").handlers, logging.root.handlers, logging.root.level) == before


def test_without_the_flag_nothing_is_logged_and_everything_collected(tmp_path):
    """The flag governs the log alone: phases are collected whether it is given or not."""
    record = run_in(tmp_path, [timed(1)])
    assert not os.path.exists(os.path.join(record.run_folder, "run.log"))
    assert {name: fold.count for name, fold in record.steps[0].phases.items()} == {"outer": 1, "line\nbreak": 1, "fails": 1, "item": 3}


def _counts_tokens(config: dict[str, int]) -> None:
    with phase("call", tokens=12, input_tokens=5):
        pass
    with phase("call", tokens=3):
        pass


counting = deferred(_counts_tokens)


@step(name="counting")
def counting_step():
    return counting({})


@pytest.mark.parametrize("executor", ["inline", "processes"])
def test_tokens_are_summed_by_step(tmp_path, executor):
    """Numbers of tokens that phases give as metadata are summed for their step."""
    record = run_in(tmp_path, [counting_step()], executor=executor)
    assert record.steps[0].token_usage == {"tokens": 15, "input_tokens": 5}


def test_two_runs_at_once_keep_their_lines_apart(tmp_path, capfd):
    """Of two runs in two threads of one process each run.log has the phases of its own run, each once, stderr has all; the logger is as before."""
    logger = logging.getLogger("otel_exec.timing")
    before = (logger.level, logger.propagate, logger.handlers[:])
    together = threading.Barrier(2, timeout=30)

    def meet(config: dict[str, int]) -> None:
        together.wait()
        _work(config)

    meeting = deferred(meet)

    @step(name="meeting/{number}")
    def one(number: int):
        return meeting({"number": versioned(number)})

    with ThreadPoolExecutor(2) as pool:
        records = list(pool.map(lambda number: run_in(tmp_path / str(number), [one(number)], executor="threads", workers=1, timing=True), (1, 2)))
    said = [match.group(1) for line in capfd.readouterr().err.splitlines() if (match := _LINE.search(line))]
    for record in records:
        with open(os.path.join(record.run_folder, "run.log"), encoding="utf-8") as file:
            logged = [match.group(1) for line in file.read().splitlines() if (match := _LINE.search(line))]
        assert logged == [record.exec_id] * 6
        assert said.count(record.exec_id) == 6
    assert (logger.level, logger.propagate, logger.handlers) == before


def _foreign_item(number: int) -> None:
    with time_phase("workflow-17", f"node_{number}", "inside"):
        pass


def _foreign(config: dict[str, int]) -> None:
    with time_phase("workflow-17", "node_0", "llm"):
        pass
    map_tasks(_foreign_item, range(3))


foreign = deferred(_foreign)


@step(name="foreign")
def foreign_step():
    return foreign({})


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_the_driver_has_what_workers_collected(tmp_path, executor):
    """After a run `timing_collector` has each (node, phase) once, under the run's id and under ids of the user's own; they add up to what the record says."""
    timing_collector.clear()
    record = run_in(tmp_path, [foreign_step()], executor=executor, workers=2)
    own, theirs = timing_collector.pop(record.exec_id), timing_collector.pop("workflow-17")
    nodes = {node.node_id: {name: fold.total_ns / 1e6 for name, fold in node.phases.items()} for node in record.nodes}
    assert own == theirs == nodes
    assert {node: set(names) for node, names in own.items()} == {"node_0": {"llm", "inside"}, "node_1": {"inside"}, "node_2": {"inside"}}
    assert timing_collector.get("workflow-17") == {}
