"""Kill random Ray workers in mid run, again and again: every run must end in success, redo nothing that had finished, and name the attempts that died.

    python tests/faults/ray_kills.py --kills 100 [--seed N]

The seed is printed first. What is checked of each run: that there was a kill, the outcome, the spans against the record (`check_run`), that who died are those that were killed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

for folder in ("tests", "tests/support"):
    sys.path.insert(0, str(Path(__file__).parents[2] / folder))

from support.ray_cluster import start
from support.run_checks import check_run

from otel_exec import deferred, map_tasks, phase, step
from otel_exec.testing import run_in


def _item(seconds):
    with phase("item work"):
        time.sleep(seconds)
    return seconds


def _work(config):
    with open(config["path"] + f".ran-{config['n']}", "a") as file:
        file.write("x")
    for _ in range(4):
        with phase("part"):
            time.sleep(0.15)
    while config["n"] == 0 and not os.path.exists(config["path"] + ".killed"):
        with phase("part"):
            time.sleep(0.15)
    if config["n"] % 3 == 0:
        with phase("fan"):
            map_tasks(_item, [0.05] * 6, retries=3)


work = deferred(_work)


@step("work/{n}", retries=6)
def working(n, path):
    return work({"n": n, "path": path})


class Killer(threading.Thread):
    """Sends SIGKILL to a random worker process of the run, at random moments, until told to stop."""

    def __init__(self, chance, most, path):
        super().__init__(daemon=True)
        self.chance, self.most, self.path = chance, most, path
        self.killed = []
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(self.chance.uniform(0.2, 1.2)) and len(self.killed) < self.most:
            pids = workers_of(os.getpid())
            if pids:
                pid = self.chance.choice(sorted(pids))
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                self.killed.append(pid)
                Path(self.path + ".killed").touch()


def workers_of(driver):
    """Return the pids of Ray workers below this driver that run an attempt (Ray names a process for what it runs)."""
    import psutil

    found = set()
    for process in psutil.Process(driver).children(recursive=True):
        try:
            if any(word in process.cmdline()[0] for word in ("ray::run_step_task", "ray::run_item_task", "ray::otel_exec")):
                found.add(process.pid)
        except (psutil.Error, IndexError):
            continue
    return found


def one_run(folder, chance, kills):
    """Run an experiment while its workers are killed; returns how many were."""
    path = os.path.join(folder, "m")
    killer = Killer(chance, kills, path)
    killer.start()
    record = run_in(folder, [working(n, path) for n in range(8)], executor="ray", timeout_s=300.0)
    killer.over.set()
    killer.join()
    assert record.outcome == "success", record.outcome
    check_run(record)
    died = [attempt for each in record.steps for attempt in each.attempts if attempt.error is not None and attempt.error.type == "worker_died"]
    pids = {worker.worker_id: worker.pid for worker in record.workers}
    assert killer.killed, "nobody was killed"
    assert len(died) <= len(killer.killed), (len(died), killer.killed)
    assert {worker.pid for worker in record.workers if worker.died} <= set(killer.killed)
    assert {pids[attempt.worker_id] for attempt in died if attempt.worker_id} <= set(killer.killed)
    for each in record.steps:
        ends = [attempt.outcome for attempt in each.attempts]
        # Who had written that the step is done, and died before it could report, is found out by the next attempt: it runs nothing.
        assert ends[-1] == "success" or each.cached, f"{each.name} came to {ends}"
        assert ends.count("success") <= 1, f"{each.name} was redone after it had finished"
    return len(killer.killed), len(died)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    chance = random.Random(seed)
    ray = start()
    killed = died = runs = 0
    try:
        while killed < given.kills:
            with tempfile.TemporaryDirectory() as folder:
                now_killed, now_died = one_run(folder, chance, min(4, given.kills - killed))
            killed, died, runs = killed + now_killed, died + now_died, runs + 1
            print(f"run {runs}: {killed} kills so far, {died} attempts at steps died", flush=True)
    finally:
        ray.shutdown()
    print(f"{runs} runs, {killed} kills, {died} attempts at steps died: every run succeeded (seed {seed})")


if __name__ == "__main__":
    main()
