"""Whole runs: caching, failure, retries, timeouts, verification, gates, limits, locks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.run_checks import EXECUTORS, check_run, outcomes, statuses, step_named

from otel_exec import StepsFailed, deferred, output, phase, step, versioned
from otel_exec.metrics import MetricsCollector
from otel_exec.record import locks
from otel_exec.record.step_files import read_events
from otel_exec.schedule.retries import RetryPolicy
from otel_exec.testing import recorded_spans, run_in


def _note(config):
    """Leave a line behind: what was run is seen by who left one."""
    with open(os.path.join(config["folder"], config["name"]), "a") as file:
        file.write("ran\n")
    if config.get("error"):
        raise config["error"]


note = deferred(_note)


@step("{name}")
def noted(name, folder, after=(), value=0, error=None, nonblocking=()):
    return note(
        {"name": name, "folder": folder, "after": list(after), "value": versioned(value), "error": error, "other": [each.nonblocking() for each in nonblocking]}
    )


def chain(folder, value=0):
    """a -> b -> c, and d beside them; b has the versioned value."""
    a = noted("a", folder)
    b = noted("b", folder, [a], value)
    return [noted("c", folder, [b]), noted("d", folder, [a])]


def ran(folder):
    """Return how often each step ran, and forget it."""
    counts = {}
    for name in "abcd":
        path = os.path.join(folder, name)
        if os.path.exists(path):
            with open(path) as file:
                counts[name] = len(file.readlines())
            os.unlink(path)
    return counts


def failed_run(folder, steps, **settings):
    with pytest.raises(StepsFailed) as caught:
        run_in(folder, steps, **settings)
    return caught.value


# Caching.


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_second_run_runs_nothing(tmp_path, executor):
    """What succeeded is taken as it is: the step appears as cached, linked to the run that made it, with its numbers; ancestors are not needed."""
    folder = str(tmp_path)
    first = run_in(tmp_path, chain(folder), executor=executor)
    check_run(first)
    assert ran(folder) == {"a": 1, "b": 1, "c": 1, "d": 1}
    second = run_in(tmp_path, chain(folder), executor=executor)
    trace = check_run(second)
    assert ran(folder) == {}
    assert outcomes(second) == {"a": "skip", "b": "skip", "c": "success", "d": "success"}
    assert second.workers == []
    c, made = step_named(second, "c"), step_named(first, "c")
    assert c.cached
    assert (c.cached_from.exec_id, c.cached_from.trace_id, c.cached_from.span_id) == (first.exec_id, first.trace_id, made.span_id)
    for key in ("scheduled_time", "execution_start_time", "execution_end_time", "duration_seconds", "total_duration_seconds"):
        assert getattr(c.cached_from, key) == getattr(made, key)
        assert getattr(c, key) is None
    span = trace.one("step", node_name="c")
    assert span.duration_ns == 0
    assert span.attributes["exec.cached"] is True
    assert [(link.trace_id, link.span_id) for link in span.links if link.edge == "cached"] == [(first.trace_id, made.span_id)]


def test_a_changed_versioned_value_reruns_its_step_and_what_depends_on_it(tmp_path):
    """Only the step with the value and its downstreams run again; what they need of the rest is cached."""
    folder = str(tmp_path)
    run_in(tmp_path, chain(folder))
    ran(folder)
    record = run_in(tmp_path, chain(folder, value=1))
    check_run(record)
    assert ran(folder) == {"b": 1, "c": 1}
    assert outcomes(record) == {"a": "success", "b": "success", "c": "success", "d": "success"}
    assert [step.name for step in record.steps if step.cached] == ["a", "d"]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_forced_steps_run_again_though_they_succeeded(tmp_path, executor):
    """`force` runs what its regexes find, and nothing else."""
    folder = str(tmp_path)
    run_in(tmp_path, chain(folder), executor=executor)
    ran(folder)
    check_run(run_in(tmp_path, chain(folder), executor=executor, force=["^b$"]))
    assert ran(folder) == {"b": 1}


def test_run_only_runs_what_is_named_and_what_it_needs(tmp_path):
    """`run_only` runs the steps found with their dependencies; the others are not selected."""
    folder = str(tmp_path)
    record = run_in(tmp_path, chain(folder), run_only=["^b$"])
    check_run(record)
    assert ran(folder) == {"a": 1, "b": 1}
    assert {step.name: step.reason for step in record.steps if step.outcome == "skip"} == {"c": "not_selected", "d": "not_selected"}


def test_what_failed_before_runs_again_unless_that_is_switched_off(tmp_path):
    """Without `rerun_failed`, a failed step counts as failed, and what depends on it is not run."""
    folder = str(tmp_path)
    broken = noted("a", folder, error=ValueError("broken"))
    failed_run(tmp_path, [noted("b", folder, [broken])])
    ran(folder)
    again = failed_run(tmp_path, [noted("b", folder, [broken])], rerun_failed=False)
    check_run(again.record)
    assert ran(folder) == {}
    assert outcomes(again.record) == {"a": "failure", "b": "skip"}
    assert step_named(again.record, "a").reason == "failed_previously"
    check_run(run_in(tmp_path, [noted("b", folder, [noted("a", folder)])]))
    assert ran(folder) == {"a": 1, "b": 1}


# Failure.


class OwnError(Exception):
    """An exception of the user's own, with data."""

    def __init__(self, code):
        super().__init__(f"code {code}")
        self.code = code

    def __reduce__(self):
        return (OwnError, (self.code,))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_failure_leaves_other_branches_alone(tmp_path, executor):
    """Downstreams get DEP_FAILED, other branches finish, and the user's own exception is the cause, with a note on where it came from."""
    folder = str(tmp_path)
    a = noted("a", folder, error=OwnError(7))
    error = failed_run(tmp_path, [noted("c", folder, [noted("b", folder, [a])]), noted("d", folder)], executor=executor)
    record = error.record
    check_run(record)
    assert record.outcome == "failure"
    assert ran(folder) == {"a": 1, "d": 1}
    assert outcomes(record) == {"a": "failure", "b": "skip", "c": "skip", "d": "success"}
    assert statuses(step_named(record, "c")) == ["DEP_FAILED"]
    assert step_named(record, "c").reason == "upstream_failed"
    (event,) = [event for event in read_events(step_named(record, "a").output_path) if event.status == "FAILED"]
    assert "code 7" in event.message
    assert event.execution_start_time <= event.execution_end_time
    cause = error.__cause__
    assert type(cause) is OwnError
    assert cause.code == 7
    notes = "\n".join(cause.__notes__)
    assert "step 'a'" in notes
    assert "attempt 1" in notes
    assert record.trace_id in notes
    assert "_note" in notes
    assert str(error) == "1 step(s) failed"


def test_fail_fast_cancels_what_has_not_started(tmp_path):
    """With `fail_fast`, the first failure ends the run; what did not run yet is cancelled."""
    folder = str(tmp_path)
    steps = [noted("a", folder, error=ValueError("no")), *(noted(name, folder) for name in "bcd")]
    record = failed_run(tmp_path, steps, fail_fast=True).record
    check_run(record)
    assert record.outcome == "failure"
    assert ran(folder) == {"a": 1}
    assert {step_named(record, name).outcome for name in "bcd"} == {"cancellation"}
    assert statuses(step_named(record, "b")) == ["CANCELLED"]


@step("again/{name}", retries=1)
def tried_again(name, folder):
    return note({"name": name, "folder": folder, "error": ConnectionError("no")})


def test_a_step_that_is_cancelled_while_it_backs_off_has_its_whole_total(tmp_path, monkeypatch):
    """Its total is from its creation to its cancellation, the back-off included: one number in run.json, on its span and in its metrics."""
    monkeypatch.setattr(RetryPolicy, "backoff_ns", lambda self, attempt: 10**12)
    folder = str(tmp_path)
    record = failed_run(tmp_path, [tried_again("a", folder), noted("b", folder, error=ValueError("no"))], fail_fast=True).record
    step = step_named(record, "again/a")
    (attempt,) = step.attempts
    (span,) = (each for each in recorded_spans(record) if each.span_id == step.span_id)
    assert (step.outcome, attempt.outcome) == ("cancellation", "failure")
    assert step.end_ns - step.start_ns == span.duration_ns == attempt.settled_ns - attempt.created_ns + attempt.backoff_ns
    assert MetricsCollector(record).compute_task_metrics(step.node_id).total_duration_ms == span.duration_ns // 10**6
    assert step.total_duration_seconds == span.duration_ns / 1e9


def _fail_until(config):
    marks = os.path.join(config["folder"], "marks")
    with open(marks, "a") as file:
        file.write("x")
    if os.path.getsize(marks) < config["times"]:
        raise ConnectionError("not yet")


fail_until = deferred(_fail_until)


@step("flaky", retries=2)
def flaky(folder, times):
    return fail_until({"folder": folder, "times": times})


@pytest.mark.parametrize("executor", EXECUTORS)
def test_each_attempt_is_kept_and_the_status_file_tells_one_story(tmp_path, executor):
    """Retries are attempts of their own with a back-off between; RUNNING stands once, dated at created, and one last event."""
    record = run_in(tmp_path, [flaky(str(tmp_path), 2)], executor=executor)
    check_run(record)
    node = step_named(record, "flaky")
    assert [attempt.outcome for attempt in node.attempts] == ["failure", "success"]
    assert node.attempts[0].error.type == "ConnectionError"
    assert node.attempts[0].backoff_ns > 100_000_000
    assert node.attempts[1].backoff_ns is None
    assert statuses(node) == ["RUNNING", "SUCCESS"]
    assert node.error is None


def test_retries_come_to_an_end(tmp_path):
    """After the last retry the step has failed."""
    record = failed_run(tmp_path, [flaky(str(tmp_path), 99)]).record
    check_run(record)
    assert [attempt.outcome for attempt in step_named(record, "flaky").attempts] == ["failure"] * 3
    assert statuses(step_named(record, "flaky")) == ["RUNNING", "FAILED"]


# Time.


def _sleep_until(config):
    with phase("waiting"):
        for _ in range(config["tenths"] * 10):  # in small pieces: threads can be told to end between them
            threading.Event().wait(0.01)


sleep_until = deferred(_sleep_until)


@step("slow", timeout=0.5)
def slow(tenths):
    return sleep_until({"tenths": tenths})


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_step_past_its_timeout_is_a_timeout(tmp_path, executor):
    """Its outcome is `timeout`, its status FAILED, its error.type `timeout`, with the times that are known."""
    record = failed_run(tmp_path, [slow(8)], executor=executor).record
    trace = check_run(record)
    node = step_named(record, "slow")
    assert (node.outcome, node.status, node.error.type) == ("timeout", "FAILED", "timeout")
    assert trace.one("task").attributes["error.type"] == "timeout"
    begun = node.duration_seconds > 0  # a slow machine may spend the time on loading the function
    assert len(trace.of("phase")) == begun
    assert begun or executor == "processes"
    if executor == "processes":
        assert len(record.workers) == record.executor.workers  # the run was over: nobody needed another one
    if executor == "threads":
        assert any(warning.code == "abandoned" for warning in record.warnings)


def _stubborn(config):
    """Go on past the timeout, told or not, and leave a mark behind the phase."""
    with phase("stubborn"):
        for _ in range(4):
            try:
                for _ in range(25):
                    threading.Event().wait(0.01)
            except KeyboardInterrupt:
                continue
    with open(os.path.join(config["folder"], "over"), "w"):
        pass


def _until_over(config):
    for _ in range(1000):
        if os.path.exists(os.path.join(config["folder"], "over")):
            return
        threading.Event().wait(0.01)


stubborn, until_over = deferred(_stubborn), deferred(_until_over)


def test_what_an_abandoned_thread_still_does_is_not_written(tmp_path):
    """A thread past its timeout goes on, but its phase ends with its attempt, once; its lock is let go when it has ended."""

    @step("stubborn", timeout=0.5)
    def one():
        return stubborn({"folder": str(tmp_path)})

    @step("beside")
    def beside():
        return until_over({"folder": str(tmp_path)})

    record = failed_run(tmp_path, [one(), beside()], executor="threads", workers=2).record
    trace = check_run(record)
    assert outcomes(record) == {"stubborn": "timeout", "beside": "success"}
    ended = trace.one("phase")
    assert ended.attributes["exec.outcome"] == "timeout"
    assert ended.end_ns == trace.one("task", node_name="stubborn").end_ns


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_a_timeout_ends_a_verification_too(tmp_path, executor):
    """What was verified when the time was up has its task and its verification, and failed by its timeout; nothing is written twice."""

    def verify(config, path):
        for _ in range(100):
            threading.Event().wait(0.01)

    @step("verified", timeout=0.4, verify=verify)
    def verified():
        return sleep_until({"tenths": 0})

    record = failed_run(tmp_path, [verified()], executor=executor).record
    trace = check_run(record)
    node = step_named(record, "verified")
    assert (node.outcome, node.error.type) == ("timeout", "timeout")
    assert statuses(node) == ["RUNNING", "FAILED"]
    if trace.of("verify"):  # a slow machine may not have come so far
        assert trace.one("verify").attributes["error.type"] == "timeout"
        assert trace.one("task").attributes["exec.outcome"] == "success"


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_runs_timeout_ends_it(tmp_path, executor):
    """Past `timeout_s` of the run, what runs is cancelled and the run comes to `timeout`."""

    @step("long")
    def long():
        return sleep_until({"tenths": 5})

    @step("after")
    def after(above):
        return sleep_until({"tenths": 0, "above": above})

    record = failed_run(tmp_path, [after(long())], executor=executor, timeout_s=0.6 if executor == "processes" else 0.2, grace_s=1).record
    check_run(record)
    assert record.outcome == "timeout"
    assert step_named(record, "after").outcome == "cancellation"
    if executor != "inline":
        assert step_named(record, "long").outcome == "cancellation"


# Verification and gates.


def _returns_false(config, path):
    return False


def _raises(config, path):
    raise LookupError(path)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(
    ("verify", "error_type"),
    [
        (["test", "-d", "{output_path}"], None),
        ("test -d {output_path}", None),
        (lambda config, path: os.path.isdir(path), None),
        (["test", "-e", "{output_path}/nothing"], "verify_failed"),
        ("false", "verify_failed"),
        (_returns_false, "verify_failed"),
        (_raises, "LookupError"),
    ],
)
def test_outputs_are_verified(tmp_path, executor, verify, error_type):
    """A verification is an argv, a string or a function; it has a span of its own, and a step whose output it refuses has failed."""

    @step("verified", verify=verify)
    def verified():
        return sleep_until({"tenths": 0, "out": output()})

    record = run_in(tmp_path, [verified()], executor=executor) if error_type is None else failed_run(tmp_path, [verified()], executor=executor).record
    trace = check_run(record)
    span = trace.one("verify")
    node = step_named(record, "verified")
    assert node.attempts[0].verification_ns == span.duration_ns
    assert span.attributes.get("error.type") == error_type
    assert node.outcome == ("success" if error_type is None else "failure")


def test_a_failing_gate_ends_the_run(tmp_path):
    """What lies behind a gate that fails is not run, and is DEP_FAILED; gates are told the level."""
    levels = []

    def gate(level):
        levels.append(level)
        return level < 2

    folder = str(tmp_path)
    a = noted("a", folder)
    b = noted("b", folder, [a])
    error = failed_run(tmp_path, [noted("c", folder, [b])], gates=[gate])
    trace = check_run(error.record)
    assert levels == [1, 2]
    assert ran(folder) == {"a": 1, "b": 1}
    assert [(gate.name, gate.level, gate.outcome) for gate in error.record.gates] == [("gate", 1, "success"), ("gate", 2, "failure")]
    assert step_named(error.record, "c").reason == "gate_failed"
    assert statuses(step_named(error.record, "c")) == ["DEP_FAILED"]
    assert [span.attributes["exec.outcome"] for span in trace.of("gate")] == ["success", "failure"]
    assert "gate" in str(error)


def test_a_barrier_holds_the_next_level_back(tmp_path):
    """With `barrier`, no step of a level starts before all of the level before have settled."""
    folder = str(tmp_path)
    a, b = noted("a", folder), noted("b", folder, error=ValueError("no"))
    record = failed_run(tmp_path, [noted("c", folder, [a]), b], executor="threads", workers=2, barrier=True).record
    check_run(record)
    assert outcomes(record) == {"a": "success", "b": "failure", "c": "success"}
    assert step_named(record, "c").start_ns > max(step_named(record, name).end_ns for name in "ab")


# Limits.


def _meet(config):
    """Say that it is here, and whether another one is."""
    here = os.path.join(config["folder"], f"here-{config['name']}")
    with open(here, "w"):
        pass
    present = [name for name in os.listdir(config["folder"]) if name.startswith("here-")]
    threading.Event().wait(0.05)
    present += [name for name in os.listdir(config["folder"]) if name.startswith("here-")]
    os.unlink(here)
    if len(set(present)) > config["at_most"]:
        raise AssertionError(f"{sorted(set(present))} ran at once")


meet = deferred(_meet)


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_max_concurrent_bounds_what_runs_at_once(tmp_path, executor):
    """However many workers there are, `max_concurrent` steps run at once."""

    @step("m/{name}")
    def one(name):
        return meet({"folder": str(tmp_path), "name": name, "at_most": 1})

    check_run(run_in(tmp_path, [one(name) for name in "abc"], executor=executor, workers=3, max_concurrent=1))


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_custom_resources_bound_what_runs_at_once(tmp_path, executor):
    """Steps that share a custom resource wait for each other."""

    @step("r/{name}", resources={"licence": 1})
    def one(name):
        return meet({"folder": str(tmp_path), "name": name, "at_most": 1})

    check_run(run_in(tmp_path, [one(name) for name in "abc"], executor=executor, workers=3, resources={"licence": 1}))


# Locks.

_HOLDER = """
import sys
from otel_exec.metrics import MetricsCollector
from otel_exec.record import locks
from otel_exec.record.step_files import StatusEvent, append_event, write_info
path, exec_id = sys.argv[1:]
me = locks.driver_id(exec_id)
assert locks.acquire(path, me).taken
print(me, flush=True)
word = sys.stdin.readline().strip()
if word:
    append_event(path, StatusEvent(date="2026-01-01T00:00:00+00:00", status=word, exec_id=exec_id, trace_id="ab" * 16, span_id="cd" * 8))
    write_info(path, b'{"duration_seconds": 1.5}')
locks.release(path, me)
print("gone", flush=True)
"""


class Holder:
    """Another process that holds a step's lock until it is told how the step ended there."""

    def __init__(self, path):
        self.exec_id = "exec_" + "12" * 16
        self.process = subprocess.Popen([sys.executable, "-c", _HOLDER, path, self.exec_id], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name = self.process.stdout.readline().strip()

    def end(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("word", ["SUCCESS", ""])
def test_a_step_that_another_run_has_is_waited_for(tmp_path, executor, word):
    """The run says WAITING and who holds the lock; then the step is cached where the other run made it, and run where it did not."""
    folder = str(tmp_path)
    run_in(tmp_path, [noted("a", folder)])
    path = next((tmp_path / "outputs").glob("a-*"))
    Path(path, ".executor_status").unlink()
    ran(folder)
    holder = Holder(str(path))

    def end_when_waited_for():
        until = threading.Event()
        for _ in range(1000):
            if "WAITING" in [event.status for event in read_events(str(path))]:
                break
            until.wait(0.01)
        holder.end(word)

    teller = threading.Thread(target=end_when_waited_for)
    teller.start()
    try:
        record = run_in(tmp_path, [noted("b", folder, [noted("a", folder)])], executor=executor)
    finally:
        teller.join()
        holder.close()
    trace = check_run(record)
    wait = trace.one("wait")
    assert wait.attributes["exec.lock.holder"] == holder.name
    assert wait.duration_ns > 0
    node = step_named(record, "a")
    assert node.attempts[0].wait_ns == wait.duration_ns
    assert node.outcome == step_named(record, "b").outcome == "success"
    if word:
        assert node.cached
        assert (node.cached_from.exec_id, node.cached_from.duration_seconds) == (holder.exec_id, 1.5)
        assert ran(folder) == {"b": 1}
        assert ("ab" * 16, "cd" * 8, "cached") in {(link.trace_id, link.span_id, link.edge) for link in trace.one("step", node_name="a").links}
        assert statuses(node) == ["WAITING", "SUCCESS"]
    else:
        assert ran(folder) == {"a": 1, "b": 1}
        assert statuses(node) == ["WAITING", "RUNNING", "SUCCESS"]
    (waiting,) = [event for event in read_events(node.output_path) if event.status == "WAITING"]
    assert holder.name in waiting.message


def test_the_lock_of_a_dead_run_is_taken_over_at_once(tmp_path):
    """A holder that is provably dead is not waited for, and the takeover is in the record."""
    folder = str(tmp_path)
    run_in(tmp_path, [noted("a", folder)])
    path = next((tmp_path / "outputs").glob("a-*"))
    Path(path, ".executor_status").unlink()
    holder = Holder(str(path))
    holder.process.send_signal(signal.SIGKILL)
    holder.close()
    record = run_in(tmp_path, [noted("a", folder)])
    trace = check_run(record)
    assert not trace.of("wait")
    assert [warning.code for warning in record.warnings] == ["lock_taken_over"]
    assert locks.peek(str(path)) == ""


# Telemetry switched off.


@pytest.mark.parametrize("variable", [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_SAMPLER", "always_off")])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_record_is_whole_whatever_is_exported(tmp_path, monkeypatch, variable, executor):
    """Neither the SDK's switch nor the sampler has a say in what is recorded."""
    monkeypatch.setenv(*variable)
    folder = str(tmp_path)
    record = run_in(tmp_path, chain(folder), executor=executor)
    check_run(record)
    assert all(step.duration_seconds is not None for step in record.steps)
    if variable[0] == "OTEL_TRACES_SAMPLER":
        assert {span.flags & 1 for span in recorded_spans(record)} == {0}
