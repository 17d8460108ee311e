"""One battery over all executors: what each attempt comes to, and what it leaves behind. An executor that can't do something excuses itself here, by name."""

from __future__ import annotations

import json
import os
import time

import executor_steps as steps
import pytest
from executor_rig import KINDS, Rig, events, span_of, wait_for
from executor_steps import Config

from otel_exec.execute.base import Beat, Claimed, Outlived, Output, Reported, WorkerDied, WorkerReady, WorkerStarted, WorkerStopped
from otel_exec.record import locks, step_files


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def rig(kind, tmp_path):
    with Rig(kind, tmp_path) as made:
        yield made


def test_success_leaves_its_files_and_releases_its_lock(rig, tmp_path):
    """A step that succeeds leaves RUNNING and SUCCESS, its info, no log, and no lock."""
    rig.submit(steps.write, Config(str(tmp_path / "out")))
    report = rig.report()
    assert (report.outcome, report.error, report.found) == ("success", None, "")
    assert (tmp_path / "out").read_text() == "1"
    assert events(rig) == ["RUNNING", "SUCCESS"]
    assert not rig.has(".executor_log")
    assert not rig.has(".executor_status.lock")
    assert rig.said(Claimed, node_id="step", attempt=1, worker_id=report.worker_id)


def test_instants_are_in_order_and_the_same_everywhere(rig):
    """created <= claimed <= started <= completed <= settled; report, info, status and spool have the same numbers."""
    envelope = rig.submit(steps.nothing)
    report = rig.report()
    load, task, store = (span_of(report, k) for k in ("load", "task", "store"))
    assert (
        envelope.created_ns
        <= report.claimed_ns
        == load.start_ns
        <= load.end_ns
        == task.start_ns
        <= task.end_ns
        == store.start_ns
        <= store.end_ns
        == report.settled_ns
    )
    info = json.loads(rig.file(".executor_info"))
    assert info["name"] == "x"
    assert info["duration_seconds"] == task.duration_ns / 1e9
    assert info["total_duration_seconds"] == (report.settled_ns - envelope.first_created_ns) / 1e9
    last = step_files.read_events(os.path.join(rig.folder, "step"))[-1]
    assert (last.execution_start_time, last.execution_end_time) == (task.start_ns / 1e9, task.end_ns / 1e9)
    assert {s.span_id: (s.start_ns, s.end_ns) for s in rig.spans()} == {s.span_id: (s.start_ns, s.end_ns) for s in report.spans}
    assert task.span_id == envelope.span_id
    assert {s.parent_span_id for s in report.spans} == {envelope.parent_span_id}


def test_arguments_by_name(rig):
    """A config of several arguments is passed by keyword."""
    rig.submit(steps.add, {"a": 1, "b": 2}, call_style="kwargs")
    assert rig.report().outcome == "success"


def test_failure_is_described(rig):
    """An exception becomes FAILED with both times, its own type, message, place and traceback without our frames."""
    rig.submit(steps.fail, "cfg")
    report = rig.report()
    assert report.outcome == "failure"
    assert report.error.type == "ValueError"
    assert report.error.message == "no luck with cfg"
    assert "executor_steps.py" in report.error.where
    assert "no luck" in report.error.traceback
    assert "otel_exec/execute" not in report.error.traceback
    last = step_files.read_events(os.path.join(rig.folder, "step"))[-1]
    assert (last.status, last.message) == ("FAILED", "ValueError: no luck with cfg")
    assert last.execution_start_time <= last.execution_end_time
    task = span_of(report, "task")
    assert (task.status, task.attributes["error.type"], task.attributes["exec.outcome"]) == (2, "ValueError", "failure")
    assert not rig.has(".executor_status.lock")


@pytest.mark.parametrize(
    ("fn", "type_", "says"),
    [
        (steps.leave, "SystemExit", "called sys.exit(3)"),
        (steps.raise_unpicklable, "executor_steps.Unpicklable", "this and that"),
        (steps.raise_bad_str, "executor_steps.BadStr", "str() raised"),
        (steps.raise_huge, "ValueError", "characters left out"),
    ],
)
def test_whatever_is_raised_is_a_failure(rig, fn, type_, says):
    """sys.exit, exceptions that can't be pickled or printed and huge ones fail the step, and the worker goes on."""
    rig.submit(fn)
    report = rig.report()
    assert (report.outcome, report.error.type) == ("failure", type_)
    assert says in report.error.message
    assert len(report.error.message) < 10_000
    rig.submit(steps.nothing, name="next")
    assert rig.report("next").outcome == "success"


@pytest.mark.parametrize("name", ["builtins.KeyboardInterrupt", "asyncio.CancelledError", "concurrent.futures.CancelledError"])
def test_code_that_cancels_itself(rig, name):
    """What cancels itself, by whichever exception, is a cancellation: its phase, its task and its report say the same."""
    rig.submit(steps.cancel_itself, name)
    report = rig.report()
    assert (report.outcome, report.error.type, report.error.message) == ("cancellation", "cancelled", "cancelled by its own code")
    phase = next(span for span in rig.spans() if span.kind == "phase")
    for span in (phase, span_of(report, "task")):
        assert (span.attributes["exec.outcome"], span.attributes["error.type"]) == ("cancellation", "cancelled")
    assert events(rig) == ["RUNNING", "CANCELLED"]


def test_the_error_stands_at_the_end_of_the_log(rig):
    """A failed attempt's traceback, the user's own frames alone, ends its log, once; what it printed stands above, and is all of the report's tail."""
    rig.submit(steps.mutter_and_fail)
    report = rig.report()
    log = rig.file(".executor_log")
    assert log.startswith("half a line\nTraceback (most recent call last):\n")
    assert log.endswith('    raise ValueError("no luck")\nValueError: no luck\n')
    assert log.count("Traceback") == 1
    assert os.path.join("otel_exec", "execute") not in log
    assert report.log_tail == "half a line"
    rig.submit(steps.fail, name="silent", last_attempt=False)
    rig.report("silent")
    rig.submit(steps.fail, name="silent", attempt=2, locked=True)
    assert rig.report("silent", 2).log_tail == ""
    first, second = rig.file(".executor_log", "silent").split("--- attempt 2 ---\n")
    assert first == second
    assert first.endswith("ValueError: no luck with None\n")


def test_a_failed_verification_is_said_in_the_log(rig):
    """An error without a traceback ends the log as a sentence."""
    rig.submit(steps.nothing, verify=["false"])
    rig.report()
    assert rig.file(".executor_log") == "verify_failed: the verify command ended with exit code 1: false\n"


@pytest.mark.parametrize("what", ["lock", "much"])
def test_results_are_dropped(rig, what):
    """What a function returns may be huge or unpicklable: nobody looks at it."""
    rig.submit(steps.return_odd, what)
    assert rig.report().outcome == "success"


def test_a_failed_attempt_that_is_not_the_last_keeps_the_lock(rig):
    """A retry writes no FAILED, keeps the lock, links to the attempt before, and the step has one RUNNING event."""
    first = rig.submit(steps.fail, last_attempt=False)
    assert rig.report().outcome == "failure"
    assert events(rig) == ["RUNNING"]
    assert rig.has(".executor_status.lock")
    rig.submit(steps.nothing, attempt=2, locked=True, previous_span_id=first.span_id)
    task = span_of(rig.report(attempt=2), "task")
    assert [(link.span_id, link.edge) for link in task.links] == [(first.span_id, "retry")]
    assert events(rig) == ["RUNNING", "SUCCESS"]
    assert not rig.has(".executor_status.lock")


def test_a_held_lock_is_refused(rig):
    """Where another run holds the lock nothing runs; the report says who it is."""
    other = f"{os.uname().nodename}-elsewhere:boot:1:1"
    assert locks.acquire(os.path.join(rig.folder, "step"), other).taken
    rig.submit(steps.fail)
    report = rig.report()
    assert (report.found, report.holder, report.error) == ("locked", other, None)
    assert not rig.said(Claimed, node_id="step")


def test_a_step_that_succeeded_meanwhile_is_cached(rig):
    """After the lock was taken a SUCCESS of another run is found: nothing runs, unless it is forced."""
    rig.submit(steps.nothing)
    rig.report()
    rig.submit(steps.fail, attempt=2)
    report = rig.report(attempt=2)
    assert (report.found, report.error) == ("cached", None)
    assert not rig.has(".executor_status.lock")
    rig.submit(steps.fail, attempt=3, force=True)
    assert rig.report(attempt=3).outcome == "failure"


def test_what_a_lost_attempt_had_made_is_not_made_again(rig):
    """Its worker died when all was written and nothing reported: a forced step counts as made, if this run made it."""
    rig.submit(steps.nothing, force=True)
    rig.report()
    rig.submit(steps.fail, attempt=2, force=True, after_loss=True)
    report = rig.report(attempt=2)
    assert (report.found, report.outcome) == ("cached", "success")
    folder = os.path.join(rig.folder, "step")
    path = os.path.join(folder, ".executor_status")
    with open(path) as file:
        text = file.read()
    with open(path, "w") as file:
        file.write(text.replace(rig.settings.exec_id, "exec_" + "0" * 32))
    rig.submit(steps.fail, attempt=3, force=True, after_loss=True)
    assert rig.report(attempt=3).outcome == "failure"


@pytest.mark.parametrize("kind", ["processes", pytest.param("ray", marks=pytest.mark.ray)])
def test_clocks_that_stand_still_end_no_sign_of_life(kind, tmp_path):
    """A step that freezes the clocks of its worker is told of all the same."""
    with Rig(kind, tmp_path) as rig:
        gate = os.path.join(rig.folder, "gate")
        rig.submit(steps.block_without_a_clock, Config(gate))
        rig.until(lambda: len({beat.at_ns for beat in rig.said(Beat) if beat.open_spans}) >= 3)
        open(gate, "w").close()
        assert rig.report().outcome == "success"


@pytest.mark.parametrize("kind", ["processes", pytest.param("ray", marks=pytest.mark.ray)])
def test_what_a_thread_times_after_its_step_is_in_the_trace(kind, tmp_path):
    """While its worker has nothing else to do, as well."""
    with Rig(kind, tmp_path) as rig:
        gate = os.path.join(rig.folder, "gate")
        rig.submit(steps.leave_a_thread, Config(gate))
        assert rig.report().outcome == "success"
        open(gate, "w").close()
        rig.until(lambda: [span for span in rig.spans() if span.name == "late"])


def test_an_output_folder_that_cannot_be_made(rig, tmp_path):
    """Where the output can't be written the outcome is `error` with error.type storage, and the executor goes on."""
    (tmp_path / "file").write_text("in the way")
    rig.submit(steps.nothing, output_path=str(tmp_path / "file" / "step"))
    report = rig.report()
    assert (report.outcome, report.error.type) == ("error", "storage")
    rig.submit(steps.nothing, name="next")
    assert rig.report("next").outcome == "success"


# --- output ---------------------------------------------------------------------------------------------------------------------------------------


def test_output_is_kept(rig):
    """What a step prints is in its log, and not in the next step's."""
    rig.submit(steps.chatter)
    report = rig.report()
    log = rig.file(".executor_log")
    assert "to stdout\n" in log
    assert "to stderr\n" in log
    assert report.log_path == os.path.join(rig.folder, "step", ".executor_log")
    if rig.kind == "processes":  # elsewhere logging is the application's own
        assert "INFO user: to the log" in log
    rig.submit(steps.nothing, name="next")
    rig.report("next")
    assert not rig.has(".executor_log", "next")


def test_a_flood_of_output_is_capped(kind, tmp_path):
    """Of 30 MB printed the cap's worth is kept: the beginning, the cut, and the end."""
    with Rig(kind, tmp_path, log_cap_bytes=100_000) as rig:
        rig.submit(steps.shout, 30_000)
        rig.report()
        log = rig.file(".executor_log")
        assert len(log) < 101_000
        assert log.startswith("00000000yyy")
        assert "bytes left out" in log
        assert log.splitlines()[-1].startswith("00029999")


def test_the_tail_goes_with_a_failure(rig):
    """A failing report has the last lines of the log."""
    rig.submit(steps.shout_and_fail)
    lines = rig.report().log_tail.splitlines()
    assert lines[-1] == "line 99"
    assert len(lines) == 20


def test_shown_output_names_its_step(kind, tmp_path):
    """With show_output whole lines come to the driver with their step."""
    with Rig(kind, tmp_path, show_output=True) as rig:
        rig.submit(steps.chatter)
        rig.report()
        rig.until(lambda: "to stdout\n" in "".join(n.text for n in rig.said(Output, node_id="step")))


def test_a_vandal_spoils_nothing(rig):
    """A step that changes folder, replaces sys.stdout and closes descriptors 1 and 2 does not disturb the next one."""
    if rig.kind != "processes":
        pytest.skip(f"{rig.kind}: steps share the driver's process; nothing is promised")
    with Rig("processes", rig.folder, workers=1) as lone:
        lone.submit(steps.vandalise)
        assert lone.report().outcome == "success"
        lone.submit(steps.tell_place, name="next")
        lone.report("next")
        assert lone.file(".executor_log", "next") == f"{os.getcwd()}\nstill heard\n"


def test_a_step_keeps_its_umask_to_itself(kind, tmp_path):
    """A step that changes the umask changes it for itself alone: not for its own record, nor for the next step of its worker."""
    if kind in {"inline", "threads"}:
        pytest.skip(f"{kind}: steps share the driver's process; nothing is promised")
    with Rig(kind, tmp_path, workers=1) as rig:
        for name, fn in (("first", steps.tell_umask), ("vandal", steps.forbid_all), ("next", steps.tell_umask)):
            rig.submit(fn, name=name)
            assert rig.report(name).outcome == "success"
        assert rig.file(".executor_log", "next") == rig.file(".executor_log", "first")
        modes = {os.stat(os.path.join(rig.folder, name, ".executor_info")).st_mode for name in ("first", "vandal")}
        assert len(modes) == 1


# --- numbers --------------------------------------------------------------------------------------------------------------------------------------


def test_phases_come_with_the_report(rig):
    """Phases are folded in the report and spanned under the task."""
    envelope = rig.submit(steps.phases)
    report = rig.report()
    assert {name: fold.count for name, fold in report.sums.phases.items()} == {"outer": 1, "inner": 2}
    spans = {span.span_id: span for span in rig.spans() if span.kind == "phase"}
    assert sorted(span.name for span in spans.values()) == ["inner", "inner", "outer"]
    outer = next(span for span in spans.values() if span.name == "outer")
    assert outer.parent_span_id == envelope.span_id
    assert {span.parent_span_id for span in spans.values() if span.name == "inner"} == {outer.span_id}


def test_cpu_and_memory(rig):
    """CPU time is the task's; peak memory is, where a process runs one task, else unknown."""
    rig.submit(steps.use_cpu)
    report = rig.report()
    task = span_of(report, "task").attributes
    assert 40_000_000 <= task["exec.cpu.time"] < 5_000_000_000
    if rig.kind in {"processes", "ray"} and os.path.exists("/proc/self/clear_refs"):
        assert 60_000_000 < task["exec.memory.peak_rss"] < 2_000_000_000
    else:
        assert "exec.memory.peak_rss" not in task


# --- verify ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verify",
    [
        ["test", "-d", "{output_path}"],
        ["test", "{{}}{output_path!s}", "=", "{{}}{output_path}"],
        'sh -c \'test "$(pwd -P)" = "$(cd {output_path} && pwd -P)"\'',
        steps.verify_ok,
    ],
)
def test_verify_passes(rig, verify):
    """A command, a string and a function that pass: the step succeeds, the verification is a span of its own after the task."""
    rig.submit(steps.nothing, verify=verify)
    report = rig.report()
    assert report.outcome == "success", report.error
    task, verified, store = (span_of(report, k) for k in ("task", "verify", "store"))
    assert task.end_ns == verified.start_ns <= verified.end_ns == store.start_ns
    assert len({span.span_id for span in rig.spans()}) == 4


@pytest.mark.parametrize(
    ("verify", "type_", "says"),
    [
        (["sh", "-c", "echo looks bad; exit 3"], "verify_failed", "exit code 3"),
        ("no-such-command-anywhere", "verify_failed", "can't be run"),
        (["test", "{{output_path}}", "=", "{output_path}"], "verify_failed", "'{output_path}' = "),
        (steps.verify_false, "verify_failed", "returned False"),
        (steps.verify_raises, "ValueError", "bad output"),
    ],
)
def test_verify_fails(rig, verify, type_, says):
    """A verification that fails makes the step fail, though its function succeeded."""
    rig.submit(steps.nothing, verify=verify)
    report = rig.report()
    assert (report.outcome, report.error.type) == ("failure", type_)
    assert says in report.error.message
    assert span_of(report, "task").attributes["exec.outcome"] == "success"
    assert span_of(report, "verify").attributes["exec.outcome"] == "failure"
    assert events(rig) == ["RUNNING", "FAILED"]
    if "looks bad" in str(verify):
        assert "looks bad" in rig.file(".executor_log")


# --- workers --------------------------------------------------------------------------------------------------------------------------------------


def test_workers_introduce_themselves(rig):
    """Workers have ids from 0; each is started, then ready, and stopped at the end."""
    rig.ready()
    ids = [str(number) for number in range(rig.executor.workers)]
    if rig.kind == "ray":  # worker processes are Ray's: those that took an attempt introduce themselves
        rig.submit(steps.nothing)
        rig.report()
        ids = ["0"]
    assert sorted(n.worker_id for n in rig.said(WorkerStarted)) == ids
    assert sorted(n.worker_id for n in rig.said(WorkerReady)) == ids
    rig.notices += rig.executor.stop(5)
    assert sorted(n.worker_id for n in rig.said(WorkerStopped)) == ids
    assert rig.executor.stop(5) == ()


def test_many_attempts(rig):
    """Everything handed over early is run, each once."""
    for number in range(60):
        rig.submit(steps.nothing, name=f"s{number}")
    rig.until(lambda: len(rig.said(Reported)) >= 60)
    assert sorted(n.report.node_id for n in rig.said(Reported)) == sorted(f"s{n}" for n in range(60))


def test_large_configs_travel(rig):
    """A config of megabytes reaches the function."""
    rig.submit(len, "z" * 3_000_000)
    assert rig.report().outcome == "success"


def test_recall_takes_back_what_nobody_began(rig, tmp_path):
    """recall returns exactly what was not claimed; the rest goes on, nothing recalled is ever run."""
    gate = str(tmp_path / "gate")
    count = 0 if rig.kind == "inline" else rig.executor.workers
    for number in range(count):
        rig.submit(steps.block, Config(f"{gate}", number), name=f"busy{number}")
    for number in range(count):
        rig.claimed(f"busy{number}")
    for number in range(5):
        rig.submit(steps.nothing, name=f"early{number}")
    assert sorted(rig.executor.recall()) == [(f"early{n}", 1) for n in range(5)]
    open(gate, "w").close()
    for number in range(count):
        assert rig.report(f"busy{number}").outcome == "success"
    rig.submit(steps.nothing, name="later")
    rig.report("later")
    assert not rig.has(".executor_status", "early0")


def test_interrupt(rig, tmp_path):
    """interrupt ends the attempt as a cancellation, and touches nothing else."""
    if rig.kind == "inline":
        pytest.skip("inline: while an attempt runs the runner's thread is in it; see test_inline_is_interrupted_by_a_signal_handler")
    gate = str(tmp_path / "gate")
    rig.submit(steps.block, Config(gate))
    rig.claimed()
    wait_for(gate + ".begun")
    rig.executor.interrupt("step", 1)
    report = rig.report()
    assert (report.outcome, report.error.type, report.error.message) == ("cancellation", "cancelled", "")  # the runner knows why
    assert events(rig) == ["RUNNING", "CANCELLED"]
    rig.executor.interrupt("step", 1)  # it is over: nobody is hit
    for number in range(10):
        rig.submit(steps.nothing, name=f"s{number}")
    for number in range(10):
        assert rig.report(f"s{number}").outcome == "success"


def test_kill(rig, tmp_path):
    """kill ends (or abandons) the attempt without a report; another worker takes the place, and only that attempt is lost."""
    if rig.kind == "inline":
        pytest.skip("inline: there is nobody else to kill it; its timeout is judged when it returns")
    gate = str(tmp_path / "gate")
    rig.submit(steps.block_stubbornly, Config(gate))
    worker_id = rig.claimed().worker_id
    wait_for(gate + ".begun")
    assert [span.kind for span in rig.until(lambda: rig.executor.open_spans("step", 1))] == ["task"]  # on Ray as last told
    rig.until(lambda: rig.executor.log_tail("step", 1) == "stubborn")
    assert rig.executor.log_tail("other", 1) == ""
    rig.executor.kill("step", 1)
    rig.until(lambda: rig.said(WorkerStopped, worker_id=worker_id))
    if rig.kind != "ray":  # there a worker introduces itself with its first attempt
        rig.until(lambda: len(rig.said(WorkerReady)) == rig.executor.workers + 1)
    for number in range(6):
        rig.submit(steps.nothing, name=f"s{number}")
    for number in range(6):
        assert rig.report(f"s{number}").outcome == "success"
    assert not rig.said(WorkerDied)
    if not rig.executor.can_kill:
        assert rig.has(".executor_status.lock")
        open(gate, "w").close()
        rig.until(lambda: rig.said(Outlived, node_id="step", attempt=1, worker_id=worker_id))
        assert not rig.has(".executor_status.lock")
    assert not [n for n in rig.said(Reported) if n.report.node_id == "step"]
    assert events(rig) == ["RUNNING"]


def test_stop_does_not_wait_for_ever(kind, tmp_path):
    """stop ends workers that don't obey within the grace, and is back soon after it."""
    if kind == "inline":
        pytest.skip("inline: nothing runs when the runner's thread calls stop")
    gate = str(tmp_path / "gate")
    rig = Rig(kind, tmp_path)
    rig.submit(steps.block_stubbornly, Config(gate))
    rig.claimed()
    wait_for(gate + ".begun")
    grace_s = 0.05
    begun = time.monotonic()
    rig.executor.stop(grace_s)
    took_s = time.monotonic() - begun
    open(gate, "w").close()
    assert took_s < grace_s + 5
