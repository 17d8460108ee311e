"""The steps that the benchmarks run: importable, so that they travel by name."""

from __future__ import annotations

import json
import time

from otel_exec import StepRef, deferred, map_tasks, step, versioned


def _work(index: int, seconds: float) -> None:
    if seconds:
        time.sleep(seconds)


run_work = deferred(_work)


@step(name="work/{index}")
def work(index: int, seconds: float) -> StepRef:
    return run_work(versioned(index), seconds)


def _nothing(_item: int) -> None:
    """Do nothing."""


def _fan_out(count: int, path: str) -> None:
    """Fan out over items that do nothing; say when it began and how long it took in a file."""
    began_ns, began = time.time_ns(), time.perf_counter()
    map_tasks(_nothing, range(count))
    with open(path, "w") as file:
        json.dump({"began_ns": began_ns, "took_s": time.perf_counter() - began}, file)


run_fan_out = deferred(_fan_out)


@step(name="items")
def items_of(count: int, path: str) -> StepRef:
    return run_fan_out(versioned(count), path)
