"""Deaths at the points where they once left something wrong, or could: each point is come to in every run of this test."""

from __future__ import annotations

import pytest
from faults.kill_driver import Killed
from support.run_checks import check_run, statuses

from otel_exec import read_run

FILES = "otel_exec.execute.attempt_files:AttemptFiles"
STORE = "otel_exec.record.run_store:RunStore"


@pytest.mark.parametrize(
    ("point", "came_to"),
    [
        (f"before {STORE}.write_run", "nothing"),
        ("before otel_exec.driver.keeper:Keeper.end", "success"),
        (f"before {STORE}.close", "success"),
        (f"after {FILES}.end", "interrupted"),
    ],
)
def test_a_driver_that_is_killed_there_leaves_nothing_behind(tmp_path, point, came_to):
    """The record can be read, the trace is whole once recovered, the next run redoes no finished step, and none is said to run any more."""
    run = Killed(tmp_path, "threads", workers=1, KILL_DRIVER_AT=point)
    assert run.start().wait(120) == -9
    assert run.check() == came_to


@pytest.mark.parametrize(
    ("point", "redone"),
    [
        (f"before {FILES}.begin", False),
        (f"before {FILES}.end", True),
        (f"after {FILES}.end", False),
        ("before otel_exec.execute.worker_main:Worker._done", False),
        ("after otel_exec.execute.worker_main:Worker._receive", False),
    ],
)
def test_a_worker_that_is_killed_there_costs_one_attempt_at_most(tmp_path, point, redone):
    """The run succeeds, its files say each thing once, and a step whose worker had written down that it succeeded is not run again."""
    run = Killed(tmp_path, "processes", workers=1, width=1, KILL_WORKER_AT=point, RETRIES="1")
    assert run.start().wait(120) == 0, (tmp_path / "log").read_text()
    record = read_run(str(run.prefix))
    check_run(record)
    (died,) = [worker for worker in record.workers if worker.died]
    steps = [step for step in record.steps if not step.group]
    assert {tuple(statuses(step)) for step in steps} == {("RUNNING", "SUCCESS")}
    calls = sum(path.stat().st_size for path in run.prefix.glob("work/*/tries"))
    assert calls == sum(1 for step in steps for attempt in step.attempts if attempt.execution_ns)
    assert (calls > _without_a_kill(len(steps))) == redone
    assert died.worker_id == "0"


def _without_a_kill(steps: int) -> int:
    """Each step once, and work/0 fails on its first try."""
    return steps + 1
