"""The fault programs of Ray, in short: each in a process and a cluster of its own. What a killed driver leaves is seen on the session's cluster."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults.ray_kills import one_run
from support.ray_cluster import needs_ray
from support.run_checks import check_run, outcomes

from otel_exec import read_run
from otel_exec.record.find import list_runs
from otel_exec.spans.open_spans import read_all_open

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent


def _run(*words):
    needs_ray()
    environ = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=400, env=environ, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    return done.stdout


@pytest.mark.ray
def test_random_kills_of_workers(tmp_path):
    """Workers killed at random moments: the run succeeds, nothing that had finished is redone, and the record says who died. `make faults` kills a hundred."""
    one_run(str(tmp_path), random.Random(7), 2)


def test_a_node_that_leaves_in_mid_run(tmp_path):
    """One trace with spans of three nodes; the attempt on the node that left is tried again elsewhere."""
    assert "node_died" in _run(str(HERE / "ray_nodes.py"), str(tmp_path))


@pytest.mark.skipif("OTEL_EXEC_FAULTS" not in os.environ, reason="two clusters of its own: make faults, or OTEL_EXEC_FAULTS=1")
def test_a_head_that_goes_away(tmp_path):
    """One sentence and exit code 1, within seconds; the next run, on a new cluster, goes on."""
    assert "the next run went on" in _run(str(HERE / "ray_head.py"), str(tmp_path))


def _gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _tasks_open(prefix):
    opened = [entry for folder in prefix.glob(".otel_exec/runs/*/spans") for entry in read_all_open(str(folder)) if entry.kind == "task"]
    return {entry.node_id.rpartition("-")[0] + ("" if entry.item is None else f"/{entry.item}"): entry for entry in opened}


@pytest.mark.ray
def test_a_driver_that_is_killed(tmp_path, shared_ray):
    """Its steps and items on the cluster end within a minute, what they had started as well; its record knows that they executed; the next run takes what had finished, and succeeds."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environ |= {"RAY_ADDRESS": shared_ray.get_runtime_context().gcs_address, "PYTHONPATH": str(HERE.parent), "EVIDENCE": str(tmp_path)}
    command = [sys.executable, "-m", "faults.ray_experiment", "--executor", "ray", "--prefix", str(tmp_path / "out")]
    with open(tmp_path / "log", "wb") as log:
        driver = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=log, stderr=log)
    pids = [tmp_path / name for name in ("step.pid", "item.pid", "child.pid")]
    deadline = time.monotonic() + 120
    # It writes down what its workers tell of: the step's task and the item's.
    while not (all(path.exists() for path in pids) and {"long", "long/0"} <= (opened := _tasks_open(tmp_path / "out")).keys()):
        assert driver.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    killed_s = time.monotonic()
    while not all(_gone(int(path.read_text())) for path in pids):
        assert time.monotonic() - killed_s < 60, [(path.name, _gone(int(path.read_text()))) for path in pids]
        time.sleep(0.05)
    dead = read_run(list_runs(str(tmp_path / "out"))[-1])
    assert [(step.name, step.status) for step in dead.steps] == [("first", "SUCCESS"), ("long", "RUNNING")]
    (attempt,) = dead.steps[1].attempts
    assert attempt.start_ns == opened["long"].start_ns - int(dead.start_time_unix_nano)  # it was not loading since it was claimed
    assert attempt.start_ns + attempt.execution_ns == dead.duration_ns
    assert dead.workers[int(attempt.worker_id)].busy_ns >= attempt.execution_ns
    assert "SystemExit" not in (Path(dead.steps[1].output_path) / ".executor_status").read_text()
    print(f"gone after {time.monotonic() - killed_s:.1f} s")
    (tmp_path / "go").touch()
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    record = read_run(list_runs(str(tmp_path / "out"))[-1])
    check_run(record)
    assert outcomes(record) == {"first": "success", "long": "success"}
    assert [step.cached for step in record.steps] == [True, False]
    assert (tmp_path / "first.ran").read_text() == "x"
