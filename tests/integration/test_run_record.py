"""Whole runs: the record at the start, the record at the end, workers that die."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import msgspec
import pytest
from support.run_checks import Trace, check_run, skeleton_of, statuses, step_named

from otel_exec import StepsFailed, deferred, phase, read_run, step
from otel_exec.errors import OtelExecError
from otel_exec.execute.inline import InlineExecutor
from otel_exec.record.record_file import read_record, write_record
from otel_exec.record.run_store import RunStore
from otel_exec.testing import run_in


def _die(config):
    marks = os.path.join(config["folder"], "deaths")
    with open(marks, "a") as file:
        file.write("x")
    if os.path.getsize(marks) <= config["times"]:
        with phase("last words"):
            os.kill(os.getpid(), signal.SIGKILL)


die = deferred(_die)


@step("mortal")
def mortal(folder, times):
    return die({"folder": folder, "times": times})


def test_a_worker_that_dies_costs_its_attempt_and_nothing_else(tmp_path):
    """The attempt is an `error` with `worker_died`, its open spans are closed, and the step is tried again by another worker."""
    record = run_in(tmp_path, [mortal(str(tmp_path), 1)], executor="processes", workers=1)
    trace = check_run(record)
    first, second = step_named(record, "mortal").attempts
    assert (first.outcome, first.error.type, second.outcome) == ("error", "worker_died", "success")
    assert first.worker_id != second.worker_id
    assert first.phases["last words"].count == 1
    died = trace.one("phase")
    assert (died.name, died.attributes["exec.phase"], died.attributes["exec.outcome"]) == ("last words", "last words", "error")
    (worker,) = [worker for worker in record.workers if worker.died]
    assert worker.worker_id == first.worker_id
    assert trace.one("worker", exec_worker_id=first.worker_id).attributes["error.type"] == "worker_died"
    assert statuses(step_named(record, "mortal")) == ["RUNNING", "SUCCESS"]


def test_a_step_that_kills_each_of_its_workers_has_failed(tmp_path):
    """Deaths beyond the tries that may not be the step's fault make it FAILED, with both times in its status file."""
    with pytest.raises(StepsFailed) as caught:
        run_in(tmp_path, [mortal(str(tmp_path), 99)], executor="processes", workers=1)
    record = caught.value.record
    check_run(record)
    node = step_named(record, "mortal")
    assert [attempt.outcome for attempt in node.attempts] == ["error"] * 3
    assert (node.outcome, node.status) == ("error", "FAILED")
    assert statuses(node) == ["RUNNING", "FAILED"]
    assert "SIGKILL" in node.error.message


def test_the_first_record_says_running_and_is_the_whole_plan(tmp_path, monkeypatch):
    """run.json is written before anything runs: the plan's half of every step, outcome `running`; nothing else than outcomes and times come later."""
    written = []
    plain = RunStore.write_run

    def keep(self, encoded, also=None):
        written.append(encoded)
        plain(self, encoded, also=also)

    monkeypatch.setattr(RunStore, "write_run", keep)
    record = run_in(tmp_path, [mortal(str(tmp_path), 0)], executor="inline")
    first = tmp_path / "first.json"
    first.write_bytes(written[0])
    early = read_record(str(first))
    assert early.outcome == "running"
    assert write_record(early) == write_record(msgspec.structs.replace(skeleton_of(record), warnings=early.warnings, export=early.export))


def test_a_run_whose_end_was_never_written_is_rebuilt(tmp_path, monkeypatch):
    """With the first run.json alone, `read_run` gives every number that the run would have written."""
    plain = RunStore.write_run
    state = {"written": 0}

    def first_alone(self, encoded, also=None):
        state["written"] += 1
        if state["written"] == 1:
            plain(self, encoded, also=also)

    monkeypatch.setattr(RunStore, "write_run", first_alone)
    record = run_in(tmp_path, [mortal(str(tmp_path), 0)], executor="threads")
    again = read_run(record.run_folder)
    assert again.outcome == "success"
    for mine, theirs in zip(again.steps, record.steps, strict=True):
        assert msgspec.to_builtins(mine) == msgspec.to_builtins(theirs)
    for field in ("duration_ns", "end_time", "levels", "workers", "wall", "critical_path"):
        assert getattr(again, field) == getattr(record, field), field
    assert json.loads(Path(record.run_folder, "run.json").read_text())["outcome"] == "running"


def test_a_run_that_we_break_off_keeps_what_is_known(tmp_path, monkeypatch):
    """An error of ours is raised as itself, after a record that says `interrupted`, with every span closed."""
    plain = InlineExecutor.submit

    def submit(self, envelope, packed):
        if envelope.name == "second":
            raise OtelExecError("no worker process can be started")
        plain(self, envelope, packed)

    monkeypatch.setattr(InlineExecutor, "submit", submit)

    @step("first")
    def first():
        return die({"folder": str(tmp_path), "times": 0})

    @step("second")
    def second(after):
        return die({"folder": str(tmp_path), "times": 0, "after": after})

    with pytest.raises(OtelExecError, match="no worker process"):
        run_in(tmp_path, [second(first())])
    record = read_run(str(tmp_path / "run.json"))
    assert record.outcome == "interrupted"
    assert (step_named(record, "first").outcome, step_named(record, "second").outcome) == ("success", "error")
    trace = Trace(record)
    assert trace.one("run").attributes["error.type"] == "interrupted"
    for span in trace.spans:
        assert span.kind == "run" or span.parent_span_id in trace.by_id
