"""Experiments in a process of their own that are told to end, or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from support.run_checks import EXECUTORS, check_run, outcomes, statuses, step_named

from otel_exec import read_run

_SCRIPT = """
import os, sys, threading
from otel_exec import deferred, executor_main, phase, step

def _quick(config):
    pass

def _slow(config):
    told = 0
    with phase("waiting"):
        while True:
            try:
                with open("started", "a"):
                    pass
                while True:
                    threading.Event().wait(0.02)
            except KeyboardInterrupt:
                told += 1
                with open(f"told-{told}", "w"):
                    pass
                if told > config["stubborn"]:
                    raise

def _later(config):
    pass

quick, slow, later = deferred(_quick), deferred(_slow), deferred(_later)

@step("quick")
def quick_one():
    return quick({})

@step("slow")
def slow_one(after, stubborn):
    return slow({"after": after, "stubborn": stubborn})

@step("later")
def later_one(after):
    return later({"after": after})

if __name__ == "__main__":
    stubborn = int(os.environ["STUBBORN"])
    executor_main(steps=[later_one(slow_one(quick_one(), stubborn))])
"""

_DEADLINE_S = 30.0


def until(holds, what):
    """Wait until `holds()`."""
    deadline = time.monotonic() + _DEADLINE_S
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not happen within {_DEADLINE_S:g} s"
        pause.wait(0.01)


class Experiment:
    """A running experiment whose slow step has begun."""

    def __init__(self, folder, executor, stubborn=0):
        self.folder = folder
        (folder / "exp.py").write_text(_SCRIPT)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")} | {"STUBBORN": str(stubborn)}
        before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may themselves run under nohup, whose children ignore it
        self.process = subprocess.Popen(
            [sys.executable, "exp.py", "--executor", executor, "--workers", "2"],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        signal.signal(signal.SIGHUP, before)
        until(lambda: (folder / "started").exists() or self.process.poll() is not None, "the slow step's beginning")

    def send(self, number):
        self.process.send_signal(number)

    def told(self, times):
        until((self.folder / f"told-{times}").exists, "the slow step's being told")

    def end(self):
        out, err = self.process.communicate(timeout=_DEADLINE_S)
        return self.process.returncode, out, err

    def record(self):
        return read_run(str(self.folder / "run.json"))

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def experiment(tmp_path, request):
    """Start an experiment; it is ended with the test."""
    running = []

    def start(executor, stubborn=0):
        running.append(Experiment(tmp_path, executor, stubborn))
        return running[-1]

    yield start
    for each in running:
        each.close()


@pytest.mark.parametrize(
    ("number", "code", "executor"),
    [*((number, code, executor) for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)) for executor in EXECUTORS), (signal.SIGHUP, 129, "threads")],
)
def test_one_signal_ends_the_run_in_order(experiment, executor, number, code):
    """Running steps get KeyboardInterrupt, what finished is kept, what did not start is cancelled, and the record says so."""
    running = experiment(executor)
    running.send(number)
    returncode, _, err = running.end()
    assert returncode == code, err
    assert (running.folder / "told-1").exists()
    record = running.record()
    trace = check_run(record)
    assert record.outcome == "cancellation"
    assert outcomes(record) == {"quick": "success", "slow": "cancellation", "later": "cancellation"}
    assert statuses(step_named(record, "slow")) == ["RUNNING", "CANCELLED"]
    assert trace.one("task", node_name="slow").attributes["error.type"] == "cancelled"
    assert trace.one("phase").attributes["exec.outcome"] == "cancellation"
    assert f"cancelled by {signal.Signals(number).name}" in err
    assert "step(s) failed" not in err


@pytest.mark.parametrize(("executor", "stubborn"), [("inline", 1), ("threads", 99), ("processes", 99)])
def test_a_second_signal_ends_it_at_once(experiment, executor, stubborn):
    """A step that does not obey the first word is ended by the second, long before the grace is over, and the record is whole.

    An inline step lies in the driver's own thread: it is told again.
    """
    running = experiment(executor, stubborn)
    began = time.monotonic()
    running.send(signal.SIGINT)
    running.told(1)
    running.send(signal.SIGINT)
    returncode, _, err = running.end()
    assert returncode == 130, err
    assert time.monotonic() - began < 8  # the grace is 10 s
    record = running.record()
    check_run(record)
    assert record.outcome == "cancellation"
    assert step_named(record, "slow").outcome == "cancellation"


def test_a_killed_run_is_interrupted_and_names_what_was_open(experiment):
    """After a SIGKILL the journal and the spool tell what finished and what was open; no worker lives on."""
    running = experiment("processes", 99)
    folder = running.record().run_folder
    until(lambda: any(step.status == "RUNNING" and step.name == "slow" for step in read_run(folder).steps), "the slow step in the journal")
    before = read_run(folder)
    assert before.outcome == "running"
    workers = [worker.pid for worker in before.workers]
    assert len(workers) >= 1
    running.send(signal.SIGKILL)
    running.end()
    record = read_run(folder)
    assert record.outcome == "interrupted"
    assert outcomes(record) == {"quick": "success", "slow": "error", "later": None}
    assert step_named(record, "quick").duration_seconds is not None
    (attempt,) = step_named(record, "slow").attempts
    assert attempt.claimed_ns is not None
    assert attempt.end_ns == record.duration_ns
    assert step_named(record, "slow").error.type == "interrupted"
    assert record.duration_ns >= attempt.claimed_ns
    told = subprocess.run([sys.executable, "-m", "otel_exec", "summary", folder], capture_output=True, text=True, check=False, cwd=running.folder)
    assert "interrupted" in told.stdout
    assert "slow" in told.stdout
    until(lambda: not any(_lives(pid) for pid in workers), "the workers' end")


def _lives(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_run_after_a_killed_one_takes_its_locks_over_and_goes_on(experiment, tmp_path):
    """What the killed run had finished is cached; the step that it had open is run again, at once."""
    running = experiment("threads", 99)
    running.send(signal.SIGKILL)
    running.end()
    (tmp_path / "started").unlink()
    again = experiment("threads", 0)
    (tmp_path / "told-1").unlink(missing_ok=True)
    until((tmp_path / "started").exists, "the slow step's second beginning")
    again.send(signal.SIGINT)
    assert again.end()[0] == 130
    record = again.record()
    check_run(record)
    assert step_named(record, "quick").cached
    assert {"lock_taken_over", "interrupted_run"} <= {warning.code for warning in record.warnings}
    assert record.resumed_from is not None
