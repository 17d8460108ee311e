"""What the status costs: its share of a run, and how long `otel-exec status` takes.

    python bench/status.py [--rounds 3] [--steps 2000]

Runs of no-op steps in worker processes, with the status written and without, in turn; the median of the ratios of wall time and of the driver's CPU time, and what
the writing itself took of the run (wall time between begin and end of each write, the first and the last included). Then the command for the last run, from process start to last byte, beside `python -c pass`.
Shared machines: look at ratios, and at the share.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

_RUN = """
import json, os, sys, time
sys.path.insert(0, HERE)
import otel_exec as ox
from bench_steps import work
from otel_exec.driver import keeper
spent = {"live": 0, "edges": 0, "writes": 0}
live, write = keeper.Keeper._live_status, keeper.Keeper._write_status
def timed_live(self, runner, now_ns):
    if not WRITES:
        self._status_pace.done(now_ns, now_ns)
        return
    began = time.perf_counter_ns()
    live(self, runner, now_ns)
    spent["live"] += time.perf_counter_ns() - began
    spent["writes"] += 1
def timed_write(self, opened, began_ns, tally, left=None):
    began = time.perf_counter_ns()
    write(self, opened, began_ns, tally, left)
    if sys._getframe(1).f_code is not live.__code__:  # the first or the last one
        spent["edges"] += time.perf_counter_ns() - began
keeper.Keeper._live_status, keeper.Keeper._write_status = timed_live, timed_write
wall, cpu = time.perf_counter_ns(), time.process_time_ns()
record = ox.run([work(index, 0.0) for index in range(STEPS)], prefix="outputs", run_json="run.json", executor="processes", workers=2, name="bench")
print(json.dumps({"wall": record.duration_ns, "cpu": time.process_time_ns() - cpu, **spent}))
"""


def run_once(steps: int, *, writes: bool, folder: str) -> dict[str, int]:
    """Run the steps in a fresh interpreter and return what it took, nanoseconds."""
    code = _RUN.replace("HERE", repr(os.path.dirname(os.path.abspath(__file__)))).replace("WRITES", str(writes)).replace("STEPS", str(steps))
    shutil.rmtree(os.path.join(folder, "outputs"), ignore_errors=True)
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=folder).stdout
    found: dict[str, int] = json.loads(out.splitlines()[-1])
    if bool(found["writes"]) != writes:
        raise SystemExit(f"the status was written {found['writes']} times between begin and end: nothing was measured; take more --steps")
    return found


def wall_ms(argv: list[str], cwd: str) -> float:
    """Return how long a command takes, from its start to its end, with all that it prints read."""
    began = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, cwd=cwd)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2_000)
    given = parser.parse_args()
    command = shutil.which("otel-exec", path=os.path.dirname(sys.executable)) or "otel-exec"
    ratios: dict[str, list[float]] = {"wall": [], "cpu": []}
    shares, costs, counts = [], [], []
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.rounds):
            without = run_once(given.steps, writes=False, folder=folder)
            with_it = run_once(given.steps, writes=True, folder=folder)
            for key, found in ratios.items():
                found.append(with_it[key] / without[key])
            shares.append((with_it["live"] + with_it["edges"]) / with_it["wall"])
            costs.append(with_it["live"] / with_it["writes"] / 1e6)
            counts.append(with_it["writes"] / (with_it["wall"] / 1e9))
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "otel-exec status": [command, "status"],
            "otel-exec status --json": [command, "status", "--json"],
            "otel-exec status --tasks": [command, "status", "--tasks"],
        }
        for _ in range(given.rounds + 1):
            for name, argv in commands.items():
                times.setdefault(name, []).append(wall_ms(argv, folder))
    print(f"{given.steps:,} no-op steps, {given.rounds} rounds")
    for key, found in ratios.items():
        print(f"with the status written / without, {key:4}      median {statistics.median(found):.3f}   {min(found):.3f} to {max(found):.3f}")
    print(f"of the run spent on writing it              median {statistics.median(shares):.2%}   at most {max(shares):.2%}")
    print(f"one write                                   median {statistics.median(costs):.2f} ms   {statistics.median(counts):.1f} a second")
    for name, took in times.items():
        print(f"{name:40}    median {statistics.median(took[1:]):.0f} ms   min {min(took[1:]):.0f} ms")


if __name__ == "__main__":
    main()
