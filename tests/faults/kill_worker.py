"""Kills workers with SIGKILL at random moments, and checks that runs succeed and nothing that had ended is missing.

python tests/faults/kill_worker.py --times 200 --seed 1
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import tempfile
import time
from pathlib import Path

import psutil
from faults.kill_driver import Killed
from support.run_checks import check_run

from otel_exec import read_run
from otel_exec.record.find import list_runs
from otel_exec.record.journal import read_journal
from otel_exec.spans.spool import read_spool

# So many deaths in one run: each step may be tried twenty times more, and a death is one try of what that worker had in hand.
_A_RUN = 8
_WORKERS = 2


def _workers(prefix: Path) -> list[int]:
    """Return the pids of the workers that are ready: where three in a row never come to be, the run ends, and rightly so."""
    pids: dict[str, int] = {}
    ready: dict[str, int] = {}
    for folder in list_runs(str(prefix)):
        for line in read_journal(folder):
            if line.what != "worker" or line.worker is None:
                continue
            if line.cause == "started":
                pids[line.worker] = line.data["pid"]
            elif line.cause == "ready":
                ready[line.worker] = pids[line.worker]
            else:
                ready.pop(line.worker, None)
    return sorted(ready.values())


def one_run(folder: Path, times: int, chance: random.Random) -> int:
    """Run, and kill at most so many workers; returns how many were killed."""
    run = Killed(folder, "processes", width=30, workers=_WORKERS)
    process = run.start()
    killed = 0
    while process.poll() is None:
        time.sleep(chance.uniform(0.02, 0.25))
        workers = _workers(run.prefix) if killed < times and run.said() else []
        if workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim = psutil.Process(chance.choice(workers))
                if victim.ppid() == process.pid and victim.status() != psutil.STATUS_ZOMBIE:
                    victim.kill()
                    killed += 1
    log = (folder / "log").read_text()
    assert process.returncode == 0, f"exit code {process.returncode}: {log[-3000:]}"
    record = read_run(str(run.prefix))
    check_run(record)
    there = {span.attributes.get("key") for span in read_spool(record.run_folder + "/spans")}
    ended = {line.removeprefix("phase ") for line in run.said() if line.startswith("phase ")}
    assert ended <= there, f"lost: {sorted(ended - there)}"
    died = [worker for worker in record.workers if worker.died]
    # One that is killed while it is being stopped, its work done, counts as stopped: at most all that there were at the end.
    assert killed - _WORKERS <= len(died) <= killed, f"{killed} were killed, the record has {len(died)}"
    return killed


def campaign(times: int, seed: int) -> int:
    """Kill so many workers; returns how many runs that took."""
    chance = random.Random(seed)
    base = Path(tempfile.mkdtemp(prefix="otel-exec-workers-"))
    left, runs = times, 0
    while left > 0:
        folder = base / f"run-{runs}"
        folder.mkdir()
        try:
            left -= one_run(folder, min(_A_RUN, left), chance)
        except BaseException as error:
            error.add_note(f"seed {seed}, run {runs}, kept in {folder}")
            raise
        runs += 1
        shutil.rmtree(folder)
    shutil.rmtree(base)
    return runs


def main() -> None:
    """Run the campaign that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    asked = parser.parse_args()
    print(f"kill_worker: seed {asked.seed}, {asked.times} kills", flush=True)
    runs = campaign(asked.times, asked.seed)
    print(f"kill_worker: {asked.times} workers were killed in {runs} runs; all succeeded, nothing that had ended is missing")


if __name__ == "__main__":
    main()
