"""Whole runs: every span of the model, with its parent, name, attributes and links."""

from __future__ import annotations

import itertools
import os
import re

import pytest
from support.run_checks import EXECUTORS, check_run, step_named

from otel_exec import StepsFailed, deferred, map_tasks, output, phase, step, versioned
from otel_exec.testing import run_in


def _item(number):
    with phase("square"):
        return number * number


def _make(config):
    os.makedirs(config["path"], exist_ok=True)
    with phase("write", lines=2), phase("flush"):
        with open(os.path.join(config["path"], "data"), "w") as file:
            file.write("one\ntwo\n")


def _use(config):
    with phase("fan"):
        assert map_tasks(_item, [1, 2, 3]) == [1, 4, 9]


def _flaky(config):
    marker = os.path.join(config["path"], "tried")
    if not os.path.exists(marker):
        with open(marker, "w"):
            pass
        raise OSError("not yet")


make, use, flaky = deferred(_make), deferred(_use), deferred(_flaky)


@step("make/{name}")
def make_one(name):
    return make({"path": output(), "name": versioned(name)})


@step("use", verify=lambda config, path: None)
def use_all(one, two):
    return use({"one": one / "data", "two": two.nonblocking()})


@step("flaky", retries=1)
def flaky_one(path, after):
    return flaky({"path": path, "after": after})


@step("everything")
def everything(path):
    one, two = make_one("a"), make_one("b")
    flaky_one(path, use_all(one, two))


@pytest.fixture(scope="module", params=EXECUTORS)
def whole(request, tmp_path_factory):
    """A run of every kind of step but cached ones, its record and its trace."""
    folder = tmp_path_factory.mktemp("whole")
    record = run_in(folder, [everything(str(folder))], executor=request.param, workers=2, gates=["true"])
    return record, check_run(record)


def test_every_kind_of_span_has_its_name_and_parent(whole):
    """The table of the span model holds, row by row."""
    record, trace = whole
    names = {
        "run": re.escape(f"run {record.experiment.name}"),
        "level": r"level \d+",
        "step": r"make/[ab]|use|flaky|everything",
        "task": "task _(make|use|flaky|item)",
        "phase": "write|flush|fan|square",
        "fan_out": "map_tasks",
        "gate": "gate true",
        "worker": "worker",
        "worker_init": "worker init",
    }
    parents = {
        "level": {"run"},
        "step": {"level", "run"},
        "wait": {"step"},
        "queue": {"step"},
        "load": {"step"},
        "task": {"step", "phase"},
        "verify": {"step"},
        "store": {"step"},
        "backoff": {"step"},
        "phase": {"task", "phase"},
        "fan_out": {"task", "phase"},
        "gate": {"run"},
        "worker": {"run"},
        "worker_init": {"worker"},
    }
    assert {span.kind for span in trace.spans} == {"run", *parents} - {"wait"}
    for span in trace.spans:
        assert re.fullmatch(names.get(span.kind, span.kind), span.name), span
        if span.kind != "run":
            assert trace.parent(span).kind in parents[span.kind], span
    assert trace.parent(trace.one("step", node_name="everything")).kind == "run"


def test_steps_and_what_lies_in_them_carry_their_attributes(whole):
    """Name, template, level, node and attempt stand on every span of a step; worker, task and code where they apply."""
    record, trace = whole
    for span in trace.spans:
        if span.kind in {"step", "queue", "load", "task", "verify", "store", "backoff", "phase"}:
            node = step_named(record, str(span.attributes["node.name"]))
            assert span.attributes["node.id"] == node.node_id
            assert span.attributes["exec.template"] == node.template
            assert span.attributes.get("exec.level") == node.level
            if span.kind != "step":
                assert span.attributes["exec.attempt"] in {1, 2}
        if span.kind in {"load", "task", "verify", "store", "phase", "worker", "worker_init"}:
            assert span.attributes["exec.worker.id"] in {worker.worker_id for worker in record.workers}
        if span.kind == "phase":
            assert span.attributes["exec.phase"] == span.name
        if span.kind == "task" and span.attributes["exec.task.id"] == span.attributes["node.id"]:
            assert span.attributes["code.file.path"] == __file__
            assert span.attributes["code.line.number"] > 0
            assert span.attributes["code.function.name"] in span.name
    assert trace.one("phase", exec_phase="write").attributes["lines"] == 2 if len(trace.of("phase", exec_phase="write")) == 1 else True
    assert {span.attributes["lines"] for span in trace.of("phase", exec_phase="write")} == {2}


def test_items_are_tasks_under_the_phase_that_called_them(whole):
    """Each item is a task span with its own id, inside the phase of the call."""
    record, trace = whole
    node = step_named(record, "use").node_id
    items = [span for span in trace.of("task") if span.name == "task _item"]
    assert sorted(str(span.attributes["exec.task.id"]) for span in items) == [f"{node}/{index}" for index in range(3)]
    for item in items:
        ancestors = []
        span = item
        while span.kind != "step":
            span = trace.parent(span)
            ancestors.append(span.name)
        assert "fan" in ancestors
        assert ancestors[-2:] == ["task _use", "use"]


def test_a_second_attempt_is_linked_to_the_first(whole):
    """Each attempt is a task span; the later one links to the earlier, with the back-off between them."""
    record, trace = whole
    first, second = trace.of("task", node_name="flaky")
    assert (first.attributes["exec.outcome"], second.attributes["exec.outcome"]) == ("failure", "success")
    assert first.attributes["error.type"] == "OSError"
    assert [(link.span_id, link.edge) for link in second.links] == [(first.span_id, "retry")]
    backoff = trace.one("backoff")
    assert first.end_ns <= backoff.start_ns <= backoff.end_ns <= second.start_ns
    assert step_named(record, "flaky").attempts[0].backoff_ns == backoff.duration_ns


def test_levels_are_a_microsecond_apart_with_gates_between(whole):
    """With a barrier, each level ends at least 1 us before the next begins, and gates lie in between."""
    record, trace = whole
    levels = trace.of("level")
    assert len(levels) == 3
    for before, after in itertools.pairwise(levels):
        assert before.end_ns + 1_000 <= after.start_ns
        between = [gate for gate in trace.of("gate") if before.end_ns <= gate.start_ns and gate.end_ns <= after.start_ns]
        assert len(between) == 1
    assert [gate.outcome for gate in record.gates] == ["success"] * 2


def test_workers_hold_their_start_up(whole):
    """Each worker is a span from its start to its stop, inside the run, with its start-up first in it."""
    record, trace = whole
    workers = trace.of("worker")
    assert {span.attributes["exec.worker.id"] for span in workers} == {worker.worker_id for worker in record.workers}
    for span in workers:
        init = trace.one("worker_init", exec_worker_id=span.attributes["exec.worker.id"])
        assert init.start_ns == span.start_ns
    for task in trace.of("task"):
        (worker,) = [span for span in workers if span.attributes["exec.worker.id"] == task.attributes["exec.worker.id"]]
        assert worker.start_ns <= task.start_ns <= task.end_ns <= worker.end_ns


def test_an_inbound_traceparent_is_the_runs_parent(tmp_path, monkeypatch):
    """The run joins the caller's trace, under the caller's span, with its tracestate; its own id stays its own."""
    monkeypatch.setenv("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    monkeypatch.setenv("TRACESTATE", "vendor=1")
    record = run_in(tmp_path, [make_one("x")])
    assert record.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert record.exec_id != f"exec_{record.trace_id}"
    from support.run_checks import Trace

    trace = Trace(record)
    root = trace.one("run")
    assert root.parent_span_id == "b7ad6b7169203331"
    assert {span.trace_state for span in trace.spans} == {"vendor=1"}


def _fail(config):
    raise ValueError("no")


fail = deferred(_fail)


@step("fails")
def fails(path):
    return fail({"path": path})


def test_failed_steps_are_errors_by_their_qualified_name(tmp_path):
    """A failed step's span has status error and the exception's name as `error.type`."""
    with pytest.raises(StepsFailed) as caught:
        run_in(tmp_path, [fails("x")])
    trace = check_run(caught.value.record)
    for kind in ("task", "step"):
        span = trace.one(kind)
        assert (span.status, span.attributes["error.type"], span.status_message) == (2, "ValueError", "no")


def test_many_steps_of_one_template_are_named_by_it(tmp_path):
    """Past a hundred steps of one template, step spans have the template's name."""
    record = run_in(tmp_path, [make_one(str(number)) for number in range(101)])
    trace = check_run(record)
    assert {span.name for span in trace.of("step")} == {"make/{name}"}
