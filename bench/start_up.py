"""How long a person waits: the command line from process start to last byte, and a plan of 10,000 steps.

    python bench/start_up.py [--rounds 7]

Each command is run in turn, round after round; the median and the smallest are printed, in milliseconds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

_PLAN = """
import time
began = time.perf_counter()
import otel_exec as ox
from otel_exec.plan.build import build_plan
work = ox.deferred(print)
@ox.step(name="work/{index}")
def step(index, src=None):
    return work({"n": ox.versioned(index), "src": src})
def chain(length):
    ref = None
    for index in range(length):
        ref = step(index, ref)
    return ref
SHAPE
plan = build_plan(refs, prefix="outputs")
assert len(plan.steps) == COUNT
print((time.perf_counter() - began) * 1000)
"""
_SHAPES = {
    "import and plan, 10,000 steps side by side": ("refs = [step(index) for index in range(10_000)]", 10_000),
    "import and plan, 10,000 steps, each on the one before, 100 chains": ("refs = [chain_of(n) for n in range(100)]", 10_000),
    "import and plan, a chain of 5,000": ("refs = [chain(5_000)]", 5_000),
}
_CHAINS = """
def chain_of(number):
    ref = None
    for index in range(100):
        ref = step(number * 100 + index, ref)
    return ref
"""


def wall_ms(argv: list[str], cwd: str) -> float:
    """Return how long a command takes, from its start to its end, with all that it prints read."""
    began = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, cwd=cwd)
    return (time.perf_counter() - began) * 1000


def plan_ms(shape: str, count: int) -> float:
    """Return how long importing and planning take inside a fresh interpreter."""
    code = _PLAN.replace("SHAPE", _CHAINS + shape).replace("COUNT", str(count))
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10_000)
    given = parser.parse_args()
    command = shutil.which("otel-exec", path=os.path.dirname(sys.executable)) or "otel-exec"
    with tempfile.TemporaryDirectory() as folder:
        here = os.path.dirname(os.path.abspath(__file__))
        run = subprocess.run(
            [sys.executable, os.path.join(here, "make_run.py"), str(given.steps), folder], check=True, capture_output=True, text=True, cwd=folder
        )
        print(run.stdout.strip())
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "otel-exec --help": [command, "--help"],
            f"otel-exec summary, {given.steps:,} steps": [command, "summary", "run.json"],
            f"otel-exec summary --json, {given.steps:,} steps": [command, "summary", "run.json", "--json"],
        }
        times: dict[str, list[float]] = {name: [] for name in [*commands, *_SHAPES]}
        for turn in range(given.rounds + 1):
            for name, argv in commands.items():
                times[name].append(wall_ms(argv, folder))
            for name, (shape, count) in _SHAPES.items():
                times[name].append(plan_ms(shape, count))
            if not turn:
                for found in times.values():
                    found.clear()
    for name, found in times.items():
        print(f"{name:70} median {statistics.median(found):7.0f} ms   min {min(found):7.0f} ms")


if __name__ == "__main__":
    main()
