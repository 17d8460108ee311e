"""`python exp.py` from outside: its exit codes, what it prints, what a dry run leaves alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.run_checks import EXECUTORS, check_run

from otel_exec import read_run
from otel_exec.record import locks

_SCRIPT = """
import sys
from otel_exec import StepRef, deferred, executor_main, output, step, versioned

def _work(config):
    if config["value"] < 0:
        raise ArithmeticError(f"{config['value']} is below zero")

work = deferred(_work)

@step("first")
def first(value):
    return work({"value": versioned(value), "out": output()})

@step("second")
def second(above: StepRef):
    return work({"value": 1, "above": above / "part"})

@step("third")
def third():
    return work({"value": 2})

@step("{nothing}")
def mistaken():
    return work({"value": 2})

@step("all")
def everything(value):
    second(first(value))
    third()

if __name__ == "__main__":
    value = int(__import__("os").environ.get("VALUE", "1"))
    executor_main(steps=[mistaken()] if value == 77 else [everything(value)], description="a test")
"""


@pytest.fixture
def experiment(tmp_path):
    """Run the experiment with flags; its variables by name."""
    (tmp_path / "exp.py").write_text(_SCRIPT)

    def start(*flags, **variables):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")} | variables
        return subprocess.run([sys.executable, "exp.py", *flags], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120)

    return start


@pytest.mark.parametrize("executor", EXECUTORS)
def test_an_experiment_runs_and_then_has_nothing_to_run(experiment, tmp_path, executor):
    """The first run exits 0 with a short summary; the second says at once that there is nothing to run."""
    done = experiment("--executor", executor)
    assert (done.returncode, "run.json" in done.stdout) == (0, True), done.stderr
    check_run(read_run(str(tmp_path / "run.json")))
    again = experiment("--executor", executor)
    assert again.returncode == 0
    assert "nothing to run: 3 steps had succeeded before" in again.stdout + again.stderr
    check_run(read_run(str(tmp_path / "run.json")))


def test_a_dry_run_leaves_an_empty_directory_empty(experiment, tmp_path):
    """It names each step with its path, its dependencies, what would be done and why, with counts; and writes nothing."""
    (tmp_path / "empty").mkdir()
    done = experiment("--dry-run", "--prefix", "empty")
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path / "empty") == []
    assert not (tmp_path / "run.json").exists()
    lines = done.stdout.splitlines()
    assert "run   first (not run before)" in lines
    assert "      needs first" in lines
    assert str(tmp_path / "empty" / "first-") in done.stdout
    assert lines[-1] == "3 steps: 3 to run, 0 to skip, 0 to wait for"
    experiment("--prefix", "empty")
    again = experiment("--dry-run", "--prefix", "empty").stdout
    assert "skip  second (succeeded in exec_" in again
    assert "skip  first (succeeded in exec_" in again
    (path,) = (tmp_path / "empty").glob("first-*")
    (path / ".executor_status").unlink()
    assert locks.acquire(str(path), locks.driver_id("exec_test")).taken
    held = experiment("--dry-run", "--prefix", "empty").stdout
    assert f"wait  first (held by exec_test (process {os.getpid()} on " in held
    assert held.splitlines()[-1] == "3 steps: 0 to run, 2 to skip, 1 to wait for"


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_failed_step_is_told_with_the_users_own_traceback(experiment, tmp_path, executor):
    """One sentence, the traceback of the user's code alone, the count of real failures, exit code 1."""
    done = experiment("--executor", executor, VALUE="-5")
    assert done.returncode == 1
    assert done.stderr.rstrip().splitlines()[-1] == "1 step(s) failed"
    assert "ArithmeticError: -5 is below zero" in done.stderr
    assert "in _work" in done.stderr
    assert "otel_exec/execute" not in done.stderr
    record = read_run(str(tmp_path / "run.json"))
    check_run(record)
    assert {step.name: step.outcome for step in record.steps if not step.group} == {"first": "failure", "second": "skip", "third": "success"}


@pytest.mark.parametrize(
    ("flags", "variables", "code", "said"),
    [
        (["--executor", "nothing"], {}, 2, "nothing"),
        (["--workers", "0"], {}, 2, "workers"),
        (["--no-such-flag"], {}, 2, "no-such-flag"),
        (["--run-only", "("], {}, 2, "regular expressions"),
        (["--run-only", "absent"], {}, 2, "absent"),
        (["--prefix", "exp.py/outputs"], {}, 4, "exp.py/outputs"),
        ([], {"VALUE": "77"}, 3, "nothing"),
        ([], {"OTEL_EXEC_WORKERS": "many"}, 2, "OTEL_EXEC_WORKERS"),
    ],
)
def test_bad_input_gets_one_sentence_and_its_exit_code(experiment, tmp_path, flags, variables, code, said):
    """No traceback, nothing run, nothing written."""
    done = experiment(*flags, **variables)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["exp.py"]


def test_summary_and_record_agree_to_the_nanosecond(experiment, tmp_path):
    """`otel-exec summary --json` of another process shows what run.json holds."""
    assert experiment().returncode == 0
    told = subprocess.run([sys.executable, "-m", "otel_exec", "summary", "run.json", "--json"], cwd=tmp_path, capture_output=True, text=True, check=True)
    rows = {row["node_id"]: row for row in json.loads(told.stdout)["steps"]}
    record = read_run(str(tmp_path / "run.json"))
    for node in record.steps:
        if not node.group:
            assert rows[node.node_id]["execution_ns"] == node.attempts[-1].execution_ns
            assert rows[node.node_id]["total_ns"] == node.end_ns - node.start_ns
