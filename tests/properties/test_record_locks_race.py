"""Twenty real processes at one lock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from otel_exec.record import locks, process_id

RACE = str(Path(__file__).parent.parent / "support" / "lock_race.py")
PROCESSES = 20


def race(*arguments):
    """Run the race and return each process's answer."""
    done = subprocess.run([sys.executable, RACE, *map(str, arguments)], capture_output=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def dead_holder():
    """Return the id of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    holder = process_id._own(child.pid)
    child.communicate(b"\n")
    return holder


@pytest.mark.parametrize("kind", ["free", "dead", "stale", "torn", "longer"])
def test_of_many_that_ask_at_once_one_has_it(tmp_path, kind):
    """Of 20 processes that ask for 50 locks at the same moment exactly one gets each: free ones, a dead holder's, stale and torn ones."""
    holder = {
        "free": "",
        "dead": dead_holder() if kind == "dead" else "",
        "stale": "elsewhere:boot:1:1",
        "torn": locks.UNKNOWN,
        "longer": "elsewhere:boot:1:" + "1" * 200,
    }[kind]
    names = [f"step-{number:06d}" for number in range(50)]
    for name in names:
        path = tmp_path / name / ".executor_status.lock"
        path.parent.mkdir()
        if kind == "dead":
            path.write_text(json.dumps({"worker_id": holder, "timestamp": time.time()}))
        elif kind in ("stale", "longer"):
            path.write_text(json.dumps({"worker_id": holder, "timestamp": time.time() - 100}))
        elif kind == "torn":
            path.write_text('{"worker_')

            os.utime(path, (time.time() - 100,) * 2)
    answers = race("takeover", tmp_path, PROCESSES)
    taken = Counter(name for answer in answers for name, _ in answer)
    assert taken == Counter(names)
    assert {came_from for answer in answers for _, came_from in answer} == {holder}
    for name in names:
        assert json.loads((tmp_path / name / ".executor_status.lock").read_text())["timestamp"] > time.time() - 100


def test_one_at_a_time_is_inside(tmp_path):
    """Of 20 processes that take turns at one lock, never are two inside, and none loses its lease."""
    answers = race("turns", tmp_path, PROCESSES, 25)
    assert answers == [[0, 0]] * PROCESSES
    assert locks.peek(str(tmp_path)) == ""
