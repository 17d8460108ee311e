"""What only worker processes promise: deaths are contained, no worker outlives its driver, the experiment's own file is not run again."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time

import executor_steps as steps
import msgspec
import pytest
from executor_rig import DEADLINE_S, Rig, events, make_step, wait_for
from executor_steps import Config

from otel_exec.errors import Mistake, UsageError
from otel_exec.execute.base import Reported, WorkerDied, WorkerReady, WorkerStarted
from otel_exec.execute.envelope import TaskReport
from otel_exec.execute.processes import ProcessesExecutor
from otel_exec.execute.wire import MAX_WORKERS
from otel_exec.execute.worker_main import _encode_report
from otel_exec.testing import memory_recorder

HERE = os.path.dirname(os.path.abspath(__file__))


@pytest.fixture
def rig(tmp_path):
    with Rig("processes", tmp_path) as made:
        yield made


def gone(pid):
    """Wait until a process is gone (or a zombie)."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def cpu_ticks(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rsplit(")", 1)[1].split()[11])


def busy(pids):
    """Wait until one of the processes has computed for a third of a second: it is in the C code then."""
    before = {pid: cpu_ticks(pid) for pid in pids}
    deadline = time.monotonic() + DEADLINE_S
    while all(cpu_ticks(pid) - before[pid] < os.sysconf("SC_CLK_TCK") / 3 for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("fn", "says"), [(steps.shoot_itself, "SIGKILL"), (steps.quit_hard, "exit code 7"), (steps.close_everything, "closed file descriptors")]
)
def test_a_worker_that_dies_takes_one_attempt_with_it(rig, fn, says):
    """A death fails the attempt that ran, tells why, keeps what was printed, and loses nothing that was handed over early."""
    for number in range(3):
        rig.submit(steps.nothing, name=f"before{number}")
    rig.submit(fn)
    for number in range(8):
        rig.submit(steps.nothing, name=f"after{number}")
    died = rig.died()
    assert died.attempts == (("step", 1),)
    assert says in died.reason
    assert [span.kind for span in died.open_spans] == ["task"]
    if fn is steps.shoot_itself:
        assert died.log_tail == "famous last words"
        assert rig.file(".executor_log") == "famous last words\n"
    rig.until(lambda: len(rig.said(Reported)) == 11)
    assert {n.report.outcome for n in rig.said(Reported)} == {"success"}
    rig.until(lambda: len(rig.said(WorkerReady)) >= 3)


def test_an_attempt_that_closes_every_descriptor_has_written_how_it_ended(rig):
    """A step that closes what is not its own, and returns: its worker is lost, and the reason named; its success and its spans are on disk."""
    envelope = rig.submit(steps.close_everything_and_return)
    died = rig.died()
    assert died.attempts == (("step", 1),)
    assert "closed file descriptors" in died.reason
    assert events(rig) == ["RUNNING", "SUCCESS"]
    assert not rig.has(".executor_status.lock")
    assert "task" in {span.kind for span in rig.spans() if span.parent_span_id == envelope.parent_span_id}


@pytest.mark.parametrize(("fn", "outcome"), [(steps.leak, "failure"), (steps.leak_and_succeed, "success")])
def test_a_worker_without_descriptors_is_replaced(tmp_path, fn, outcome):
    """A step that uses up all descriptors ends as it did, in its files as well; what comes next runs in another worker."""
    with Rig("processes", tmp_path, workers=1) as rig:
        rig.submit(fn)
        rig.submit(steps.nothing, name="next")
        report = rig.report()
        assert (report.outcome, report.warnings) == (outcome, [])
        assert events(rig)[-1] == ("SUCCESS" if outcome == "success" else "FAILED")
        assert not rig.has(".executor_status.lock")
        if outcome == "failure":
            assert report.error.type == "OSError"
            assert report.error.where.startswith(steps.__file__)
            assert "Too many open files" in rig.file(".executor_log")
        assert (rig.report("next").outcome, rig.report("next").worker_id) == ("success", "1")
        (died,) = rig.said(WorkerDied)
        assert died.attempts == ()
        assert "without file descriptors" in died.reason


def test_an_idle_worker_that_dies_takes_nothing(rig):
    """The death of an idle worker is told; another takes its place; all attempts run."""
    rig.ready()
    for notice in rig.said(WorkerStarted):
        os.kill(notice.pid, signal.SIGKILL)
    for number in range(10):
        rig.submit(steps.nothing, name=f"s{number}")
    for number in range(10):
        assert rig.report(f"s{number}").outcome == "success"
    assert [n.attempts for n in rig.said(WorkerDied)] == [(), ()]
    assert {n.worker_id for n in rig.said(WorkerStarted)} == {"0", "1", "2", "3"}


def test_random_deaths_lose_nothing(rig):
    """Workers shot at any moment while no-op attempts stream through: each attempt is reported or named by a death, none is lost, none is both."""
    total, shots = 400, 12
    rig.ready()
    submitted = 0
    settled: set[str] = set()
    seen = 0
    doubled = []
    while len(settled) < total:
        while submitted < total and submitted - len(settled) < 8:
            rig.submit(steps.nothing, name=f"s{submitted}")
            submitted += 1
        rig.poll()
        fresh, seen = rig.notices[seen:], len(rig.notices)
        for notice in fresh:
            names = [notice.report.node_id] if isinstance(notice, Reported) else [n for n, _ in notice.attempts] if isinstance(notice, WorkerDied) else []
            for name in names:
                if name in settled:
                    doubled.append(name)
                settled.add(name)
            if isinstance(notice, WorkerReady) and shots:
                shots -= 1
                pid = next(n.pid for n in rig.said(WorkerStarted) if n.worker_id == notice.worker_id)
                threading.Timer(0.001 * (shots % 5), _shoot, (pid,)).start()
    assert doubled == []
    assert {f"s{n}" for n in range(total)} == settled


def _shoot(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_children_end_with_their_worker(rig, tmp_path):
    """What a task left running ends when its worker dies."""
    path = tmp_path / "pid"
    rig.submit(steps.leave_child_behind, Config(str(path)))
    rig.died()
    assert gone(int(path.read_text()))


@pytest.mark.parametrize("fn", [steps.fork_and_return, steps.fork_and_raise])
def test_a_forked_child_does_not_report(rig, fn):
    """A child that the function forked and let return through our code ends quietly: one attempt, one report."""
    rig.submit(fn)
    assert rig.report().outcome == "success"
    rig.submit(steps.nothing, name="next")
    assert rig.report("next").outcome == "success"
    assert len(rig.said(Reported)) == 2
    assert len({span.span_id for span in rig.spans()}) == len(rig.spans()) == 6


def test_processes_inside_a_step(rig):
    """A step may use multiprocessing: fork, spawn and a pool."""
    rig.submit(steps.nested_processes)
    report = rig.report()
    assert report.outcome == "success", report.error


@pytest.mark.parametrize("how", ["python", "c"])
def test_no_worker_outlives_its_driver(tmp_path, how):
    """When the driver is killed its workers end, whatever they are doing: python code that ignores interrupts, or C code that holds the GIL."""
    if how == "c" and sys.platform != "linux":
        pytest.skip("only Linux can kill a process that holds the GIL when its parent dies")
    driver = subprocess.Popen([sys.executable, os.path.join(HERE, "driver_main.py"), str(tmp_path), how], stdout=subprocess.PIPE, text=True)
    try:
        readable, _, _ = select.select([driver.stdout], [], [], DEADLINE_S)
        assert readable
        pids = [int(pid) for pid in driver.stdout.readline().split()]
        assert len(pids) == 2
        if how == "c":
            busy(pids)
    finally:
        driver.kill()
        driver.wait()
        driver.stdout.close()
    assert all(gone(pid) for pid in pids)


def test_functions_of_the_experiments_own_file(tmp_path):
    """Functions and classes of `__main__` travel by value: the file is run once, what one step pickles the next one loads, nested forks work, errors come back as themselves."""
    runs = tmp_path / "runs"
    environ = {**os.environ, "COUNT_RUNS": str(runs)}
    done = subprocess.run(
        [sys.executable, os.path.join(HERE, "script_main.py"), str(tmp_path)], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.endswith("all well\n"), done.stdout + done.stderr
    assert runs.read_text() == "x"


def test_what_cannot_be_sent_is_a_mistake_that_names_the_field(rig):
    """A config that can't be pickled is a mistake with step, field and way out."""
    with pytest.raises(Mistake) as caught:
        rig.executor.pack(make_step(steps.nothing, Config(path=[1, {"deep": threading.Lock()}]), name="bad", where="exp.py:7"))
    assert (caught.value.step, caught.value.where) == ("bad", "exp.py:7")
    assert "config.path[1]['deep']" in caught.value.message
    lock = threading.Lock()
    with pytest.raises(Mistake, match="its function"):
        rig.executor.pack(make_step(lambda config: lock, None, name="bad"))


def test_kill_spares_who_took_the_place(rig, tmp_path):
    """Killing an attempt that has ended by itself meanwhile hits nobody; one that waits in the queue is taken out of it."""
    rig.ready()
    rig.submit(steps.nothing)
    wait_for(os.path.join(rig.folder, "step", ".executor_info"))
    rig.executor.kill("step", 1)
    gate = str(tmp_path / "gate")
    for number in range(2):
        rig.submit(steps.block, Config(gate), name=f"busy{number}")
    for number in range(2):
        rig.claimed(f"busy{number}")
    rig.submit(steps.nothing, name="waiting")
    rig.executor.kill("waiting", 1)
    open(gate, "w").close()
    for number in range(2):
        assert rig.report(f"busy{number}").outcome == "success"
    assert not rig.has(".executor_status", "waiting")
    assert not rig.said(WorkerDied)


def test_wake_ends_a_waiting_poll(rig):
    """wake from another thread makes a poll without end return."""
    rig.ready()
    threading.Timer(0.05, rig.executor.wake).start()
    assert rig.executor.poll(None) == []


def test_inline_is_interrupted_by_a_signal_handler(tmp_path):
    """A signal handler that calls wake while inline runs an attempt raises KeyboardInterrupt in it: the attempt is a cancellation."""
    with Rig("inline", tmp_path / "r") as rig:
        rig.poll()
        before = signal.signal(signal.SIGUSR1, lambda *_: rig.executor.wake())
        try:
            gate = str(tmp_path / "gate")
            threading.Thread(target=lambda: (wait_for(gate + ".begun"), os.kill(os.getpid(), signal.SIGUSR1)), daemon=True).start()
            rig.submit(steps.block, Config(gate))
            assert rig.report().outcome == "cancellation"
        finally:
            signal.signal(signal.SIGUSR1, before)
        rig.executor.wake()
        rig.submit(steps.nothing, name="next")
        assert rig.report("next").outcome == "success"


def test_spans_of_the_users_own_join(rig):
    """A span by the plain API, and a phase in a thread that the step starts, have the right parents, in the first task of a worker already."""
    rig.submit(steps.user_spans)
    assert rig.report().outcome == "success"
    by_name = {span.name: span for span in rig.spans()}
    mine = by_name["of the user"]
    assert (mine.kind, mine.trace_id, mine.parent_span_id) == ("", rig.settings.trace_id, by_name["around"].span_id)
    assert by_name["threaded"].parent_span_id == mine.span_id


def test_the_environment_carries_the_task(rig, tmp_path):
    """Processes that a step starts find the task in TRACEPARENT."""
    envelope = rig.submit(steps.carrier, Config(str(tmp_path / "carrier")))
    rig.report()
    assert (tmp_path / "carrier").read_text() == f"00-{rig.settings.trace_id}-{envelope.span_id}-01"


def test_more_workers_than_can_be_kept():
    """Each worker has a place in a page of fixed size: more workers than that are refused, by the flag's name and with the bound."""
    with pytest.raises(UsageError, match=rf"--workers {MAX_WORKERS + 1} .* at most {MAX_WORKERS}"):
        ProcessesExecutor(MAX_WORKERS + 1)


def test_a_report_that_cannot_be_encoded_comes_home_without_its_spans():
    """A user's attribute that msgpack can't hold costs the report its spans, not its outcome; the warning is a sentence."""
    span = msgspec.structs.replace(memory_recorder()[0].make("task", "task f", 1, 2), attributes={"big": 1 << 70})
    report = TaskReport("step", 1, "0", "success", 1, 2, [span], {})
    cut = msgspec.msgpack.decode(_encode_report(report), type=TaskReport)
    assert (cut.outcome, cut.spans) == ("success", [])
    ((code, message),) = cut.warnings
    assert code == "report_cut"
    assert message.startswith("step: the report of attempt 1 came home without its spans, which are in the spool: ")
