"""Whole runs in odd places: prefixes that refuse, memory, other threads, event loops, strange names; with the user's own OpenTelemetry."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import uuid

import pytest
from opentelemetry import trace as api
from support.run_checks import EXECUTORS, Trace, check_run, outcomes, step_named

from otel_exec import RecordError, deferred, output, phase, run, step, versioned
from otel_exec.cli.main import main
from otel_exec.testing import run_in


def _count(config):
    with phase("count"), open(os.path.join(config["folder"], "count"), "a") as file:
        file.write("x")


count = deferred(_count)


@step("count/{name}")
def counted(name, folder, after=None):
    return count({"name": versioned(name), "folder": folder, "after": after})


def times(folder):
    path = os.path.join(str(folder), "count")
    return os.path.getsize(path) if os.path.exists(path) else 0


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_prefix_that_cannot_be_written_stops_before_anything_runs(tmp_path, executor):
    """The error names the prefix, its exit code is 4, and nothing was run."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RecordError) as caught:
        run([counted("a", str(tmp_path))], prefix=str(tmp_path / "file" / "outputs"), run_json=str(tmp_path / "run.json"), executor=executor)
    assert caught.value.exit_code == 4
    assert times(tmp_path) == 0


@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_outputs_in_memory_are_cached_in_the_same_process(tmp_path, executor):
    """`memory://` holds step files and the run's folder; the second run of the same process runs nothing."""
    prefix = f"memory://{uuid.uuid4().hex}"
    for expected in (False, True):
        record = run([counted("a", str(tmp_path))], prefix=prefix, run_json=str(tmp_path / "run.json"), executor=executor)
        assert record.outcome == "success"
        assert record.steps[0].cached is expected
        assert record.steps[0].output_path.startswith(prefix)
        assert record.run_folder.startswith(prefix)
        check_run(record, files=False)
    assert times(tmp_path) == 1


def test_processes_refuse_a_prefix_in_memory(tmp_path):
    """Another process would not see what is written there: that is said before anything runs."""
    with pytest.raises(Exception, match="memory://"):
        run([counted("a", str(tmp_path))], prefix="memory://nowhere", run_json=str(tmp_path / "run.json"), executor="processes")
    assert times(tmp_path) == 0


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_run_in_another_thread(tmp_path, executor):
    """`run` needs no main thread."""
    records = []
    thread = threading.Thread(target=lambda: records.append(run_in(tmp_path, [counted("a", str(tmp_path))], executor=executor)))
    thread.start()
    thread.join()
    check_run(records[0])


@pytest.mark.parametrize("executor", EXECUTORS)
def test_two_runs_at_once_in_one_process(tmp_path, executor):
    """Two runs in two threads keep their spans, files and records apart."""
    records = {}
    together = threading.Barrier(2)

    def start(name):
        folder = tmp_path / name
        folder.mkdir()
        together.wait()
        records[name] = run_in(folder, [counted(f"{name}{number}", str(folder)) for number in range(4)], executor=executor, workers=2)

    threads = [threading.Thread(target=start, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in "ab":
        trace = check_run(records[name])
        assert times(tmp_path / name) == 4
        assert len(trace.of("phase")) == 4
        assert set(outcomes(records[name])) == {f"count/{name}{number}" for number in range(4)}


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_run_inside_a_running_event_loop(tmp_path, executor):
    """`run` may be called where an event loop runs, as in a notebook; steps may run loops of their own."""

    async def inside():
        async with phase("nested"):
            await asyncio.sleep(0)

    def _loop(config):
        asyncio.run(inside()) if executor != "inline" else None
        with phase("after"):
            pass

    looped = deferred(_loop)

    @step("loop")
    def loop():
        return looped({"path": output()})

    async def main_coroutine():
        return run_in(tmp_path, [loop()], executor=executor)

    trace = check_run(asyncio.run(main_coroutine()))
    assert {span.name for span in trace.of("phase")} == ({"nested", "after"} if executor != "inline" else {"after"})


@pytest.mark.parametrize("executor", EXECUTORS)
def test_spaces_and_other_scripts_in_names_and_paths(tmp_path, executor):
    """Names and paths may hold spaces and any script."""
    folder = tmp_path / "mit Leerzeichen" / "données 数据"
    folder.mkdir(parents=True)
    record = run_in(folder, [counted("größe 漢字", str(folder))], executor=executor, name="Versuch № 1")
    trace = check_run(record)
    assert trace.one("run").name == "run Versuch № 1"
    assert record.steps[0].name == "count/größe 漢字"
    assert os.path.isdir(record.steps[0].output_path)


def _traced(config):
    tracer = api.get_tracer("users.own")
    with phase("outer"):
        with tracer.start_as_current_span("request", attributes={"http.request.method": "GET"}) as span:
            span.add_event("sent")
            with phase("inner"):
                pass


traced = deferred(_traced)


@step("traced")
def traced_one(path):
    return traced({"path": path})


_SCRIPT = """
from otel_exec import deferred, executor_main, phase, step
from opentelemetry import trace as api

def _traced(config):
    with phase("outer"):
        with api.get_tracer("users.own").start_as_current_span("request", attributes={"http.request.method": "GET"}) as span:
            span.add_event("sent")
            with phase("inner"):
                pass

traced = deferred(_traced)

@step("traced")
def traced_one():
    return traced({})

if __name__ == "__main__":
    executor_main(steps=[traced_one()])
"""


@pytest.mark.parametrize("executor", EXECUTORS)
def test_spans_of_the_users_own_join_under_their_phase(tmp_path, executor):
    """What the step's code traces by OpenTelemetry's API lies in the run's trace, between the phases around and inside it."""
    import subprocess
    import sys

    from otel_exec import read_run

    (tmp_path / "exp.py").write_text(_SCRIPT)
    done = subprocess.run([sys.executable, "exp.py", "--executor", executor], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    record = read_run(str(tmp_path / "run.json"))
    trace = check_run(record)
    request = trace.one("")
    assert request.name == "request"
    assert request.scope == "users.own"
    assert request.attributes["http.request.method"] == "GET"
    assert [event[1] for event in request.events] == ["sent"]
    assert trace.parent(request).name == "outer"
    assert trace.parent(trace.one("phase", exec_phase="inner")) is request


@pytest.mark.parametrize("executor", EXECUTORS)
def test_our_spans_go_through_a_provider_that_is_given(tmp_path, executor):
    """With `tracer_provider` each of our spans passes its processors once, with the ids, times and links of the spool."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    memory = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    first = counted("a", str(tmp_path))
    record = run_in(tmp_path, [counted("b", str(tmp_path), first)], executor=executor, tracer_provider=provider)
    trace = check_run(record)
    exported = memory.get_finished_spans()
    assert len(exported) == len(trace.spans)
    for span in exported:
        ours = trace.by_id[f"{span.context.span_id:016x}"]
        assert f"{span.context.trace_id:032x}" == ours.trace_id == record.trace_id
        assert (span.name, span.start_time, span.end_time) == (ours.name, ours.start_ns, ours.end_ns)
        assert (f"{span.parent.span_id:016x}" if span.parent else "") == ours.parent_span_id
        assert len(span.links) == len(ours.links)
        assert span.attributes["exec.kind"] == ours.kind
    assert record.export.endpoint is None


def test_the_summary_tells_the_same_numbers(tmp_path, capsys):
    """`otel-exec summary --json` shows each step's times as they stand in the record and the spool."""
    record = run_in(tmp_path, [counted("b", str(tmp_path), counted("a", str(tmp_path)))], executor="threads")
    trace = check_run(record)
    assert main(["summary", str(tmp_path / "run.json"), "--json"]) in {0, None}
    told = json.loads(capsys.readouterr().out)
    rows = {row["node_id"]: row for row in told["steps"]}
    for node in record.steps:
        row = rows[node.node_id]
        assert row["execution_ns"] == trace.one("task", node_id=node.node_id).duration_ns
        assert row["total_ns"] == trace.one("step", node_id=node.node_id).duration_ns
    assert told["critical_path"]["duration_ns"] == sum(step_named(record, name).attempts[0].execution_ns for name in ("count/a", "count/b"))
    assert Trace(record).one("run").duration_ns == record.duration_ns
