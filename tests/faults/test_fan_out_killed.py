"""A run whose driver is killed while a step fans out, and the same run looked at just before: no item is taken for a try at the step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from otel_exec.complete import read_run
from otel_exec.status import locate, status_now

SCRIPT = """
import os, time
from otel_exec import deferred, executor_main, map_tasks, output, phase, step

def item(index):
    with phase("it"):
        if index in (0, 3):  # one at each end of the list: with two workers, one on each
            open(os.environ["MARKS"] + f"/{index}", "w").close()
            time.sleep(600)
    return index

def _fan(path):
    map_tasks(item, list(range(4)))

fan = deferred(_fan)

@step(name="fan")
def fan_step():
    return fan(output("x"))

if __name__ == "__main__":
    executor_main(steps=[fan_step()])
"""


def until(holds, what):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class HangingFanOut:
    """A driver whose one step fans out to items that hang: the owner's last, and with two workers the helper's first."""

    def __init__(self, folder, workers):
        self.prefix = str(folder / "outputs")
        (folder / "exp.py").write_text(SCRIPT)
        marks = folder / "marks"
        marks.mkdir()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTHON", "COV_"))}
        self.process = subprocess.Popen(
            [sys.executable, "exp.py", "--workers", str(workers), "--prefix", self.prefix],
            cwd=folder,
            env={**environment, "MARKS": str(marks)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: len(os.listdir(marks)) == workers, "its items never began")

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(30)


@pytest.fixture(params=[1, 2])
def fan_out(request, tmp_path: Path):
    run = HangingFanOut(tmp_path, request.param)
    run.workers = request.param
    yield run
    run.end()


def the_step(record):
    (found,) = [step for step in record.steps if step.name == "fan"]
    return found


def test_while_it_runs_a_fan_out_is_counted_as_it_is(fan_out):
    """The caller's waiting is nobody's time, the items and their phases have theirs though they have not ended, and no item has come to anything."""

    def nearly_all_in_phases():
        step = the_step(read_run(fan_out.prefix))
        found = step.phases["it"]
        assert len(step.attempts) == 1
        assert step.items is None
        assert found.count == fan_out.workers
        # What our own code takes around the items stays as it is; as long as they hang, their phases grow past any multiple of that.
        return found.share_ns > 20 * (step.node_time_ns - found.share_ns)

    until(nearly_all_in_phases, "most of the time stays unaccounted for")


def test_after_kill_9_in_a_fan_out_the_step_was_tried_once(fan_out):
    """Its one attempt lasted as long as its task, on the worker that had it; the items have their numbers; nothing was retried, and the path goes through the step."""
    before = the_step(read_run(fan_out.prefix))
    fan_out.end()
    record = read_run(fan_out.prefix)
    step = the_step(record)
    (attempt,) = step.attempts
    assert (attempt.attempt, attempt.worker_id, attempt.outcome) == (1, before.attempts[0].worker_id, "error")
    assert attempt.span_id == before.attempts[0].span_id
    assert step.phases["it"].count == step.items.count == fan_out.workers
    assert attempt.execution_ns >= step.phases["it"].max_ns, "its items lie within it"
    assert list(record.critical_path.steps) == [step.node_id]
    status = status_now(locate(fan_out.prefix, prefix=fan_out.prefix), time.time_ns(), tasks=True)
    assert status.progress.retries == 0
    assert [(row.attempts, row.worker_id) for row in status.tasks] == [(1, attempt.worker_id)]
    assert [(span.attempt, span.worker_id) for span in status.open if span.kind == "step"] == [(1, attempt.worker_id)]


def test_closed_items_of_a_killed_run_are_known_by_their_numbers(fan_out):
    """Recovery closes each with the id and the try that it would have had."""
    from otel_exec.recovery import recover
    from otel_exec.spans.spool import read_spool

    fan_out.end()
    record = read_run(fan_out.prefix)
    assert recover(record.run_folder)
    step = the_step(record)
    tasks = [span for span in read_spool(record.run_folder + "/spans") if span.kind == "task"]
    numbers = {"/0", "/3"} if fan_out.workers == 2 else {"/3"}
    assert {str(span.attributes["exec.task.id"]).removeprefix(step.node_id) for span in tasks} == {"", *numbers}
    assert {span.attributes["exec.attempt"] for span in tasks} == {1}
