"""Whole runs on Ray: held against the same checks as all others, and against the same experiment in worker processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from support import ray_skewed, ray_steps
from support.run_checks import check_run, statuses, step_named

from otel_exec import StepsFailed, read_run
from otel_exec.record.run_store import RunStore, list_runs
from otel_exec.testing import recorded_spans, run_in

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]


def _gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _kill_after(path, monkeypatch):
    """Have attempts killed only when that is there, and a moment more."""
    from otel_exec.execute.on_ray import RayExecutor

    kill = RayExecutor.kill

    def late(executor, node_id, attempt):
        ray_steps.wait_until(path)
        time.sleep(0.3)  # the worker could write all that it must not write
        kill(executor, node_id, attempt)

    monkeypatch.setattr(RayExecutor, "kill", late)


def _wait_until_gone(*paths):
    """Wait until the processes are gone whose pids lie there; what was ended before it could start one has none."""
    deadline = time.monotonic() + 30
    while not all(_gone(int(path.read_text())) for path in paths if path.exists()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_worker_that_dies_costs_its_attempt(tmp_path):
    """SIGKILL in mid attempt: an error span with worker_died that keeps the phases told before, and a second attempt that is linked to it and succeeds."""
    record = run_in(tmp_path, ray_steps.dying(str(tmp_path / "x")), executor="ray", grace_s=1.0)
    trace = check_run(record)
    assert record.config["workers"] == record.executor.workers == 3  # the cluster's CPUs: nobody had said how many
    died = step_named(record, "dies once")
    assert [attempt.outcome for attempt in died.attempts] == ["error", "success"]
    assert died.attempts[0].error.type == "worker_died"
    first, second = trace.of("task", node_name="dies once")
    assert first.attributes["error.type"] == "worker_died"
    assert [(link.span_id, link.edge) for link in second.links] == [(first.span_id, "retry")]
    assert [span.name for span in trace.of("phase", exec_attempt=1)] == ["early", "late"]
    dead = next(worker for worker in record.workers if worker.died)
    assert (dead.worker_id, dead.host, len(dead.node)) == (died.attempts[0].worker_id, os.uname().nodename, 56)


def test_a_home_actor_that_dies_costs_nothing(tmp_path, monkeypatch, shared_ray):
    """SIGKILL of its process while it holds what no driver has: workers tell it again, numbers are given once, and no result waits for what does not come."""
    from otel_exec.execute import on_ray
    from otel_exec.execute.ray_line import HomeLine

    monkeypatch.setattr(on_ray, "_PATIENCE_S", 600.0)
    path, take, killed = str(tmp_path / "x"), HomeLine._take, []

    def kill(line):
        ray_steps.wait_until(path + ".held")
        killed.append(shared_ray.get(line._actor.__ray_call__.remote(lambda _: os.getpid())))
        os.kill(killed[0], signal.SIGKILL)
        ray_steps.first_time(path + ".killed")
        line._later(lambda: take(line))

    def asks_late(line):
        if os.path.exists(path + ".begun") and not killed:
            killing.start()
        else:
            take(line)

    killing = threading.Thread(target=lambda: kill(lines[0]))
    lines = []
    monkeypatch.setattr(HomeLine, "_take", lambda line: (lines.append(line), asks_late(line)))
    record = run_in(tmp_path, [ray_steps.telling(path)], executor="ray", timeout_s=200.0)
    trace = check_run(record)
    assert (record.outcome, len(killed)) == ("success", 1)
    assert Counter(span.name for span in trace.of("phase")) == {"told": 1}
    assert not [warning for warning in record.warnings if "spans" in warning.code]
    ids = [worker.worker_id for worker in record.workers]
    assert len(ids) == len(set(ids)) == len({worker.pid for worker in record.workers})


def test_an_item_whose_worker_dies_is_tried_again(tmp_path):
    """The fan-out goes on; the item's lost attempt is an error span under the phase that called."""
    record = run_in(tmp_path, ray_steps.fanning(str(tmp_path / "y")), executor="ray")
    trace = check_run(record)
    items = [span for span in trace.of("task") if "/" in span.attributes["exec.task.id"]]
    assert [span.attributes["exec.outcome"] for span in items] == ["error", "success"]
    assert items[0].attributes["error.type"] == "worker_died"
    assert {trace.parent(span).name for span in items} == {"fan"}
    assert len({span.attributes["exec.worker.id"] for span in items}) == 2
    assert [worker.worker_id for worker in record.workers if worker.died] == [items[0].attributes["exec.worker.id"]]


def test_the_users_exception_arrives_as_itself(tmp_path):
    """No wrapper of Ray's is left around it."""
    with pytest.raises(StepsFailed) as caught:
        run_in(tmp_path, ray_steps.failing("z"), executor="ray")
    assert type(caught.value.__cause__) is LookupError
    assert step_named(caught.value.record, "fails").error.type == "LookupError"


def test_a_timeout_ends_the_task_and_what_it_started(tmp_path):
    """The attempt is a timeout, and the process that it had started is gone; where its worker lets no other thread run as well: it can't obey, nor does Ray's own force reach it."""
    hung, held, item = (tmp_path / name for name in ("hung", "held", "item"))
    steps = [ray_steps.hanging(str(hung)), ray_steps.holding(str(held)), ray_steps.holding_in_an_item(str(item))]
    with pytest.raises(StepsFailed) as caught:
        run_in(tmp_path, steps, executor="ray", fail_fast=False)
    check_run(caught.value.record)
    assert {step_named(caught.value.record, name).error.type for name in ("hangs", "holds")} == {"timeout"}
    assert "timeout of 1 s passed" in step_named(caught.value.record, "its item holds").error.message
    _wait_until_gone(hung, held, item)


def test_an_attempt_that_ends_as_it_begins_hears_that_it_is_too_late(tmp_path, monkeypatch):
    """Past its timeout before it was told of to anybody, as a rule: its worker listens, and ends with what the attempt had started; nothing is forced."""
    from otel_exec.execute import on_ray

    monkeypatch.setattr(on_ray, "_OBEY_S", 600.0)
    path = tmp_path / "pid"
    _kill_after(path, monkeypatch)
    with pytest.raises(StepsFailed) as caught:
        run_in(tmp_path, ray_steps.soon_overdue(str(path)), executor="ray", grace_s=60.0)
    assert step_named(caught.value.record, "is soon late").error.type == "timeout"
    _wait_until_gone(path)


def test_a_function_that_ends_past_its_timeout_before_its_worker_does_is_a_timeout(tmp_path, monkeypatch):
    """Word travels: where the function has returned before its worker is told to end, the driver alone settles the attempt, in spans, files and record."""
    _kill_after(tmp_path / "x.over", monkeypatch)
    with pytest.raises(StepsFailed) as caught:
        run_in(tmp_path, ray_steps.overdue(str(tmp_path / "x")), executor="ray")
    check_run(caught.value.record)
    (attempt,) = step_named(caught.value.record, "is late").attempts
    assert (attempt.outcome, attempt.error.type) == ("timeout", "timeout")
    assert statuses(step_named(caught.value.record, "is late")) == ["RUNNING", "FAILED"]


def test_what_no_node_has_is_said_while_it_waits(tmp_path, monkeypatch):
    """The record's warning names the resource, how much of it there is and what the nodes have; the status says it as long as the step waits."""
    statuses, write = [], RunStore.write_status

    def write_until_it_is_said(store, status):
        write(store, status)
        statuses.append(status)
        if status.waiting and not any(each.waiting for each in statuses[:-1]):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunStore, "write_status", write_until_it_is_said)
    with pytest.raises(KeyboardInterrupt):
        run_in(tmp_path, ray_steps.wanting(str(tmp_path / "x")), executor="ray", timeout_s=200.0)
    record = read_run(list_runs(str(tmp_path / "outputs"))[-1])
    (warning,) = [each for each in record.warnings if each.code == "not_schedulable"]
    assert (record.outcome, statuses[-1].state, statuses[-1].waiting) == ("cancellation", "cancellation", [])
    (waits,) = {(each.name, each.why) for status in statuses for each in status.waiting}
    assert waits[0] == "wants unobtainium"
    assert warning.message == ": ".join(waits)
    assert "wants unobtainium: no node of the Ray cluster has 1 of unobtainium (the most that a node has is 0)" in warning.message
    assert "CPU 3" in warning.message
    assert warning.message.endswith("; its timeout of 600 s begins when it does")


def test_two_runs_at_once_in_one_cluster(tmp_path):
    """Both end, with their own workers' numbers, spans and files."""
    records = {}

    def one(name):
        records[name] = run_in(tmp_path / name, ray_steps.fanning(str(tmp_path / name / "y")), executor="ray")

    threads = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        threads.append(threading.Thread(target=one, args=(name,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert {record.outcome for record in records.values()} == {"success"}
    for record in records.values():
        assert {span.trace_id for span in recorded_spans(record)} == {record.trace_id}


def test_calls_of_the_users_own_remote_code_belong_to_the_trace(tmp_path):
    """traced(), once or twice: functions, generators, actors and async actors are spans under the phase that called, as the user's own; what they time lies in them and in no numbers."""
    record = run_in(tmp_path, ray_steps.using_ray("w"), executor="ray")
    trace = check_run(record)
    calls = [span for span in trace.of("") if span.name.startswith("ray ")]
    made = {"ray Adder.__init__": 1, "ray Waiter.__init__": 1}
    assert Counter(span.name for span in calls) == {"ray double": 2, "ray count": 1, "ray Adder.add": 1, "ray Waiter.wait": 1, **made}
    assert {trace.parent(span).name for span in calls} == {"ours"}
    assert Counter(trace.parent(span).name for span in trace.of("") if span.name == "doubling") == {"ray double": 2}
    assert set(step_named(record, "uses ray").phases) == {"ours"}


def test_what_is_traced_does_what_it_did(tmp_path):
    """Methods that call each other, are called back, are static or a class's, `__call__`, arguments that are wrong: as without traced()."""
    record = run_in(tmp_path, [ray_steps.odd_actors(str(tmp_path / "told"), by_reference=True)], executor="ray")
    plain, traced = json.loads((tmp_path / "told").read_text())
    assert traced == plain
    assert plain[:2] == [[7, 19, 25, "set up"], [1, 2]]
    calls = Counter(span.name for span in check_run(record).of("") if span.name.startswith("ray "))
    names = ["ray guarded", "ray Many.__init__", "ray Many.all", *(f"ray Odd.{name}" for name in ("__init__", "through", "shape", "kind", "__call__", "both"))]
    assert calls == dict.fromkeys(names, 1)


@pytest.mark.parametrize("executor", ["processes", "threads"])
def test_what_is_traced_works_in_runs_that_are_not_on_ray(tmp_path, executor, shared_ray, monkeypatch):
    """There is no home actor to take spans: calls are what they are outside of a run."""
    monkeypatch.setenv("RAY_ADDRESS", shared_ray.get_runtime_context().gcs_address)
    record = run_in(tmp_path, [ray_steps.odd_actors(str(tmp_path / "told"), by_reference=False)], executor=executor)
    plain, traced = json.loads((tmp_path / "told").read_text())
    assert traced == plain
    assert not check_run(record).of("")


def test_a_traced_actor_outlives_its_run(tmp_path, shared_ray):
    """Detached, it goes on, found by its name, and starts again when its process ends: nothing of it needs the run that made it."""
    run_in(tmp_path, [ray_steps.leaving("counter")], executor="ray")
    counter = shared_ray.get_actor("counter", namespace="left")
    try:
        assert shared_ray.get(counter.count.remote()) == 2
        with pytest.raises(shared_ray.exceptions.RayActorError):
            shared_ray.get(counter.end.remote())
        assert shared_ray.get(counter.count.options(max_task_retries=-1).remote(), timeout=120) == 1
    finally:
        shared_ray.kill(counter)


def test_a_remote_function_keeps_its_options_where_its_step_says_nothing_else(tmp_path, shared_ray):
    """deferred(ray.remote(...)(fn)): its runtime_env and memory hold, the step's own num_cpus goes before it, and what remains is Ray's own."""
    variables = {"env_vars": {"OF_THE_STEP": "yes"}}
    remote = shared_ray.remote(num_cpus=1, memory=50_000_000, runtime_env=variables, max_retries=7)
    record = run_in(tmp_path, ray_steps.carrying(remote, str(tmp_path / "said")), executor="ray")
    check_run(record)
    said = json.loads((tmp_path / "said").read_text())
    assert said["variable"] == "yes"
    assert (said["resources"]["CPU"], said["resources"]["memory"]) == (2.0, 50_000_000.0)


def _shape(record):
    """The set of spans without what differs from run to run: (kind, name, parent's name, links' names)."""
    spans = {span.span_id: span for span in recorded_spans(record)}
    found = Counter()
    for span in spans.values():
        if span.kind in {"worker", "worker_init"}:
            continue
        parent = spans.get(span.parent_span_id)
        links = tuple(sorted(spans[link.span_id].name for link in span.links if link.span_id in spans))
        found[span.kind, span.name, parent.name if parent else "", links] += 1
    return found


def _keys(value, where=""):
    if isinstance(value, dict):
        return {where} | {key for name, part in value.items() for key in _keys(part, f"{where}.{name}")}
    if isinstance(value, list):
        return {where} | {key for part in value for key in _keys(part, where + "[]")}
    return {where}


def test_the_example_is_the_same_on_ray_as_in_processes(tmp_path, shared_ray):
    """examples/lm_pipeline.py: the same outputs, byte for byte, the same spans with the same parents and links, the same keys in the record."""
    address = shared_ray.get_runtime_context().gcs_address
    records, outputs = {}, {}
    for executor in ("processes", "ray"):
        place = tmp_path / executor
        place.mkdir()
        command = [sys.executable, str(ROOT / "examples" / "lm_pipeline.py"), "--small", "--executor", executor, "--prefix", str(place / "out")]
        environ = {**os.environ, "RAY_ADDRESS": address, "OTEL_EXEC_PREFIX": ""}
        subprocess.run([*command, "--run-json", str(place / "run.json")], check=True, cwd=place, env=environ, capture_output=True, timeout=400)
        records[executor] = read_run(str(place / "run.json"))
        found = {
            path.relative_to(place / "out"): path
            for path in (place / "out").rglob("*")
            if path.is_file() and ".e" not in str(path) and ".otel" not in str(path)
        }
        outputs[executor] = {str(name): path.read_bytes().replace(str(place).encode(), b"") for name, path in found.items()}
    assert outputs["ray"].keys() == outputs["processes"].keys()
    assert {name for name in outputs["ray"] if outputs["ray"][name] != outputs["processes"][name]} == set()
    assert _shape(records["ray"]) == _shape(records["processes"])
    one, other = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("ray", "processes"))
    volatile = (".warnings", ".environment", ".experiment", "helped", ".attempts[].error", ".exact", ".workers[].died")
    difference = {key for key in _keys(one) ^ _keys(other) if not any(word in key for word in volatile)}
    assert difference == set()


def test_a_node_whose_clock_is_wrong(tmp_path, shared_ray):
    """Workers whose wall clock is an hour ahead: the record says so and by how much, their spans stand where they belong, and no number is negative."""
    environ = {**os.environ, "RAY_ADDRESS": shared_ray.get_runtime_context().gcs_address}
    began_ns = time.time_ns()
    subprocess.run([sys.executable, ray_skewed.__file__, str(tmp_path)], check=True, cwd=tmp_path, env=environ, timeout=300)
    ended_ns = time.time_ns()
    record = read_run(str(tmp_path / "run.json"))
    (said,) = [warning for warning in record.warnings if warning.code == "clock_skew"]
    ahead_s, within_ms = (float(number) for number in re.search(r"is ([0-9.]+) s ahead of the driver's \(to within ([0-9.]+) ms\)", said.message).groups())
    assert abs(ahead_s - ray_skewed.AHEAD_S) <= within_ms / 1e3 + 0.001
    slack_ns = int(within_ms * 1e6) + 1_000_000
    check_run(record, slack_ns=slack_ns)
    assert all(began_ns - slack_ns < span.start_ns <= span.end_ns < ended_ns + slack_ns for span in recorded_spans(record))
    assert all(each.phases["nap"].count == 4 for each in record.steps)


def test_neither_ray_s_end_of_a_process_nor_its_wrapper_is_the_step_s_error(tmp_path):
    """A worker that Ray tells to end, as it does where a driver died, is one that died, and no step's SystemExit; what a Ray task of the user's own raised is told as itself."""
    with pytest.raises(StepsFailed) as caught:
        run_in(tmp_path, [ray_steps.told_to_end(str(tmp_path / "x")), ray_steps.raised_there(str(tmp_path / "x"))], executor="ray")
    record = caught.value.record
    check_run(record)
    told = step_named(record, "told to end")
    assert [(attempt.outcome, attempt.error and attempt.error.type) for attempt in told.attempts] == [("error", "worker_died"), ("success", None)]
    error = step_named(record, "raised there").error
    assert (error.type, error.message) == ("LookupError", "inside ray")
    assert "\x1b" not in error.traceback
    assert "raise_there" in error.traceback
