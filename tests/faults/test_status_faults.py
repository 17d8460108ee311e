"""A run's status when things are taken away: the driver by SIGKILL, the folder, the reader by Ctrl-C; and two drivers on one prefix."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import two_hundred

from otel_exec.status import locate, status_now

SCRIPT = os.path.abspath(two_hundred.__file__)


def environment():
    return {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTHON", "COV_")) and name not in {"COLUMNS", "NO_COLOR"}}


def until(holds, what):
    deadline = time.monotonic() + 60
    while not (found := holds()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found


class HangingRun:
    """A driver whose last step never ends, from the moment when that step is in its innermost phase."""

    def __init__(self, prefix):
        self.prefix = str(prefix)
        os.makedirs(self.prefix, exist_ok=True)
        self.process = subprocess.Popen([sys.executable, SCRIPT, self.prefix, "hang"], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: os.path.exists(self.prefix + "/begun"), "the endless step never began")
        self.place = locate(self.prefix, prefix=self.prefix)

    def kill(self):
        self.process.kill()
        self.process.wait(30)


@pytest.fixture
def hanging(tmp_path):
    run = HangingRun(tmp_path / "outputs")
    yield run
    if run.process.poll() is None:
        run.kill()


def watching(run, *flags):
    return subprocess.Popen(
        [sys.executable, "-m", "otel_exec", "status", run.prefix, "--watch", *flags],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def test_after_kill_9_it_says_interrupted_and_names_the_open_step_and_its_phases(hanging):
    """While it runs the phases are named live; after SIGKILL of the driver the same are named from what mapped memory kept, in text and in JSON."""
    live = until(lambda: (status := status_now(hanging.place, time.time_ns())).open and status, "no step was ever open")
    assert live.state == "running"
    hanging.kill()
    done = subprocess.run(
        [sys.executable, "-m", "otel_exec", "status", hanging.prefix, "--json"], env=environment(), capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    told = json.loads(done.stdout)
    assert told["state"] == "interrupted"
    assert [(span["kind"], span["name"]) for span in told["open"]] == [("step", "endless"), ("phase", "outer"), ("phase", "endless")]
    assert {span["worker_id"] for span in told["open"]} <= {"0", "1"}
    assert told["progress"]["done"] == 1
    assert told["eta_ms"] is None
    text = subprocess.run(
        [sys.executable, "-m", "otel_exec", "status", hanging.prefix], env=environment(), capture_output=True, timeout=60, check=True
    ).stdout.decode()
    assert "State: interrupted" in text
    assert "endless on worker" in text
    assert "-> outer" in text


def test_watching_ends_when_the_driver_is_killed(hanging):
    """The last line says `interrupted`; every line is JSON; the exit code is 0."""
    watch = watching(hanging, "--json")
    first = json.loads(watch.stdout.readline())
    assert first["state"] == "running"
    hanging.kill()
    out, err = watch.communicate(timeout=60)
    lines = [json.loads(line) for line in out.splitlines()]
    assert (watch.returncode, err) == (0, b"")
    assert lines[-1]["state"] == "interrupted"
    assert [line["state"] for line in lines].count("interrupted") == 1


def test_watching_survives_that_the_folder_is_deleted(hanging):
    """One sentence, exit code 4, no traceback."""
    watch = watching(hanging)
    assert b"running" in watch.stdout.readline()
    os.rename(hanging.prefix, hanging.prefix + ".gone")  # while the driver lives: nothing but its folder is missing
    _, err = watch.communicate(timeout=60)
    said = err.decode()
    assert watch.returncode == 4
    assert "taken away" in said
    assert said.count("\n") == 1


def test_ctrl_c_leaves_the_watch_and_not_the_run(hanging):
    """Quietly, with exit code 130; the run goes on."""
    watch = watching(hanging)
    assert b"running" in watch.stdout.readline()
    watch.send_signal(signal.SIGINT)
    _, err = watch.communicate(timeout=60)
    assert (watch.returncode, err) == (130, b"")
    assert hanging.process.poll() is None


def test_two_drivers_on_one_prefix_have_a_status_each(tmp_path):
    """Each by its own id, neither with the other's steps; when one is killed the other still runs."""
    prefix = tmp_path / "outputs"
    one = HangingRun(prefix)
    other = subprocess.Popen([sys.executable, SCRIPT, str(prefix), "hang"], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        runs = prefix / ".otel_exec" / "runs"
        folders = until(lambda: len(found := [each for each in runs.iterdir() if (each / "run.json").exists()]) == 2 and found, "the second run never began")
        places = [locate(folder.name, prefix=str(prefix)) for folder in folders]
        states = {Path(place.folder).name: status_now(place, time.time_ns()) for place in places}
        assert {name: status.exec_id for name, status in states.items()} == {name: name for name in states}
        assert {status.state for status in states.values()} == {"running"}
        one.kill()
        mine = Path(one.place.folder).name
        after = {Path(place.folder).name: status_now(place, time.time_ns()).state for place in places}
        assert after.pop(mine) == "interrupted"
        assert list(after.values()) == ["running"]
    finally:
        for process in (one.process, other):
            if process.poll() is None:
                process.kill()
            process.wait(30)
