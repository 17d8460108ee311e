"""A run with an endpoint set: every span arrives once, whole, by each protocol, and the same durations stand everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.outside import EXAMPLES, otel_exec, run_script
from support.received_checks import check_received
from support.run_checks import check_run

from otel_exec import read_run
from otel_exec.clock import from_iso
from otel_exec.record.step_files import read_events, read_info
from otel_exec.testing import recorded_spans

# Acknowledgements may take a while on a loaded machine; what is tested here is not how long they are waited for.
PATIENCE = {"OTEL_EXEC_EXIT_TIMEOUT": "30"}

SMALL = """
import os
from opentelemetry import trace
from otel_exec import deferred, executor_main, map_tasks, output, phase, step, versioned

def _make(config):
    os.makedirs(config["path"], exist_ok=True)
    with phase("write", lines=2) as writing, trace.get_tracer("the.users").start_as_current_span("own", attributes={"ünïcode": "\\u2028 \\U0001f600"}):
        writing.event("half-way", ratio=0.5)
        with phase("flush"):
            pass

def _square(number):
    with phase("square"):
        return number * number

def _use(config):
    assert map_tasks(_square, [1, 2, 3]) == [1, 4, 9]

def _flaky(config):
    if not os.path.exists(config["marker"]):
        open(config["marker"], "w").close()
        raise OSError("not yet")

def _broken(config):
    raise ValueError("broken \\ud800")

make, use, flaky, broken = deferred(_make), deferred(_use), deferred(_flaky), deferred(_broken)

@step("make/{name}")
def make_one(name):
    return make({"path": output(), "name": versioned(name)})

@step("use", verify=lambda config, path: None)
def use_both(one, two):
    return use({"one": one / "x", "two": two.nonblocking()})

@step("flaky", retries=1)
def flaky_one(after, made):
    return flaky({"marker": os.path.abspath("marker"), "after": after})

@step("broken")
def broken_one(after):
    return broken({"after": after})

@step("never")
def never(after):
    return use({"after": after})

@step("making")
def making():
    make_one("a")
    make_one("b")

@step("all")
def everything():
    never(broken_one(flaky_one(use_both(make_one("a"), make_one("b")), making())))

if __name__ == "__main__":
    executor_main(steps=[everything()], gates=["true"])
"""


def check_same_everywhere(record, cwd):
    """A step's durations are the same, to the microsecond, in run.json, its `.executor_info`, its `.executor_status`, the summary and the spans."""
    told = otel_exec("summary", "run.json", "--json", cwd=cwd)
    assert told.returncode == 0, told.stderr
    summary = json.loads(told.stdout)
    rows = {row["node_id"]: row for row in summary["steps"]}
    written = {step["node_id"]: step for step in json.loads((cwd / "run.json").read_text(encoding="utf-8"))["steps"]}
    spans = recorded_spans(record)
    compared = 0
    for step in record.steps:
        if step.group or not step.attempts:
            continue
        (own,) = [span for span in spans if span.kind == "step" and span.attributes["node.id"] == step.node_id]
        last = [span for span in spans if span.kind == "task" and span.attributes["exec.task.id"] == step.node_id][-1]
        for seconds in (written[step.node_id], read_info(step.output_path)):
            assert round(seconds["duration_seconds"] * 1e6) == round(last.duration_ns / 1e3)
            assert round(seconds["total_duration_seconds"] * 1e6) == round(own.duration_ns / 1e3)
            assert from_iso(seconds["scheduled_time"]) // 1000 == own.start_ns // 1000
            assert from_iso(seconds["execution_start_time"]) // 1000 == last.start_ns // 1000
            assert from_iso(seconds["execution_end_time"]) // 1000 == last.end_ns // 1000
        assert rows[step.node_id]["execution_ns"] == last.duration_ns
        assert rows[step.node_id]["total_ns"] == own.duration_ns
        assert rows[step.node_id]["execution_seconds"] == pytest.approx(last.duration_ns / 1e9, abs=1e-9)
        event = read_events(step.output_path)[-1]
        # Unix seconds as floats: good to half a microsecond.
        assert event.execution_start_time == pytest.approx(last.start_ns / 1e9, rel=0, abs=1e-6)
        assert event.execution_end_time == pytest.approx(last.end_ns / 1e9, rel=0, abs=1e-6)
        assert event.execution_end_time - event.execution_start_time == pytest.approx(last.duration_ns / 1e9, rel=0, abs=1e-6)
        compared += 1
    (root,) = [span for span in spans if span.kind == "run"]
    assert summary["duration_ns"] == record.duration_ns == root.duration_ns
    return compared


def exported_whole(record):
    """Whether the record says that all spans of the spool were acknowledged."""
    count = len(recorded_spans(record))
    return (record.export.spans, record.export.spans_acknowledged) == (count, count)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_the_language_model_pipeline_in_the_receiver(tmp_path, receiver, protocol):
    """The example with an endpoint set: every run, level, step, task, phase and other span arrives once, as one trace; the durations agree everywhere.

    gRPC is what an endpoint without a protocol, a path and port 4318 means.
    """
    where = (
        {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint}
        if protocol == "grpc"
        else {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    )
    done = run_script(EXAMPLES / "lm_pipeline.py", "--small", cwd=tmp_path, **where, **PATIENCE)
    assert done.returncode == 0, done.stderr
    record = read_run(str(tmp_path / "run.json"))
    check_run(record)
    kinds = check_received(receiver.spans, record, "lm_pipeline")
    steps = [step for step in record.steps if not step.group]
    items = sum(step.items.count for step in steps if step.items is not None)
    workers = len(record.workers)
    phases = kinds.pop("phase")
    assert 0 < kinds.pop("fan_out") <= items
    assert kinds == {
        "run": 1,
        "level": len(record.levels),
        "step": len(record.steps),
        "queue": len(steps),
        "load": len(steps),
        "task": len(steps) + items,
        "store": len(steps),
        "worker": workers,
        "worker_init": workers,
    }
    assert items == 10
    assert phases >= sum(phase.count for step in steps for phase in step.phases.values()) > 0
    assert exported_whole(record)
    assert record.export.protocol == protocol
    assert check_same_everywhere(record, tmp_path) == len(steps) == 14
    assert record.trace_id in done.stdout


def check_small(done, cwd, received):
    assert done.returncode == 1, done.stderr
    assert "1 step(s) failed" in done.stderr
    record = read_run(str(cwd / "run.json"))
    check_run(record)
    kinds = check_received(received(record), record, "exp")
    assert {kind for kind, count in kinds.items() if count} == {
        *("run", "level", "step", "queue", "load", "task", "verify", "store", "backoff", "phase", "fan_out", "gate", "worker", "worker_init", ""),
    }
    assert kinds["task"] == 6 + 3  # two, use, flaky twice, broken; three items
    assert kinds["gate"] == len(record.gates) == 3
    assert exported_whole(record)
    assert check_same_everywhere(record, cwd) == 5
    return record


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf", "http/json"])
def test_every_kind_of_span_in_the_receiver(tmp_path, receiver, protocol):
    """Retries, gates, verifications, failures, fan-outs and spans of the user's own arrive as they stand in the spool, by each protocol."""
    (tmp_path / "exp.py").write_text(SMALL, encoding="utf-8")
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    done = run_script("exp.py", cwd=tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol, **PATIENCE)
    record = check_small(done, tmp_path, lambda _: receiver.spans)
    assert record.export.protocol == protocol


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_every_kind_of_span_through_a_real_collector(tmp_path, rotel, protocol):
    """A collector that is not ours takes the run's spans and passes every one on, once, unchanged."""
    agent, server = rotel
    (tmp_path / "exp.py").write_text(SMALL, encoding="utf-8")
    endpoint = agent.grpc_endpoint if protocol == "grpc" else agent.http_endpoint
    done = run_script("exp.py", cwd=tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol, **PATIENCE)

    def received(record):
        server.wait_for(len(recorded_spans(record)))
        return server.spans

    check_small(done, tmp_path, received)


def test_a_sampled_out_run_is_recorded_and_not_sent(tmp_path, receiver):
    """The sampler decides about export alone: nothing arrives, and the record is as whole as ever."""
    (tmp_path / "exp.py").write_text(SMALL, encoding="utf-8")
    done = run_script("exp.py", cwd=tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.grpc_endpoint, OTEL_TRACES_SAMPLER="always_off", **PATIENCE)
    assert done.returncode == 1, done.stderr
    record = read_run(str(tmp_path / "run.json"))
    check_run(record)
    assert receiver.requests == []
    assert record.export.endpoint is None
    assert Path(record.run_folder, "spans").is_dir()
