"""The step that the benchmarks run: importable, so that it travels by name."""

from __future__ import annotations

import time

from otel_exec import StepRef, deferred, step, versioned


def _work(index: int, seconds: float) -> None:
    if seconds:
        time.sleep(seconds)


run_work = deferred(_work)


@step(name="work/{index}")
def work(index: int, seconds: float) -> StepRef:
    return run_work(versioned(index), seconds)
