"""Leases in whole runs: who renews a lock, and what an attempt does that has lost it."""

from __future__ import annotations

import os
import threading
import time
from types import SimpleNamespace

import pytest
from support.run_checks import check_run, step_named

from otel_exec import StepsFailed, deferred, output, step
from otel_exec.execute import attempt_files
from otel_exec.record import locks
from otel_exec.record.step_files import read_events
from otel_exec.testing import run_in

# Lives, since this process does; and is not this run.
OTHER = locks.driver_id("exec_" + "ef" * 16)


def lock_of(output_path):
    """Return the path of a step's lock."""
    return output_path + locks.LOCK


def write_lock(output_path, holder):
    """Put another holder into a lock, as one does who takes it over."""
    os.unlink(lock_of(output_path))
    assert locks.acquire(output_path, holder).taken


@pytest.mark.parametrize("executor", ["inline", "threads"])
@pytest.mark.parametrize("error", [None, ValueError("no")])
def test_an_attempt_that_lost_its_lease_writes_nothing_over_the_run_that_has_it(tmp_path, monkeypatch, executor, error):
    """Its driver was stopped for longer than a lease; what the other run does in the folder stays as it is, and the error says who that is."""
    ahead = [0.0]
    monkeypatch.setattr(attempt_files, "System", SimpleNamespace(wall=lambda: time.time_ns() + int(ahead[0] * 1e9)))

    def _work(folder):
        write_lock(folder, OTHER)
        ahead[0] = locks.STALE_S + 1
        if error is not None:
            raise error

    @step("a")
    def a():
        return deferred(_work)(output())

    with pytest.raises(StepsFailed) as caught:
        run_in(tmp_path, [a()], executor=executor)
    record = caught.value.record
    check_run(record)
    node = step_named(record, "a")
    assert node.attempts[0].error.type == "lease_lost"
    message = node.attempts[0].error.message
    assert message.startswith("its lock was taken over by ")
    assert ("ValueError: no" in message) == (error is not None)
    assert [event.status for event in read_events(node.output_path)] == ["RUNNING"]
    assert not os.path.exists(node.output_path + "/.executor_info")
    assert locks.peek(node.output_path) == OTHER


def test_a_long_attempt_inline_keeps_its_lock(tmp_path, monkeypatch):
    """While the runner's only thread runs a step, another renews the step's lock."""
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.01)
    pause = threading.Event()

    def _work(folder):
        with open(lock_of(folder)) as file:
            first = file.read()
        for _ in range(6000):
            pause.wait(0.01)
            with open(lock_of(folder)) as file:
                if file.read() != first:
                    return
        raise AssertionError("nobody renewed the lock")

    @step("a")
    def a():
        return deferred(_work)(output())

    check_run(run_in(tmp_path, [a()]))
    for thread in threading.enumerate():
        if thread.name == "otel-exec-lease":
            thread.join(30)
            assert not thread.is_alive()
