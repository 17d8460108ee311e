"""A process that is killed loses no phase that had ended, and the one that was open is closed by others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from otel_exec import StepsFailed, deferred, map_tasks, phase, step
from otel_exec.complete import read_run
from otel_exec.spans.spool import read_spool
from otel_exec.testing import recorded_spans, run_in


def _work(config):
    for _ in range(400):
        with phase("done"):
            pass
    with phase("open"):
        os.kill(os.getpid(), signal.SIGKILL)


work = deferred(_work)


@step(name="killed")
def killed():
    return work({})


def test_a_killed_worker_loses_no_finished_phase(tmp_path):
    """All 400 of each try are in the spool's files, which are mended, and in the numbers; the open one is closed with its worker's death."""
    with pytest.raises(StepsFailed) as failed:
        run_in(tmp_path, [killed()], executor="processes", workers=1)
    record = failed.value.record
    names = [span.name for span in recorded_spans(record) if span.kind == "phase"]
    tries = len(record.steps[0].attempts)  # a step whose worker died is tried again
    assert (names.count("done"), names.count("open")) == (400 * tries, tries)
    assert record.steps[0].phases["done"].count == 400 * tries
    assert [name for name in os.listdir(os.path.join(record.run_folder, "spans")) if name.endswith(".ahead")] == []


def _dies(item):
    with phase("in item"):
        os.kill(os.getpid(), signal.SIGKILL)


def _fans_out(config):
    with phase("before"):
        pass
    map_tasks(_dies, [0, 1], max_workers=1)


fans_out = deferred(_fans_out)


@step(name="fans out")
def fanning_step():
    return fans_out({})


def test_a_worker_killed_in_an_item_of_its_own_leaves_an_attempt_as_long_as_its_task(tmp_path):
    """The item that was open is an item still, with its number, and its times are not taken for the step's."""
    with pytest.raises(StepsFailed) as failed:
        run_in(tmp_path, [fanning_step()], executor="processes", workers=1)
    record = failed.value.record
    (found,) = record.steps
    tasks = [span for span in recorded_spans(record) if span.kind == "task"]
    own = {span.span_id: span for span in tasks if span.attributes["exec.task.id"] == found.node_id}
    items = [span for span in tasks if span.span_id not in own]
    assert {span.attributes["exec.task.id"] for span in items} == {f"{found.node_id}/0"}
    assert {span.attributes["exec.attempt"] for span in items} == {1}
    assert len(items) == len(own) == len(found.attempts)
    assert [attempt.execution_ns for attempt in found.attempts] == [own[attempt.span_id].duration_ns for attempt in found.attempts]


_SCRIPT = """
import os, signal, sys
from otel_exec import deferred, executor_main, phase, step

def _work(config):
    for _ in range(400):
        with phase("done"):
            pass
    with phase("open"):
        os.kill(os.getpid(), signal.SIGKILL)

work = deferred(_work)

@step(name="killed")
def killed():
    return work({})

if __name__ == "__main__":
    executor_main(steps=[killed()])
"""


def test_a_killed_run_loses_no_finished_phase(tmp_path):
    """With the inline executor the whole run dies: who reads the spool finds all 400, and so does the record that is made of it."""
    (tmp_path / "exp.py").write_text(_SCRIPT)
    done = subprocess.run(
        [sys.executable, "exp.py", "--executor", "inline", "--prefix", "outputs"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    record = read_run(str(tmp_path / "outputs"))
    names = [span.name for span in read_spool(os.path.join(record.run_folder, "spans")) if span.kind == "phase"]
    assert names.count("done") == 400
    assert record.steps[0].phases["done"].count == 400
    replayed = subprocess.run(
        [sys.executable, "-m", "otel_exec", "replay", "outputs", "--endpoint", "http://127.0.0.1:9"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OTEL_EXEC_EXIT_TIMEOUT": "0.5"},
    )
    assert replayed.returncode == 4, replayed.stderr
    with open(os.path.join(record.run_folder, "spans", "driver-tasks.jsonl"), encoding="utf-8") as file:
        assert sum('"name":"done"' in line for line in file) == 400
