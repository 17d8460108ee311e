"""Runs for a long time, and watches memory, open files and threads of the driver; and sends a million phases through one run.

python tests/faults/soak.py --minutes 10 --spans 1000000
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from otel_exec import deferred, map_tasks, phase, run, step, timing_collector, versioned

MOST_DRIVER_BYTES = 300 << 20
# What may stay different between two thirds of a soak: an allocator's slack.
SLACK_BYTES = 8 << 20
# As many phases a task as have spans of their own.
PHASES_A_TASK = 10_000


@dataclass(frozen=True)
class Sample:
    """What the driver had after one run."""

    memory_bytes: int
    files: int
    threads: int


def sample() -> Sample:
    """Measure this process."""
    return Sample(psutil.Process().memory_info().rss, len(os.listdir("/proc/self/fd")), threading.active_count())


def _item(number: int) -> int:
    with phase("item"):
        return number


def _work(number: int) -> None:
    for _ in range(50):
        with phase("outer"), phase("inner"):
            pass
    if number % 5 == 0:
        map_tasks(_item, range(20))


work = deferred(_work)


@step("work/{number}")
def one(number: int) -> object:
    """A step."""
    return work(number=versioned(number))


def _many(number: int, count: int) -> None:
    for _ in range(count):
        with phase("one of a million"):
            pass


many = deferred(_many)


@step("many/{number}")
def crowd(number: int, count: int) -> object:
    """A step of many phases."""
    return many(number=versioned(number), count=count)


def soak(minutes: float, executor: str, base: Path) -> list[Sample]:
    """Run again and again for so long; returns a sample for each run after the first three."""
    samples = []
    ends = time.monotonic() + minutes * 60
    number = 0
    while time.monotonic() < ends or number < 9:
        prefix = base / f"soak-{number}"
        record = run([one(each) for each in range(40)], prefix=str(prefix), executor=executor, workers=2, run_json=str(base / "run.json"))
        timing_collector.pop(record.exec_id)  # else it keeps the sums of up to a thousand runs, as it must
        shutil.rmtree(prefix)
        number += 1
        if number > 3:
            samples.append(sample())
    return samples


def check_flat(samples: list[Sample]) -> str:
    """Return what grew between the first and the last third, "" for nothing."""
    third = len(samples) // 3
    first, last = samples[:third], samples[-third:]
    grew = statistics.median(each.memory_bytes for each in last) - statistics.median(each.memory_bytes for each in first)
    wrong = []
    if grew > SLACK_BYTES:
        wrong.append(f"memory grew by {grew / (1 << 20):.1f} MB over {len(samples)} runs")
    for name in ("files", "threads"):
        before, after = (max(getattr(each, name) for each in part) for part in (first, last))
        if after > before:
            wrong.append(f"{name} grew from {before} to {after}")
    return "; ".join(wrong)


def million(spans: int, base: Path) -> tuple[int, int, float]:
    """Send so many phases through one run; returns the driver's peak memory in bytes, how many spans the record knows of, and how long that took."""
    began = time.monotonic()
    tasks = max(1, spans // PHASES_A_TASK)
    record = run(
        [crowd(number, spans // tasks) for number in range(tasks)],
        prefix=str(base / "million"),
        executor="processes",
        workers=2,
        run_json=str(base / "run.json"),
    )
    counted = sum(phases.count for step in record.steps for phases in step.phases.values())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, counted, time.monotonic() - began


def main() -> None:
    """Soak as long as asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--spans", type=int, default=1_000_000)
    parser.add_argument("--executor", default="processes")
    asked = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="otel-exec-soak-"))
    peak, counted, took_s = million(asked.spans, base)
    print(f"soak: {counted:,} phases through one run in {took_s:.0f} s, driver at most {peak >> 20} MB", flush=True)
    samples = soak(asked.minutes, asked.executor, base)
    grew = check_flat(samples)
    first, last = samples[0], samples[-1]
    print(f"soak: {len(samples)} runs in {asked.minutes:g} min, first {first}, last {last}: {grew or 'flat'}")
    shutil.rmtree(base)
    sys.exit(bool(grew) or peak > MOST_DRIVER_BYTES or counted != asked.spans)


if __name__ == "__main__":
    main()
